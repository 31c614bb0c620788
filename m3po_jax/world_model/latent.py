"""The learned world model behind the `LatentModel` protocol."""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from m3po_jax.networks.factory import Networks
from m3po_jax.ops import two_hot
from m3po_jax.types import Params


class TaskContext(NamedTuple):
    """What the modules must know of the task; leading axes broadcast against the latent's."""

    e: jax.Array  # [..., E] task embedding
    action_mask: jax.Array  # [..., A]
    can_terminate: jax.Array | None = None  # [..., 1] 0 or 1; None if it is the same for all tasks


@flax.struct.dataclass
class WorldModelLatent:
    """`LatentModel` of the world model, the Q ensemble and the policy prior.

    Attributes:
        world_model: World-model parameters.
        q: Parameters of the Q heads that value: online or EMA ones.
        policy_params: Policy parameters.
        networks: The bundle.
    """

    world_model: Params
    q: Params
    policy_params: Params
    networks: Networks = flax.struct.field(pytree_node=False)

    def next(
        self, z: jax.Array, u: jax.Array, context: TaskContext
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `LatentModel.next`; a task that cannot terminate continues for certain."""
        e, a = self._inputs(z, u, context)
        networks, params = self.networks, self.world_model
        z_next = networks.apply_model(params, "next_latent", z, a, e)
        logits = networks.apply_model(params, "reward_logits", z, a, e)
        reward = two_hot.decode(logits, networks.support)
        if not networks.world_model.has_termination:
            return z_next, reward, jnp.ones_like(reward)
        logit = networks.apply_model(params, "termination_logit", z, a, e)
        continuation = jax.nn.sigmoid(-logit)
        if context.can_terminate is not None:
            can_terminate = _broadcast(context.can_terminate, z)[..., 0]
            continuation = jnp.where(can_terminate > 0.0, continuation, 1.0)
        return z_next, reward, continuation

    def values(self, z: jax.Array, u: jax.Array, context: TaskContext) -> jax.Array:
        """Value by each head `[num_q, ...]`."""
        e, a = self._inputs(z, u, context)
        logits = self.networks.q_logits(self.q, z, a, e)
        return two_hot.decode(logits, self.networks.support)

    def two_heads(self, key: jax.Array) -> "WorldModelLatent":
        """This model with two of its heads (see `two_heads`)."""
        return dataclasses.replace(self, q=two_heads(self.q, key))

    def value(self, z: jax.Array, u: jax.Array, context: TaskContext) -> jax.Array:
        """Mean over the heads; see `LatentModel.value`."""
        return jnp.mean(self.values(z, u, context), axis=0)

    def policy(self, z: jax.Array, context: TaskContext) -> tuple[jax.Array, jax.Array]:
        """See `LatentModel.policy`."""
        e = _broadcast(context.e, z)
        mask = _broadcast(context.action_mask, z)
        return self.networks.policy(self.policy_params, z, e, mask)

    def guesses(self, z: jax.Array, u: jax.Array, context: TaskContext) -> jax.Array:
        """The next latent as each explorer expects it `[num_explorers, ..., Z]`."""
        e, a = self._inputs(z, u, context)
        guesses: jax.Array = self.networks.apply_model(self.world_model, "guesses", z, a, e)
        return guesses

    def state_value(self, z: jax.Array, context: TaskContext) -> jax.Array:
        """V_mb(z) = mean_i Q_i(z, pi(z)) `[...]`, pi at its mean."""
        mean, _ = self.policy(z, context)
        return self.value(z, mean, context)

    def _inputs(
        self, z: jax.Array, u: jax.Array, context: TaskContext
    ) -> tuple[jax.Array, jax.Array]:
        return _broadcast(context.e, z), jnp.tanh(u) * _broadcast(context.action_mask, z)


def two_heads(q: Params, key: jax.Array) -> Params:
    """Parameters of two heads of a Q ensemble, drawn without replacement if there are more.

    Where the ensemble is asked often, two stand for all of it, as in TD-MPC2 (arXiv 2310.16828):
    the mean stays the same on average, and a larger ensemble costs no more. The key is consumed.
    """
    num_heads = jax.tree.leaves(q)[0].shape[0]
    if num_heads == 2:
        return q
    heads = jax.random.permutation(key, num_heads)[:2]
    return jax.tree.map(lambda x: x[heads], q)


def task_context(networks: Networks, world_model: Params, task_id: jax.Array) -> TaskContext:
    """Context of tasks `[...]`. No gradient reaches the embedding through it."""
    e = jax.lax.stop_gradient(networks.embed(world_model, task_id))
    return TaskContext(e, networks.action_mask(task_id), networks.can_terminate(task_id))


def _broadcast(x: jax.Array, z: jax.Array) -> jax.Array:
    return jnp.broadcast_to(x, (*z.shape[:-1], x.shape[-1]))
