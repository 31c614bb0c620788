"""What world model, policy and critics see of observations."""

import jax
import jax.numpy as jnp

from m3po_jax.learning.state import AgentState
from m3po_jax.networks.factory import Networks
from m3po_jax.ops.observation_moments import normalize_observation
from m3po_jax.types import Trajectory, Window
from m3po_jax.world_model.latent import TaskContext, task_context


def normalized(
    networks: Networks, agent: AgentState, observation: jax.Array, task_id: jax.Array
) -> jax.Array:
    """Observations `[..., O]` of tasks `[...]` as the encoder of latents reads them."""
    if not networks.normalize_observations:
        return observation
    return normalize_observation(agent.statistics.observation, observation, task_id)


def normalized_window(networks: Networks, agent: AgentState, window: Window) -> Window:
    """Replayed steps with the observations that the encoder reads."""
    tasks = jnp.broadcast_to(window.task_id, window.reward.shape)
    return window.replace(
        observation=normalized(networks, agent, window.observation, tasks),
        next_observation=normalized(networks, agent, window.next_observation, tasks),
    )


def perceive(
    networks: Networks, agent: AgentState, observation: jax.Array, task_id: jax.Array
) -> tuple[TaskContext, jax.Array]:
    """What policy and critics see of observations `[..., O]` of tasks `[...]`.

    Returns:
        The task contexts and `z`: the latents `[..., Z]` or, with the encoder `observation`, the
        normalised observations `[..., O]`, and then one-hot task ids as embeddings.
    """
    if networks.encoder == "observation":
        e = jax.nn.one_hot(task_id, networks.world_model.num_tasks)
        context = TaskContext(e, networks.action_mask(task_id))
        moments = agent.statistics.observation
        return context, normalize_observation(moments, observation, task_id)
    params = agent.params.world_model
    context = task_context(networks, params, task_id)
    seen = normalized(networks, agent, observation, task_id)
    return context, networks.encode(params, seen, context.e)


def encode_trajectory(
    networks: Networks, agent: AgentState, trajectory: Trajectory
) -> tuple[TaskContext, jax.Array, jax.Array]:
    """Contexts `[T, B, ...]`, latents and latents of the true successors `[T, B, Z]`."""
    context, z = perceive(networks, agent, trajectory.observation, trajectory.task_id)
    _, z_next = perceive(networks, agent, trajectory.next_observation, trajectory.task_id)
    return context, z, z_next
