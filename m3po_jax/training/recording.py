"""One episode of a trained agent, with what it believed at each step: the material of a video."""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.config import Config, ConfigError
from m3po_jax.envs import registry
from m3po_jax.envs.batch import MultiTaskState
from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.envs.wrappers import pad_last
from m3po_jax.learning import rollout
from m3po_jax.learning.perception import perceive
from m3po_jax.learning.state import AgentState
from m3po_jax.networks.factory import Networks
from m3po_jax.planning import warm_start
from m3po_jax.training.experiment import restore_run
from m3po_jax.training.iteration import raise_failure
from m3po_jax.world_model.latent import WorldModelLatent


@dataclasses.dataclass(frozen=True)
class Recording:
    """An episode of T agent steps.

    Attributes:
        environment: The environment, which draws the poses.
        poses: What it needs for a picture of the state before each step, leaves `[T, ...]`.
        seconds_per_step: Simulated time of one agent step.
        reward: Rewards that came `[T]`.
        imagined: Rewards that the agent expected of its plan `[T, H]`; None without a model.
        predicted: Discounted return that it expected from here on `[T]`; None without a model.
        discount: Discount per agent step.
        terminated: Whether the task ended the episode.
    """

    environment: Any
    poses: Any
    seconds_per_step: float
    reward: np.ndarray
    imagined: np.ndarray | None
    predicted: np.ndarray | None
    discount: float
    terminated: bool

    def actual(self) -> np.ndarray:
        """The discounted return that came from each step on `[T]`.

        An episode that ran out of time is continued by the last prediction, as in training;
        without a model by nothing.
        """
        tail = 0.0
        if not self.terminated and self.predicted is not None:
            tail = float(self.predicted[-1] - self.reward[-1]) / self.discount
        returns = []
        for reward in self.reward[::-1]:
            tail = float(reward) + self.discount * tail
            returns.append(tail)
        return np.array(returns[::-1])


class _Rows(NamedTuple):
    """A batch of one row, as `rollout.TaskRows` describes it."""

    task_id: np.ndarray  # [1]
    discount: np.ndarray  # [K]


class _Step(NamedTuple):
    pose: Any
    reward: jax.Array
    alive: jax.Array  # 1 until the episode ends, its last step included
    termination: jax.Array
    imagined: jax.Array  # [H]
    predicted: jax.Array


class _Carry(NamedTuple):
    env: MultiTaskState
    plan_mean: jax.Array  # [1, H, A]
    alive: jax.Array


def record_episode(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    task: str,
    policy: str,
    seed: int,
    step: int | None = None,
) -> Recording:
    """Plays one episode with a checkpoint of a run.

    Args:
        config: Settings of the run.
        workdir: Its folder.
        task: Name of one of its tasks, without options.
        policy: `planner` or `prior`.
        seed: Seed of the start and of the planner's samples.
        step: Iteration of the checkpoint; None takes the newest.

    Raises:
        ConfigError: The run has no such task, no model to plan with, or the task no picture.
        CheckpointError: There is no checkpoint or it cannot be read.
    """
    try:
        index = registry.task_index(config.tasks, task)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if policy == "planner" and not config.has_model:
        raise ConfigError(f"{workdir} has no world model to plan with; give --policy=prior")
    experiment, state, _ = restore_run(config, workdir, step=step)
    env = experiment.env.alone(task)
    environment: Any = getattr(env.environments[0], "environment", None)
    if not hasattr(environment, "pose"):
        raise ConfigError(f"{task} has no picture")
    play = functools.partial(
        _play,
        env=env,
        environment=environment,
        rows=_Rows(np.array([index]), experiment.env.discount),
        networks=experiment.networks,
        config=config,
        policy=policy,
    )
    steps: _Step = jax.device_get(jax.jit(play)(state.agent, jax.random.key(seed)))
    raise_failure(env)
    length = int(np.sum(steps.alive))
    cut = jax.tree.map(lambda x: x[:length], steps)
    spec = experiment.env.specs[index]
    return Recording(
        environment=environment,
        poses=cut.pose,
        seconds_per_step=environment.seconds_per_step * spec.action_repeat,
        reward=cut.reward,
        imagined=cut.imagined if config.has_model else None,
        predicted=cut.predicted if config.has_model else None,
        discount=spec.discount,
        terminated=bool(cut.termination[-1]),
    )


def _play(
    agent: AgentState,
    key: jax.Array,
    *,
    env: MultiTaskEnv,
    environment: Any,
    rows: _Rows,
    networks: Networks,
    config: Config,
    policy: str,
) -> _Step:
    """All steps of one episode `[L, ...]`; those after its end are not `alive`."""
    init_key, key = jax.random.split(key)
    start = env.init(init_key, stagger=False)

    def step(carry: _Carry, key: jax.Array) -> tuple[_Carry, _Step]:
        observation = pad_last(carry.env.observation, networks.observation_size)
        args = (networks, agent, rows, observation, carry.plan_mean, key[None])
        if policy == "prior":
            actions = rollout.prior_actions(*args, explore=False)
        else:
            actions = rollout.planned_actions(*args, explore=False, config=config)
        imagined, predicted = _belief(agent, networks, rows, observation, actions, config, policy)
        action = jnp.tanh(actions.u)[:, : env.action_size]
        after, timestep = env.step(carry.env, start.env_states, action)
        ended = jnp.maximum(timestep.termination, timestep.truncation)
        before = jax.tree.map(lambda x: x[0], carry.env.env_states[0])
        noted = _Step(
            pose=environment.pose(before),
            reward=timestep.reward[0],
            alive=carry.alive,
            termination=timestep.termination[0],
            imagined=imagined,
            predicted=predicted,
        )
        plan_mean = warm_start.shift(actions.plan_mean)
        return _Carry(after, plan_mean, carry.alive * (1.0 - ended[0])), noted

    plan_mean = jnp.zeros((1, config.planner.horizon, networks.action_size))
    keys = jax.random.split(key, env.specs[0].episode_length)
    _, steps = jax.lax.scan(step, _Carry(start, plan_mean, jnp.ones(())), keys)
    return steps


def _belief(
    agent: AgentState,
    networks: Networks,
    rows: _Rows,
    observation: jax.Array,
    actions: rollout.Actions,
    config: Config,
    policy: str,
) -> tuple[jax.Array, jax.Array]:
    """Rewards `[H]` that the agent expects of what it is about to do, and the return from here.

    The planner continues with its plan's mean after the action it takes, the prior with its own
    mean; past the horizon Q values the policy.
    """
    horizon = config.planner.horizon
    if not config.has_model:
        return jnp.zeros(horizon), jnp.zeros(())
    params, task_id = agent.params, jnp.asarray(rows.task_id[0])
    model = WorldModelLatent(params.world_model, params.world_model["q"], params.policy, networks)
    context, z = perceive(networks, agent, observation[0], task_id)
    discount = rows.discount[rows.task_id[0]]
    rewards, value, weight = [], jnp.zeros(()), jnp.ones(())
    for step in range(horizon):
        if step == 0:
            u = actions.u[0]
        else:
            u = model.policy(z, context)[0] if policy == "prior" else actions.plan_mean[0, step]
        z, reward, continuation = model.next(z, u, context)
        rewards.append(reward)
        value += weight * reward
        weight *= discount * continuation
    return jnp.stack(rewards), value + weight * model.state_value(z, context)
