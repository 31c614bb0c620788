"""The values that an agent knows: by its world model, without it, and of exploring."""

import jax
import jax.numpy as jnp

from m3po_jax.learning.state import AgentState
from m3po_jax.networks.factory import Networks
from m3po_jax.ops import two_hot
from m3po_jax.types import Params, Trajectory
from m3po_jax.world_model.latent import TaskContext, WorldModelLatent


def online_model(networks: Networks, agent: AgentState) -> WorldModelLatent:
    """The latent model that values with the Q heads that are trained."""
    params = agent.params
    return WorldModelLatent(params.world_model, params.world_model["q"], params.policy, networks)


def target_model(networks: Networks, agent: AgentState) -> WorldModelLatent:
    """The latent model that values with the EMA heads."""
    params = agent.params
    return WorldModelLatent(params.world_model, agent.target_q, params.policy, networks)


def model_free_value(
    networks: Networks, agent: AgentState, z: jax.Array, e: jax.Array
) -> jax.Array:
    """V_mf(z, e) `[...]`."""
    return two_hot.decode(networks.value_logits(agent.params.critic, z, e), networks.support)


def novelty_value(
    networks: Networks, params: Params, z: jax.Array, context: TaskContext
) -> jax.Array:
    """V_x(z) `[...]`: the discounted bonus that can be expected from there on."""
    e = jnp.broadcast_to(context.e, (*z.shape[:-1], context.e.shape[-1]))
    return two_hot.decode(networks.exploration_logits(params, z, e), networks.support)


def continues(trajectory: Trajectory) -> jax.Array:
    """What `ops.returns` calls `continue_t`, `[T, B]`: 0 where the next row must not count.

    That is where the episode ended, and before a step whose physics failed: such a row holds
    neither the reward nor the successor of its state, so the step before it bootstraps from the
    value of its own successor, as at a truncation.
    """
    ended = jnp.maximum(trajectory.termination, trajectory.truncation)
    next_valid = jnp.concatenate([trajectory.valid[1:], jnp.ones_like(trajectory.valid[:1])])
    return (1.0 - ended) * next_valid
