"""The updates of an iteration that learn from replay: of the world model, and of the policy."""

from functools import partial

import jax
import jax.numpy as jnp

from m3po_jax.learning import policy_update, update
from m3po_jax.learning.state import AgentState, Parts
from m3po_jax.replay import buffer
from m3po_jax.types import Metrics, Window


def learn_from_replay(
    agent: AgentState,
    replay: buffer.ReplayState,
    key: jax.Array,
    num_updates: jax.Array,
    *,
    parts: Parts,
    beta: jax.Array | None,
) -> tuple[AgentState, Metrics]:
    """`num_updates` updates of the world model and, unless its data are `real`, of the policy.

    Returns the metrics averaged over the updates (NaN if there was none); names that end in
    `_max` are maxima, those that end in `/skipped` are sums.
    """
    once = partial(replay_update, parts=parts, beta=beta)
    _, shapes = jax.eval_shape(once, agent, replay, key)

    def body(index: jax.Array, carry: tuple[AgentState, Metrics]) -> tuple[AgentState, Metrics]:
        agent, total = carry
        agent, metrics = once(agent, replay, jax.random.fold_in(key, index))
        add = {
            name: jnp.maximum(total[name], value) if name.endswith("_max") else total[name] + value
            for name, value in metrics.items()
        }
        return agent, add

    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    agent, total = jax.lax.fori_loop(0, num_updates, body, (agent, zeros))
    count = jnp.where(num_updates > 0, num_updates.astype(jnp.float32), jnp.nan)

    def finish(name: str, x: jax.Array) -> jax.Array:
        if name.endswith(update.SKIPPED):
            return x
        return x + 0.0 * count if name.endswith("_max") else x / count

    return agent, {name: finish(name, value) for name, value in total.items()}


def replay_update(
    agent: AgentState,
    replay: buffer.ReplayState,
    key: jax.Array,
    *,
    parts: Parts,
    beta: jax.Array | None,
) -> tuple[AgentState, Metrics]:
    """One update from replay: world model and EMA, then the policy."""
    keys = jax.random.split(key, 4)
    window = sample_windows(replay, keys[0], parts)
    return update_from_windows(agent, window, keys[1:], parts=parts, beta=beta)


def sample_windows(replay: buffer.ReplayState, key: jax.Array, parts: Parts) -> Window:
    """The replayed windows of one update. The key is consumed."""
    env, _, _, cfg = parts
    return buffer.sample(
        replay,
        key,
        batch_size=cfg.world_model.batch_size,
        window=cfg.world_model.horizon,
        layout=env.layout,
        weights=env.replay_weights,
        axis_name=env.axis_name,
    )


def update_from_windows(
    agent: AgentState,
    window: Window,
    keys: jax.Array,
    *,
    parts: Parts,
    beta: jax.Array | None,
) -> tuple[AgentState, Metrics]:
    """One update of world model and EMA, then of the policy; three keys `[3]` are consumed."""
    env, networks, optimizers, cfg = parts
    discount = jnp.asarray(env.discount)[window.task_id]
    agent, z, model_metrics = update.world_model_update(
        networks,
        optimizers.world_model,
        agent,
        window,
        discount,
        keys[0],
        cfg=cfg,
        axis_name=env.axis_name,
    )
    agent, policy_metrics = policy_from_replay(
        agent, z, window.task_id, keys[1:], parts=parts, beta=beta
    )
    return agent, {**model_metrics, **policy_metrics}


def policy_from_replay(
    agent: AgentState,
    z: jax.Array,
    task_id: jax.Array,
    keys: jax.Array,
    *,
    parts: Parts,
    beta: jax.Array | None,
) -> tuple[AgentState, Metrics]:
    """One update of the policy from latents of replayed windows; none if its data are `real`.

    Args:
        agent: The agent.
        z: Latents of all observations of the windows `[W + 1, B, Z]`.
        task_id: Their tasks `[B]`.
        keys: Two keys `[2]`, for the data and the update; consumed.
        parts: What the iteration is made of.
        beta: Weight of the bonus, or `None`.
    """
    env, networks, optimizers, cfg = parts
    data_key, policy_key = keys
    axis_name = env.axis_name
    if cfg.policy.objective == "pathwise":
        agent, metrics = policy_update.pathwise_policy_update(
            networks,
            optimizers.policy,
            agent,
            z,
            task_id,
            policy_key,
            beta=beta,
            cfg=cfg,
            axis_name=axis_name,
        )
        return agent, policy_update.trust_region_metrics(metrics, None, cfg, axis_name)
    if cfg.policy.data != "imagined":
        return agent, {}
    data = policy_update.imagined_policy_data(
        networks,
        agent,
        z[0],
        task_id,
        jnp.asarray(env.discount)[task_id],
        data_key,
        beta=beta,
        cfg=cfg,
        axis_name=axis_name,
    )
    agent, metrics = policy_update.policy_update(
        networks, optimizers.policy, agent, data, policy_key, cfg=cfg, axis_name=axis_name
    )
    return agent, policy_update.trust_region_metrics(metrics, data, cfg, axis_name)
