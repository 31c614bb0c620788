"""The learned task embedding e_k."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class TaskEmbedding(nn.Module):
    """One vector per task with a Euclidean norm of at most 1 (as in TD-MPC2).

    Attributes:
        num_tasks: Number of tasks K.
        features: Size E of the embedding.
    """

    num_tasks: int
    features: int

    @nn.compact
    def __call__(self, task_id: jax.Array) -> jax.Array:
        """Maps task ids `[...]` to embeddings `[..., E]`."""
        init = nn.initializers.uniform(scale=1.0 / self.features)
        table = self.param("table", init, (self.num_tasks, self.features))
        norm = jnp.sqrt(jnp.sum(table**2, axis=-1, keepdims=True) + 1e-12)
        return (table / jnp.maximum(norm, 1.0))[task_id]
