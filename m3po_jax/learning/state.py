"""Everything that a run is, as one pytree, and how it starts."""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from m3po_jax.config import Config
from m3po_jax.envs.multitask import MultiTaskEnv, MultiTaskState
from m3po_jax.networks.factory import AgentParams, Networks
from m3po_jax.ops import observation_moments, statistics
from m3po_jax.policy.trust_region import TrustRegionState, init_trust_region
from m3po_jax.replay import buffer
from m3po_jax.types import Params, Trajectory

_ENCODER = ("encoder", "embedding")


class Optimizers(NamedTuple):
    """One optimizer per set of parameters."""

    world_model: optax.GradientTransformation
    policy: optax.GradientTransformation
    critic: optax.GradientTransformation
    exploration: optax.GradientTransformation


class Parts(NamedTuple):
    """What a training iteration is made of.

    Attributes:
        env: Environments of all tasks, or a device's share of them.
        networks: The bundle of modules.
        optimizers: One optimizer per set of parameters.
        cfg: The run's settings.
    """

    env: MultiTaskEnv
    networks: Networks
    optimizers: Optimizers
    cfg: Config


@flax.struct.dataclass
class Statistics:
    """Running statistics per task."""

    plan_scale: statistics.RunningMoments  # spread of the predicted returns in one population
    value_scale: statistics.RunningScale  # of Q, used by the pathwise objective
    discrepancy: statistics.RunningMoments  # of |Q_mf - Q_mb|
    observation: observation_moments.ObservationMoments  # used without a world model


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
    """All state of a run; saving it and going on is the same as not having stopped."""

    agent: AgentState
    rollout: RolloutState
    replay: buffer.ReplayState
    key: jax.Array  # typed PRNG key
    iteration: jax.Array  # [] int32 train steps done
    updates: jax.Array  # [] int32 updates done
    update_debt: jax.Array  # [] updates due for data collected but not yet learned from


def make_optimizers(cfg: Config, *, iterations: int, transitions: int) -> Optimizers:
    """Adam with a global-norm clip for each set of parameters.

    What `train.frozen` names stays as it is. The step sizes of world model and policy fall with the
    gradient steps that they take, as `train.final_learning_rate_scale` says.

    Args:
        cfg: The run's settings.
        iterations: Training iterations of the whole run.
        transitions: Transitions that an iteration collects, over all devices.
    """
    updates = cfg.train.updates_per_transition * iterations * transitions
    rounds = iterations if cfg.learns_from_real else updates
    steps = {
        "world_model": math.ceil(updates),
        "policy": math.ceil(rounds) * cfg.policy.epochs * cfg.policy.minibatches,
    }

    def adam(part: str, learning_rate: float, max_norm: float) -> optax.GradientTransformation:
        if part in cfg.train.frozen:
            return optax.set_to_zero()
        schedule: float | optax.Schedule = learning_rate
        if part in steps and cfg.train.final_learning_rate_scale != 1.0:
            last = cfg.train.final_learning_rate_scale * learning_rate
            schedule = optax.linear_schedule(learning_rate, last, max(steps[part], 1))
        return optax.chain(_clip(max_norm), optax.adam(schedule))

    model = cfg.world_model
    world_model = adam("world_model", model.learning_rate, model.max_gradient_norm)
    still = _parts_mask(cfg.train.frozen)
    if cfg.train.frozen:
        # Before the clip, so that the others' share of the norm is their own.
        world_model = optax.chain(optax.masked(optax.set_to_zero(), still), world_model)
    if model.encoder_learning_rate_scale != 1.0:
        slow = optax.masked(optax.scale(model.encoder_learning_rate_scale), _parts_mask(_ENCODER))
        world_model = optax.chain(world_model, slow)
    return Optimizers(
        world_model=world_model,
        policy=adam("policy", cfg.policy.learning_rate, cfg.policy.max_gradient_norm),
        critic=adam("critic", cfg.critic.learning_rate, cfg.critic.max_gradient_norm),
        exploration=adam(
            "exploration", cfg.exploration.learning_rate, cfg.critic.max_gradient_norm
        ),
    )


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
            discrepancy=statistics.init_running_moments(num_tasks),
            observation=observation_moments.init_observation_moments(
                num_tasks, networks.observation_size
            ),
        ),
    )


def init_train_state(parts: Parts, key: jax.Array) -> TrainState:
    """State of a run before its first step; all its randomness comes from `key`.

    Where `parts.env` is a share of the environments, so are their states and the replay.
    """
    env, networks, optimizers, cfg = parts
    agent_key, env_key, key = jax.random.split(key, 3)
    unroll_length = cfg.env.unroll_length
    # Without a model nothing is replayed: the newest unroll is enough.
    capacity = (
        buffer.capacity_per_env(cfg.replay.capacity, env.batch_size * env.num_shards, unroll_length)
        if cfg.has_model
        else unroll_length
    )
    plan_shape = (env.batch_size, cfg.planner.horizon, env.action_size)
    return TrainState(
        agent=init_agent(networks, optimizers, agent_key),
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
        updates=jnp.zeros((), jnp.int32),
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


def _clip(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm`, for parts of a gradient too, whose norm takes an exchange."""

    def update(
        gradient: Params,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        global_norm: Callable[[Params], jax.Array] = optax.tree.norm,
    ) -> tuple[Params, optax.EmptyState]:
        norm = global_norm(gradient)
        clip = lambda g: jnp.where(norm < max_norm, g, (g / norm) * max_norm)  # noqa: E731
        return jax.tree.map(clip, gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _parts_mask(names: Collection[str]) -> Callable[[Params], Params]:
    """A function of the world model's parameters: true for these parts and their output norms."""

    def mask(params: Params) -> Params:
        return {
            name: jax.tree.map(
                functools.partial(_always, name.removesuffix("_norm") in names), part
            )
            for name, part in params.items()
        }

    return mask


def _always(value: bool, _: Any) -> bool:
    return value
