"""Everything that a run is, as one pytree, and how it starts."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from m3po_jax.envs.batch import MultiTaskState
from m3po_jax.learning.optimizers import Optimizers
from m3po_jax.learning.parts import Parts
from m3po_jax.networks.factory import AgentParams, Networks
from m3po_jax.ops import counting, observation_moments, statistics
from m3po_jax.policy.trust_region import TrustRegionState, init_trust_region
from m3po_jax.replay import buffer
from m3po_jax.types import Params, Trajectory

# Weight of the past in the running statistics, per update of each.
STATISTICS_DECAY = 0.99


@flax.struct.dataclass
class Statistics:
    """Running statistics per task."""

    plan_scale: statistics.RunningMoments  # spread of the predicted returns in one population
    value_scale: statistics.RunningScale  # of Q, used by the pathwise objective
    disagreement: statistics.RunningMoments  # of the explorers, over replayed steps
    reward: statistics.RunningRange  # of the rewards collected
    recent_reward: statistics.RunningMoments  # the same, of late
    observation: observation_moments.ObservationMoments


@flax.struct.dataclass
class AgentState:
    """What is learned."""

    params: AgentParams
    target_q: Params  # EMA of params.world_model["q"]; {} without a model
    target_exploration: Params  # EMA of params.exploration
    world_model_opt: optax.OptState
    policy_opt: TrustRegionState
    critic_opt: optax.OptState
    exploration_opt: optax.OptState
    statistics: Statistics


@flax.struct.dataclass
class RolloutState:
    """Where collecting stands."""

    env: MultiTaskState
    plan_mean: jax.Array  # [B, H, A] warm start of the next plan


@flax.struct.dataclass
class TrainState:
    """All state of a run; saving and resuming it is the same as not stopping."""

    agent: AgentState
    rollout: RolloutState
    replay: buffer.ReplayState
    key: jax.Array  # typed PRNG key
    iteration: jax.Array  # [] int32 train steps done, at most 2^31 - 1
    updates: jax.Array  # [2] updates done, see `ops.counting`
    update_debt: jax.Array  # [] updates due for data collected but not yet learned from


def init_agent(networks: Networks, optimizers: Optimizers, key: jax.Array) -> AgentState:
    """A fresh agent. The key is consumed."""
    params = networks.init(key)
    num_tasks = networks.world_model.num_tasks
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    return AgentState(
        params=params,
        # Copies: a donated state must not hold a buffer twice.
        target_q=copy(params.world_model.get("q", {})),
        target_exploration=copy(params.exploration),
        world_model_opt=optimizers.world_model.init(params.world_model),
        policy_opt=init_trust_region(params.policy, optimizers.policy),
        critic_opt=optimizers.critic.init(params.critic),
        exploration_opt=optimizers.exploration.init(params.exploration),
        statistics=Statistics(
            plan_scale=statistics.init_running_moments(num_tasks),
            value_scale=statistics.init_running_scale(num_tasks),
            disagreement=statistics.init_running_moments(num_tasks),
            reward=statistics.init_running_range(num_tasks),
            recent_reward=statistics.init_running_moments(num_tasks),
            observation=observation_moments.init_observation_moments(
                num_tasks, networks.observation_size
            ),
        ),
    )


def init_train_state(parts: Parts, key: jax.Array) -> TrainState:
    """State of a run before its first step; all its randomness comes from `key`.

    Where `parts.env` is a share of the environments, so are their states and the replay.
    """
    env, config = parts.env, parts.config
    agent_key, env_key, key = jax.random.split(key, 3)
    unroll_length = config.env.unroll_length
    # Without a model nothing is replayed: the newest unroll is enough.
    capacity = (
        buffer.capacity_per_env(
            config.replay.capacity, env.batch_size * env.num_shards, unroll_length
        )
        if config.has_model
        else unroll_length
    )
    plan_shape = (env.batch_size, config.planner.horizon, env.action_size)
    return TrainState(
        agent=init_agent(parts.networks, parts.optimizers, agent_key),
        rollout=RolloutState(env=env.init(env_key, stagger=True), plan_mean=jnp.zeros(plan_shape)),
        replay=buffer.init(
            trajectory_shapes(
                (unroll_length, env.batch_size), env.observation_size, env.action_size
            ),
            batch_size=env.batch_size,
            capacity_per_env=capacity,
        ),
        key=key,
        iteration=jnp.zeros((), jnp.int32),
        updates=counting.zero(),
        update_debt=jnp.zeros(()),
    )


def trajectory_shapes(lead: tuple[int, int], observation_size: int, action_size: int) -> Trajectory:
    """The shapes of one unroll, as `jax.ShapeDtypeStruct`s.

    Args:
        lead: Steps and environments `(T, B)`.
        observation_size: Padded size O.
        action_size: Padded size A.
    """

    def shape(*trailing: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((*lead, *trailing), dtype)

    scalar, observation, action = shape(), shape(observation_size), shape(action_size)
    return Trajectory(
        observation=observation,
        pre_tanh_action=action,
        reward=scalar,
        termination=scalar,
        truncation=scalar,
        valid=scalar,
        next_observation=observation,
        task_id=shape(dtype=jnp.int32),
        behaviour_mean=action,
        behaviour_std=action,
    )
