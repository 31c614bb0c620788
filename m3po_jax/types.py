"""The data that passes between the rooms: task facts, trajectories, and two protocols.

Shapes: `T` time steps of one unroll, `B` environments over all tasks, `O` padded observation
size, `A` padded action size, `K` tasks, `Z` latent size.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import numpy as np

Metrics = Mapping[str, jax.Array]
Params = Any


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What the agent must know of one task. Lengths count *agent* steps.

    Attributes:
        name: Registry name, for example `dmc/CartpoleSwingup`.
        observation_size: Size of the flat observation before padding.
        action_size: Size of the action before padding; actions lie in [-1, 1].
        episode_length: Agent steps until truncation (simulator steps / action_repeat).
        action_repeat: Simulator control steps per agent step.
        discount: Discount per agent step.
        can_terminate: Whether an episode can end by termination (not by time).
    """

    name: str
    observation_size: int
    action_size: int
    episode_length: int
    action_repeat: int
    discount: float
    can_terminate: bool


def action_masks(specs: Sequence[TaskSpec]) -> np.ndarray:
    """Returns `[K, A]` float32, 1 where a task has that action; A is the largest action size."""
    sizes = np.array([spec.action_size for spec in specs])
    return (np.arange(sizes.max()) < sizes[:, None]).astype(np.float32)


@flax.struct.dataclass
class Trajectory:
    """Real experience, time-major.

    `next_observation` is the true successor, also where the episode ended there. At most one of
    `termination` and `truncation` is 1. `pre_tanh_action` was drawn from the behaviour Gaussian
    `N(behaviour_mean, behaviour_std^2)` and executed as `tanh(pre_tanh_action)`.
    """

    observation: jax.Array  # [T, B, O]
    pre_tanh_action: jax.Array  # [T, B, A], zero in inactive dims
    reward: jax.Array  # [T, B], summed over the action repeat
    termination: jax.Array  # [T, B] float 0 or 1
    truncation: jax.Array  # [T, B] float 0 or 1
    valid: jax.Array  # [T, B] float, 0 where the physics failed (never learned from)
    next_observation: jax.Array  # [T, B, O]
    task_id: jax.Array  # [T, B] int32
    behaviour_mean: jax.Array  # [T, B, A]
    behaviour_std: jax.Array  # [T, B, A]


@flax.struct.dataclass
class Window:
    """Replayed real steps: `W` consecutive ones of each of `B` drawn windows, time-major."""

    observation: jax.Array  # [W, B, O]
    pre_tanh_action: jax.Array  # [W, B, A]
    reward: jax.Array  # [W, B]
    termination: jax.Array  # [W, B]
    next_observation: jax.Array  # [W, B, O], the true successor
    task_id: jax.Array  # [B] int32
    mask: jax.Array  # [W, B], 0 from the first step after an episode end or a fault on


class LatentModel(Protocol):
    """What the planner and the imagination need of a model; all arguments are batched alike.

    `z` is `[..., Z]`, `u` a pre-tanh action `[..., A]`, `context` any array or pytree whose leaves
    broadcast against the leading axes of `z` (the world model takes the task embedding there).
    """

    def next(
        self, z: jax.Array, u: jax.Array, context: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the next latent `[..., Z]`, the reward `[...]` and the continuation `[...]`."""

    def value(self, z: jax.Array, u: jax.Array, context: Any) -> jax.Array:
        """Returns the value `[...]` of doing `u` in `z` and following the policy after."""

    def policy(self, z: jax.Array, context: Any) -> tuple[jax.Array, jax.Array]:
        """Returns mean and standard deviation `[..., A]` of the pre-tanh policy."""


class Policy(Protocol):
    """Acts in a batch of environments. The key is consumed."""

    def __call__(self, observation: jax.Array, task_id: jax.Array, key: jax.Array) -> jax.Array:
        """Returns actions `[B, A]` in [-1, 1] for observations `[B, O]`."""
