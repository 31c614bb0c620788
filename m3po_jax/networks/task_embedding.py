"""The learned task embedding e_k."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.networks import layers

# Width of the hidden layer of the encoder of what the agent is told.
_WIDTH = 64


class TaskEmbedding(nn.Module):
    """One vector per task with a Euclidean norm of at most 1 (as in TD-MPC2).

    Attributes:
        num_tasks: Number of tasks K.
        features: Size E of the embedding.
        contexts: What the agent is told of each task, K tuples of C numbers or, where it is told
            nothing, of none. From these a small network computes the embedding, so that it has one
            for numbers that it never saw; the others have a row of a table.
    """

    num_tasks: int
    features: int
    contexts: tuple[tuple[float, ...], ...] = ()

    @nn.compact
    def __call__(self, task_id: jax.Array) -> jax.Array:
        """Maps task ids `[...]` to embeddings `[..., E]`."""
        init = nn.initializers.uniform(scale=1.0 / self.features)
        table = self.param("table", init, (self.num_tasks, self.features))
        if any(self.contexts):
            size = max(map(len, self.contexts))
            told = np.array([len(context) > 0 for context in self.contexts])
            padded = [context or (0.0,) * size for context in self.contexts]
            encoder = layers.MLP((_WIDTH,), self.features, name="context")
            table = jnp.where(told[:, None], encoder(jnp.array(padded, jnp.float32)), table)
        norm = jnp.sqrt(jnp.sum(table**2, axis=-1, keepdims=True) + 1e-12)
        return (table / jnp.maximum(norm, 1.0))[task_id]
