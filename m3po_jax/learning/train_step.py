"""One training iteration: collect, store, learn. Everything here runs in one compiled program."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from m3po_jax.envs.batch import Timestep
from m3po_jax.envs.by_task import ByTaskEnv
from m3po_jax.learning import metrics as metrics_lib
from m3po_jax.learning import policy_update, rollout
from m3po_jax.learning.critic_update import critic_update
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.replay_updates import learn_from_replay
from m3po_jax.learning.state import STATISTICS_DECAY, AgentState, RolloutState, TrainState
from m3po_jax.ops import counting, observation_moments, statistics
from m3po_jax.policy.exploration import novelty_weight
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
    act = partial(rollout.collect, key=key, parts=parts, random=_is_random(state, parts))
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
    random = _is_random(state, parts)
    replay = buffer.add(state.replay, trajectory)
    agent = update_plan_scale(state.agent, trajectory, collected.return_spread, parts)
    agent = update_rewards(agent, trajectory, parts)
    fresh_metrics: Metrics = {}
    if config.learns_from_real:
        learn_fresh = partial(learn_from_rollout, parts=parts)
        agent, fresh_metrics = _skip_if(random, learn_fresh, agent, trajectory, fresh_key)
    usual = config.train.updates_per_transition * trajectory.reward.size * parts.env.num_shards
    debt = state.update_debt + usual
    num_updates = jnp.minimum(jnp.floor(debt), math.ceil(MAX_CATCH_UP * usual))
    num_updates = jnp.where(random, 0, num_updates.astype(jnp.int32))
    replay_metrics: Metrics = {}
    if config.has_model:
        agent, replay_metrics = learn_from_replay(
            agent, replay, replay_key, num_updates, parts=parts
        )
    agent = update_observation_moments(agent, trajectory, parts)
    new_state = TrainState(
        agent=agent,
        rollout=collected.rollout,
        replay=replay,
        key=key,
        iteration=optax.safe_increment(state.iteration),
        updates=counting.add(state.updates, num_updates),
        update_debt=debt - num_updates.astype(jnp.float32),
    )
    rollout_metrics = metrics_lib.rollout_metrics(collected.timesteps, parts)
    metrics = {**rollout_metrics, **fresh_metrics, **replay_metrics}
    metrics["plan/return_scale"] = agent.statistics.plan_scale.mean
    if config.has_bonus:
        metrics["exploration/weight"], _ = novelty_weight(
            agent.statistics.reward,
            agent.statistics.recent_reward.mean,
            scale=config.exploration.scale,
        )
    metrics["updates"] = counting.approximately(new_state.updates)
    return new_state, metrics


def _keys(state: TrainState) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys of the next iteration, of collecting, of learning from it and from replay."""
    key, collect_key, fresh_key, replay_key = jax.random.split(state.key, 4)
    return key, collect_key, fresh_key, replay_key


def _is_random(state: TrainState, parts: Parts) -> jax.Array:
    """Whether actions are random now."""
    warmup = -(-parts.config.train.warmup_env_steps // parts.env_steps_per_iteration)
    return state.iteration < min(warmup, jnp.iinfo(jnp.int32).max)


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


def update_rewards(agent: AgentState, trajectory: Trajectory, parts: Parts) -> AgentState:
    """Folds the rewards of the rollout into their range and recent mean per task."""
    args = (trajectory.reward, trajectory.task_id, trajectory.valid)
    reward = statistics.update_running_range(
        agent.statistics.reward, *args, axis_name=parts.axis_name
    )
    recent = statistics.update_running_moments(
        agent.statistics.recent_reward, *args, decay=STATISTICS_DECAY, axis_name=parts.axis_name
    )
    new = agent.statistics.replace(reward=reward, recent_reward=recent)
    return agent.replace(statistics=new)


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
    agent: AgentState, trajectory: Trajectory, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """What needs fresh data: the `real` policy update and V_mf, which nothing else uses.

    The policy goes first: its old latents, values and probabilities are those that collected.
    """
    policy_key, critic_key = jax.random.split(key)
    discount = jnp.asarray(parts.env.discount)[parts.env.task_id]
    data = policy_update.real_policy_data(agent, trajectory, discount, parts=parts)
    agent, policy_metrics = policy_update.policy_update(agent, data, policy_key, parts=parts)
    agent, critic_metrics = critic_update(agent, trajectory, discount, critic_key, parts=parts)
    return agent, {**policy_metrics, **critic_metrics}


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
