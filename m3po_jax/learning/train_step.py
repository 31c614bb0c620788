"""One training iteration: collect, store, learn. Everything here runs in one compiled program."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.config import Config
from m3po_jax.envs.by_task import ByTaskEnv
from m3po_jax.envs.multitask import MultiTaskEnv, Timestep
from m3po_jax.learning import policy_update, replay_updates, rollout, update
from m3po_jax.learning.state import AgentState, Parts, RolloutState, TrainState
from m3po_jax.ops import observation_moments, statistics
from m3po_jax.policy.exploration import exploration_weight
from m3po_jax.replay import buffer
from m3po_jax.types import Metrics, Trajectory

# Bound on the updates of one iteration, in units of what its own data are worth: a stop waits for
# the iteration to end.
MAX_CATCH_UP = 3.0
TrainStep = Callable[[TrainState], tuple[TrainState, Metrics]]


class Collected(NamedTuple):
    """What one unroll gave."""

    rollout: RolloutState
    trajectory: Trajectory
    timesteps: Timestep  # [T, B, ...]
    return_spread: jax.Array  # [T, B] of the planner's populations


def env_steps_per_iteration(env: MultiTaskEnv, cfg: Config) -> int:
    """Simulator steps of one iteration, over all tasks and environments, repeats counted."""
    per_step = sum(n * spec.action_repeat for n, spec in zip(env.num_envs, env.specs, strict=True))
    return per_step * env.num_shards * cfg.env.unroll_length


def num_iterations(env: MultiTaskEnv, cfg: Config) -> int:
    """Iterations until `train.total_env_steps` is reached or passed."""
    return -(-cfg.train.total_env_steps // env_steps_per_iteration(env, cfg))


def make_train_step(parts: Parts) -> TrainStep:
    """Binds the iteration to its parts; compile it with `jax.jit(..., donate_argnums=0)`."""

    def train_step(state: TrainState) -> tuple[TrainState, Metrics]:
        return learn(state, collect(state, parts), parts)

    return train_step


def collect(state: TrainState, parts: Parts, *, by_task: ByTaskEnv | None = None) -> Collected:
    """Collects one unroll, in the first iterations with random actions.

    With `by_task` each device steps whole tasks meanwhile; what comes in and out is the same.
    """
    env, networks, _, cfg = parts
    _, key, _, _ = _keys(state)
    random, beta = _schedule(state, env, cfg)
    act = partial(rollout.collect, networks=networks, key=key, beta=beta, random=random, cfg=cfg)
    if by_task is None:
        return Collected(*act(env, agent=state.agent, rollout=state.rollout))
    start = RolloutState(*by_task.enter(state.rollout.env, state.rollout.plan_mean))
    end, trajectory, timesteps, spread = act(by_task, agent=state.agent, rollout=start)
    env_state, plan_mean, given = by_task.leave(
        end.env, end.plan_mean, (trajectory, timesteps, spread)
    )
    return Collected(RolloutState(env_state, plan_mean), *given)


def learn(state: TrainState, collected: Collected, parts: Parts) -> tuple[TrainState, Metrics]:
    """Stores what was collected, and learns from it and from replay.

    While actions are random nothing is learned; the updates that these data are worth are made up
    for afterwards, at most `MAX_CATCH_UP` times the usual number at once.
    """
    env, _, _, cfg = parts
    key, _, fresh_key, replay_key = _keys(state)
    random, beta = _schedule(state, env, cfg)
    trajectory, axis_name = collected.trajectory, env.axis_name
    replay = buffer.add(state.replay, trajectory)
    agent = update_plan_scale(state.agent, trajectory, collected.return_spread, axis_name=axis_name)
    learn_fresh = partial(learn_from_rollout, parts=parts, beta=beta)
    agent, fresh_metrics = _skip_if(random, learn_fresh, agent, trajectory, fresh_key)
    if not cfg.has_model:
        agent = update_observation_moments(agent, trajectory, axis_name=axis_name)

    usual = cfg.train.updates_per_transition * trajectory.reward.size * env.num_shards
    debt = state.update_debt + usual
    num_updates = jnp.minimum(jnp.floor(debt), math.ceil(MAX_CATCH_UP * usual))
    num_updates = jnp.where(random, 0, num_updates.astype(jnp.int32))
    replay_metrics: Metrics = {}
    if cfg.has_model:
        agent, replay_metrics = replay_updates.learn_from_replay(
            agent, replay, replay_key, num_updates, parts=parts, beta=beta
        )
    new_state = TrainState(
        agent=agent,
        rollout=collected.rollout,
        replay=replay,
        key=key,
        iteration=state.iteration + 1,
        updates=state.updates + num_updates,
        update_debt=debt - num_updates.astype(jnp.float32),
    )
    metrics = {**rollout_metrics(env, collected.timesteps), **fresh_metrics, **replay_metrics}
    metrics["plan/return_scale"] = agent.statistics.plan_scale.mean
    metrics["exploration/beta"] = jnp.zeros(()) if beta is None else beta
    metrics["updates"] = new_state.updates
    return new_state, metrics


def bonus_weight(env_steps: jax.Array, cfg: Config) -> jax.Array | None:
    """Beta now, or `None` if it is zero throughout, so that nothing of the bonus is computed."""
    if not cfg.has_bonus:
        return None
    start, end = cfg.exploration.beta_start, cfg.exploration.beta_end
    return exploration_weight(env_steps / cfg.train.total_env_steps, start=start, end=end)


def _keys(state: TrainState) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys of the next iteration, of collecting, of learning from it and from replay."""
    key, collect_key, fresh_key, replay_key = jax.random.split(state.key, 4)
    return key, collect_key, fresh_key, replay_key


