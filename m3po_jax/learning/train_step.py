"""One training iteration: collect, store, learn. Everything here runs in one compiled program."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.config import Config
from m3po_jax.envs.by_task import ByTaskEnv
from m3po_jax.envs.multitask import Timestep
from m3po_jax.learning import metrics as metrics_lib
from m3po_jax.learning import policy_update, rollout
from m3po_jax.learning.critic_update import critic_update
from m3po_jax.learning.exploration_update import exploration_update
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.replay_updates import learn_from_replay
from m3po_jax.learning.state import STATISTICS_DECAY, AgentState, RolloutState, TrainState
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


def make_train_step(parts: Parts) -> TrainStep:
    """Binds the iteration to its parts; compile it with `jax.jit(..., donate_argnums=0)`."""

    def train_step(state: TrainState) -> tuple[TrainState, Metrics]:
        return learn(state, collect(state, parts), parts)

    return train_step


def collect(state: TrainState, parts: Parts, *, by_task: ByTaskEnv | None = None) -> Collected:
    """Collects one unroll, in the first iterations with random actions.

    With `by_task` each device steps whole tasks meanwhile; what comes in and out is the same.
    """
    _, key, _, _ = _keys(state)
    random, beta = _schedule(state, parts)
    act = partial(rollout.collect, key=key, parts=parts, beta=beta, random=random)
    if by_task is None:
        return Collected(*act(parts.env, agent=state.agent, rollout=state.rollout))
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
    config, trajectory = parts.config, collected.trajectory
    key, _, fresh_key, replay_key = _keys(state)
    random, beta = _schedule(state, parts)
    replay = buffer.add(state.replay, trajectory)
    agent = update_plan_scale(state.agent, trajectory, collected.return_spread, parts)
    learn_fresh = partial(learn_from_rollout, parts=parts, beta=beta)
    agent, fresh_metrics = _skip_if(random, learn_fresh, agent, trajectory, fresh_key)
    if not config.has_model:
        agent = update_observation_moments(agent, trajectory, parts)

    usual = config.train.updates_per_transition * trajectory.reward.size * parts.env.num_shards
    debt = state.update_debt + usual
    num_updates = jnp.minimum(jnp.floor(debt), math.ceil(MAX_CATCH_UP * usual))
    num_updates = jnp.where(random, 0, num_updates.astype(jnp.int32))
    replay_metrics: Metrics = {}
    if config.has_model:
        agent, replay_metrics = learn_from_replay(
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
    rollout_metrics = metrics_lib.rollout_metrics(collected.timesteps, parts)
    metrics = {**rollout_metrics, **fresh_metrics, **replay_metrics}
    metrics["plan/return_scale"] = agent.statistics.plan_scale.mean
    metrics["exploration/beta"] = jnp.zeros(()) if beta is None else beta
    metrics["updates"] = new_state.updates
    return new_state, metrics


def bonus_weight(env_steps: jax.Array, config: Config) -> jax.Array | None:
    """Beta now, or `None` if it is zero throughout, so that nothing of the bonus is computed."""
    if not config.has_bonus:
        return None
    start, end = config.exploration.beta_start, config.exploration.beta_end
    return exploration_weight(env_steps / config.train.total_env_steps, start=start, end=end)


def _keys(state: TrainState) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys of the next iteration, of collecting, of learning from it and from replay."""
    key, collect_key, fresh_key, replay_key = jax.random.split(state.key, 4)
    return key, collect_key, fresh_key, replay_key


def _schedule(state: TrainState, parts: Parts) -> tuple[jax.Array, jax.Array | None]:
    """Whether actions are random now, and the weight of the bonus."""
    env_steps = state.iteration.astype(jnp.float32) * parts.env_steps_per_iteration
    random = env_steps < parts.config.train.warmup_env_steps
    return random, bonus_weight(env_steps, parts.config)


def update_plan_scale(
    agent: AgentState, trajectory: Trajectory, spread: jax.Array, parts: Parts
) -> AgentState:
    """Folds the spreads of the plans `[T, B]` into the per-task scale; 0 means unplanned."""
    plan_scale = statistics.update_running_moments(
        agent.statistics.plan_scale,
        spread,
        trajectory.task_id,
        (spread > 0.0) & jnp.isfinite(spread),
        decay=STATISTICS_DECAY,
        axis_name=parts.axis_name,
    )
    return agent.replace(statistics=agent.statistics.replace(plan_scale=plan_scale))


def update_observation_moments(
    agent: AgentState, trajectory: Trajectory, parts: Parts
) -> AgentState:
    """Folds the rollout into the moments that normalise observations.

    It comes after learning: the policy that is improved must be the one that collected.
    """
    observation = observation_moments.update_observation_moments(
        agent.statistics.observation,
        trajectory.observation,
        trajectory.task_id,
        trajectory.valid,
        axis_name=parts.axis_name,
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
    keys = jax.random.split(key, 3)
    discount = jnp.asarray(parts.env.discount)[parts.env.task_id]
    fresh = (trajectory, discount)
    metrics: dict[str, jax.Array] = {}
    if parts.config.learns_from_real:
        data = policy_update.real_policy_data(agent, *fresh, parts=parts, beta=beta)
        agent, policy_metrics = policy_update.policy_update(agent, data, keys[0], parts=parts)
        metrics.update(policy_metrics)
    if parts.config.has_critic:
        agent, critic_metrics = critic_update(agent, *fresh, keys[1], parts=parts)
        metrics.update(critic_metrics)
    if beta is not None:
        agent, exploration_metrics = exploration_update(agent, *fresh, keys[2], parts=parts)
        metrics.update(exploration_metrics)
    return agent, metrics


def _skip_if(
    skip: jax.Array,
    learn: Callable[[AgentState, Trajectory, jax.Array], tuple[AgentState, Metrics]],
    agent: AgentState,
    trajectory: Trajectory,
    key: jax.Array,
) -> tuple[AgentState, Metrics]:
    """`learn`, or the unchanged agent with NaN metrics."""
    _, shapes = jax.eval_shape(learn, agent, trajectory, key)
    nothing = metrics_lib.none_of(shapes)
    return jax.lax.cond(skip, lambda a, t, k: (a, nothing), learn, agent, trajectory, key)
