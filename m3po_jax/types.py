"""The data that passes between the folders: task facts, trajectories, and two protocols.

Shapes: `T` time steps of one unroll, `B` environments over all tasks, `O` padded observation
size, `A` padded action size, `K` tasks, `Z` latent size.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
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
        replay_weight: How many windows of the task are replayed for one of a task of weight 1.
        family: Name of the family that it is a variation of; empty for a task of its own.
        context: Normalised parameters that the agent is told, by which unseen values mean something
            too; as long for all tasks of a run that have any, empty where it is told none.
    """

    name: str
    observation_size: int
    action_size: int
    episode_length: int
    action_repeat: int
    discount: float
    can_terminate: bool
    replay_weight: int = 1
    family: str = ""
    context: tuple[float, ...] = ()

    @property
    def shown_as(self) -> str:
        """The name of the line that shows it: a family has one."""
        return self.family or self.name


def action_masks(specs: Sequence[TaskSpec]) -> np.ndarray:
    """Returns `[K, A]` float32, 1 where a task has that action; A is the largest action size."""
    sizes = np.array([spec.action_size for spec in specs])
    return (np.arange(sizes.max()) < sizes[:, None]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """Where the environments of all tasks stand in one flat batch `B`.

    The batch consists of equal blocks, as many as the greatest common divisor of `num_envs`. A
    block holds the tasks one after the other, equally many environments of each as every other
    block. So a contiguous share of the blocks is a share of every task: any number of devices that
    divides all of `num_envs` can split the batch, and the batch does not depend on that number.
    Tasks of one environment object, the variations of a family, take turns within its place.

    Attributes:
        num_envs: Environments of each task, at least 1; equal within an object.
        objects: Tasks of each environment object, which follow each other; one each if empty.
    """

    num_envs: tuple[int, ...]
    objects: tuple[int, ...] = ()

    @property
    def num_blocks(self) -> int:
        """Blocks in the batch."""
        return math.gcd(*self.num_envs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Environments of each task in one block."""
        return tuple(n // self.num_blocks for n in self.num_envs)

    @property
    def tasks_of(self) -> tuple[np.ndarray, ...]:
        """The tasks of each object, int32."""
        counts = self.objects or (1,) * len(self.num_envs)
        tasks = np.arange(len(self.num_envs), dtype=np.int32)
        return tuple(np.split(tasks, np.cumsum(counts)[:-1]))

    @property
    def object_envs(self) -> tuple[int, ...]:
        """Environments of each object."""
        return tuple(len(tasks) * self.num_envs[tasks[0]] for tasks in self.tasks_of)

    @property
    def task_id(self) -> np.ndarray:
        """The task of each row, `[B]` int32."""
        turns = [np.tile(tasks, self.sizes[tasks[0]]) for tasks in self.tasks_of]
        return np.tile(np.concatenate(turns), self.num_blocks)

    def row(self, task_id: jax.Array, env: jax.Array) -> jax.Array:
        """Rows `[...]` of the environments `env [...]`, counted within their tasks `[...]`."""
        sizes = np.asarray(self.sizes, np.int32)
        begins = np.concatenate(
            [np.arange(len(tasks)) + np.sum(sizes[: tasks[0]]) for tasks in self.tasks_of]
        )
        strides = np.concatenate([np.full(len(tasks), len(tasks)) for tasks in self.tasks_of])
        block, place = jnp.divmod(env, jnp.asarray(sizes)[task_id])
        begin, stride = (jnp.asarray(x, jnp.int32)[task_id] for x in (begins, strides))
        return block * sum(self.sizes) + begin + place * stride

    def of(self, objects: Sequence[int]) -> "BatchLayout":
        """The layout of some of the objects, by their index."""
        tasks = [self.tasks_of[k] for k in objects]
        num_envs = tuple(self.num_envs[task] for each in tasks for task in each)
        return BatchLayout(num_envs, tuple(map(len, tasks)))

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """The batch `[B, ...]` of the objects' arrays `[N_k, ...]`."""
        blocks = [x.reshape(self.num_blocks, -1, *x.shape[1:]) for x in parts]
        return jnp.concatenate(blocks, axis=1).reshape(-1, *parts[0].shape[1:])

    def split(self, batch: jax.Array) -> tuple[jax.Array, ...]:
        """The objects' arrays `[N_k, ...]` of a batch `[B, ...]`."""
        blocks = batch.reshape(self.num_blocks, -1, *batch.shape[1:])
        ends = np.cumsum(self.object_envs)[:-1] // self.num_blocks
        parts = jnp.split(blocks, ends.tolist(), axis=1)
        return tuple(x.reshape(-1, *batch.shape[1:]) for x in parts)


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
    """What the planner and the imagination need of a model; all arguments have the same batch axes.

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
