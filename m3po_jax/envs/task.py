"""One task as the multi-task batch takes it: an environment with its facts and settings."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from m3po_jax import types
from m3po_jax.envs import base, wrappers


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a `MultiTaskEnv`.

    Attributes:
        spec: Facts of the task; its name seeds the random streams of the task.
        environment: One agent step of it, so with the action repeat inside.
        num_envs: Parallel environments, of a family those of each variation.
        variations: Facts of each variation of a family, in the order of the environment's rows;
            each is a task of the agent. Empty for a task of its own.
    """

    spec: types.TaskSpec
    environment: base.Environment
    num_envs: int
    variations: tuple[types.TaskSpec, ...] = ()

    @property
    def specs(self) -> tuple[types.TaskSpec, ...]:
        """Facts of what it is to the agent: one task, or one for each variation."""
        return self.variations or (self.spec,)


def as_task(
    *,
    name: str,
    environment: base.Environment,
    num_envs: int,
    action_repeat: int,
    episode_length: int | None = None,
    discount: float | None = None,
    distractors: int = 0,
    replay_weight: int = 1,
) -> Task:
    """Wraps one environment of the simulator as a task of the agent.

    Args:
        name: Name of the task.
        environment: One control step per `step`, not wrapped.
        num_envs: Parallel environments.
        action_repeat: Control steps per agent step.
        episode_length: Control steps until truncation; the environment's own if not given.
        discount: Discount per agent step; `default_discount` if not given.
        distractors: Irrelevant observation dims to append.
        replay_weight: See `TaskSpec`.

    Returns:
        The task, with the action repeat applied.

    Raises:
        ValueError: If `num_envs`, `action_repeat` or `episode_length` is below 1.
    """
    if distractors:
        environment = wrappers.Distractors(environment, distractors)
    control_steps = environment.episode_length if episode_length is None else episode_length
    if control_steps < 1:
        raise ValueError(f"{name}: episode_length must be positive, got {control_steps}")
    repeated = wrappers.ActionRepeat(environment, action_repeat, episode_length=control_steps)
    length = -(-control_steps // action_repeat)
    spec = types.TaskSpec(
        name=name,
        observation_size=environment.observation_size,
        action_size=environment.action_size,
        episode_length=length,
        action_repeat=action_repeat,
        discount=default_discount(length) if discount is None else discount,
        can_terminate=environment.can_terminate,
        replay_weight=replay_weight,
    )
    return Task(spec=spec, environment=repeated, num_envs=num_envs)


def with_variations(task: Task, contexts: Mapping[str, tuple[float, ...]]) -> Task:
    """A family's task with its variations: their names, and what the agent is told of each."""
    of = dataclasses.replace
    specs = [of(task.spec, name=n, family=task.spec.name, context=c) for n, c in contexts.items()]
    return of(task, variations=tuple(specs))


def default_discount(episode_length: int) -> float:
    """Returns the discount for an episode length in agent steps (TD-MPC2, arXiv 2310.16828).

    `clip((L / 5 - 1) / (L / 5), 0.95, 0.995)`: it looks about a fifth of the episode ahead.
    """
    fifth = episode_length / 5.0
    return float(np.clip((fifth - 1.0) / fifth, 0.95, 0.995))