def _schedule(
    state: TrainState, env: MultiTaskEnv, cfg: Config
) -> tuple[jax.Array, jax.Array | None]:
    """Whether actions are random now, and the weight of the bonus."""
    env_steps = state.iteration.astype(jnp.float32) * env_steps_per_iteration(env, cfg)
    return env_steps < cfg.train.warmup_env_steps, bonus_weight(env_steps, cfg)


def update_plan_scale(
    agent: AgentState,
    trajectory: Trajectory,
    spread: jax.Array,
    *,
    axis_name: tuple[str, ...] = (),
) -> AgentState:
    """Folds the spreads of the plans `[T, B]` into the per-task scale; 0 means unplanned."""
    plan_scale = statistics.update_running_moments(
        agent.statistics.plan_scale,
        spread,
        trajectory.task_id,
        (spread > 0.0) & jnp.isfinite(spread),
        decay=update.STATISTICS_DECAY,
        axis_name=axis_name,
    )
    return agent.replace(statistics=agent.statistics.replace(plan_scale=plan_scale))


def update_observation_moments(
    agent: AgentState, trajectory: Trajectory, *, axis_name: tuple[str, ...] = ()
) -> AgentState:
    """Folds the rollout into the moments that normalise observations.

    It comes after learning: the policy that is improved must be the one that collected.
    """
    observation = observation_moments.update_observation_moments(
        agent.statistics.observation,
        trajectory.observation,
        trajectory.task_id,
        trajectory.valid,
        axis_name=axis_name,
    )
    return agent.replace(statistics=agent.statistics.replace(observation=observation))


def learn_from_rollout(
    agent: AgentState,
    trajectory: Trajectory,
    key: jax.Array,
    *,
    parts: Parts,
    beta: jax.Array | None,
) -> tuple[AgentState, Metrics]:
    """What needs fresh data: the `real` policy update, V_mf, and the bonus with its critic.

    V_mf is trained where something uses it: the `real` policy update or the bonus.

    The policy goes first: its old latents, values and probabilities are those that collected.
    """
    env, networks, optimizers, cfg = parts
    keys = jax.random.split(key, 3)
    discount = jnp.asarray(env.discount)[env.task_id]
    axis_name = env.axis_name
    metrics: dict[str, jax.Array] = {}
    if cfg.learns_from_real:
        data = policy_update.real_policy_data(
            networks, agent, trajectory, discount, beta=beta, cfg=cfg, axis_name=axis_name
        )
        agent, policy_metrics = policy_update.policy_update(
            networks, optimizers.policy, agent, data, keys[0], cfg=cfg, axis_name=axis_name
        )
        metrics.update(policy_update.trust_region_metrics(policy_metrics, data, cfg, axis_name))
    fresh = (trajectory, discount)
    if cfg.has_critic:
        agent, critic_metrics = update.critic_update(
            networks, optimizers.critic, agent, *fresh, keys[1], cfg=cfg, axis_name=axis_name
        )
        metrics.update(critic_metrics)
    if beta is not None:
        agent, exploration_metrics = update.exploration_update(
            networks, optimizers.exploration, agent, *fresh, keys[2], cfg=cfg, axis_name=axis_name
        )
        metrics.update(exploration_metrics)
    return agent, metrics


def rollout_metrics(env: MultiTaskEnv, timesteps: Timestep) -> Metrics:
    """Per task `[K]`: mean return and length of episodes that ended, their number, faults."""
    num_tasks = len(env.specs)
    task_id = jnp.broadcast_to(env.task_id, timesteps.reward.shape)

    def moments(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return statistics.per_task_moments(
            x, task_id, mask, num_tasks=num_tasks, axis_name=env.axis_name
        )

    complete = timesteps.episode_complete
    episode_return, _, episodes = moments(timesteps.episode_return, complete)
    length, _, _ = moments(timesteps.episode_length.astype(jnp.float32), complete)
    valid_fraction, _, count = moments(timesteps.valid, jnp.ones_like(timesteps.valid))
    reward, _, _ = moments(timesteps.reward, timesteps.valid)
    none = jnp.where(episodes > 0.0, 0.0, jnp.nan)
    return {
        "rollout/episode_return": episode_return + none,
        "rollout/episode_length": length + none,
        "rollout/episodes": episodes,
        "rollout/reward": reward,
        "rollout/faults": count * (1.0 - valid_fraction),
    }


def _skip_if(
    skip: jax.Array,
    learn: Callable[[AgentState, Trajectory, jax.Array], tuple[AgentState, Metrics]],
    agent: AgentState,
    trajectory: Trajectory,
    key: jax.Array,
) -> tuple[AgentState, Metrics]:
    """`learn`, or the agent as it is with NaN metrics."""
    _, shapes = jax.eval_shape(learn, agent, trajectory, key)
    nothing = {
        name: jnp.full(shape.shape, 0.0 if name.endswith(update.SKIPPED) else jnp.nan)
        for name, shape in shapes.items()
    }
    return jax.lax.cond(skip, lambda a, t, k: (a, nothing), learn, agent, trajectory, key)
