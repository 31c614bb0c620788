"""The updates of an iteration that learn from replay: of the world model, and of the policy."""

from functools import partial

import jax
import jax.numpy as jnp

from m3po_jax.learning import metrics as metrics_lib
from m3po_jax.learning import policy_update
from m3po_jax.learning.exploration_update import exploration_update
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.state import AgentState
from m3po_jax.learning.world_model_update import world_model_update
from m3po_jax.replay import buffer
from m3po_jax.types import Metrics, Window


def learn_from_replay(
    agent: AgentState,
    replay: buffer.ReplayState,
    key: jax.Array,
    num_updates: jax.Array,
    *,
    parts: Parts,
) -> tuple[AgentState, Metrics]:
    """`num_updates` updates of the world model and, unless its data are `real`, of the policy.

    Returns the agent and the metrics of all updates together (see `learning.metrics`).
    """
    once = partial(replay_update, parts=parts)
    _, shapes = jax.eval_shape(once, agent, replay, key)

    def body(index: jax.Array, carry: tuple[AgentState, Metrics]) -> tuple[AgentState, Metrics]:
        agent, total = carry
        agent, metrics = once(agent, replay, jax.random.fold_in(key, index))
        return agent, metrics_lib.add(total, metrics)

    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    agent, total = jax.lax.fori_loop(0, num_updates, body, (agent, zeros))
    return agent, metrics_lib.finish(total, num_updates)


def replay_update(
    agent: AgentState,
    replay: buffer.ReplayState,
    key: jax.Array,
    *,
    parts: Parts,
) -> tuple[AgentState, Metrics]:
    """One update from replay: world model and EMA, V_x, then the policy."""
    keys = jax.random.split(key, 4)
    window = sample_windows(replay, keys[0], parts)
    return update_from_windows(agent, window, keys[1:], parts=parts)


def sample_windows(replay: buffer.ReplayState, key: jax.Array, parts: Parts) -> Window:
    """The replayed windows of one update. The key is consumed."""
    return buffer.sample(
        replay,
        key,
        batch_size=parts.config.world_model.batch_size,
        window=parts.config.world_model.horizon,
        layout=parts.env.layout,
        weights=parts.env.replay_weights,
        axis_name=parts.axis_name,
    )


def update_from_windows(
    agent: AgentState,
    window: Window,
    keys: jax.Array,
    *,
    parts: Parts,
) -> tuple[AgentState, Metrics]:
    """One update of world model and EMA, V_x, then the policy; three keys `[3]` are consumed."""
    agent, z, model_metrics = world_model_update(agent, window, keys[0], parts=parts)
    metrics = dict(model_metrics)
    if parts.config.has_bonus:
        agent, exploration_metrics = exploration_update(agent, window, z, parts=parts)
        metrics.update(exploration_metrics)
    agent, policy_metrics = policy_from_replay(agent, z, window.task_id, keys[1:], parts=parts)
    metrics.update(policy_metrics)
    return agent, metrics


def policy_from_replay(
    agent: AgentState,
    z: jax.Array,
    task_id: jax.Array,
    keys: jax.Array,
    *,
    parts: Parts,
) -> tuple[AgentState, Metrics]:
    """One update of the policy from latents of replayed windows; none if its data are `real`.

    Args:
        agent: The agent.
        z: Latents of all observations of the windows `[W + 1, B, Z]`.
        task_id: Their tasks `[B]`.
        keys: Two keys `[2]`, for the data and the update; consumed.
        parts: What the iteration is made of.
    """
    data_key, policy_key = keys
    if parts.config.policy.objective == "pathwise":
        return policy_update.pathwise_policy_update(agent, z, task_id, policy_key, parts=parts)
    if parts.config.policy.data != "imagined":
        return agent, {}
    data = policy_update.imagined_policy_data(agent, z[0], task_id, data_key, parts=parts)
    return policy_update.policy_update(agent, data, policy_key, parts=parts)
