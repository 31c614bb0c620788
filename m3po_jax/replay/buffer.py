"""On-device ring buffer of real steps: one compiled write per unroll, windows per task.

Not flashbax, because this needs windows uniform over tasks, a mask at episode ends, and one scalar
cursor, so that the environment axis can be sharded directly.

Spread over devices, each holds the buffer of its own environments and draws windows from it alone.
"""

from collections.abc import Sequence
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from m3po_jax.ops import rows
from m3po_jax.types import BatchLayout, Window

STORED_FIELDS = (
    "observation",
    "pre_tanh_action",
    "reward",
    "termination",
    "truncation",
    "valid",
    "next_observation",
)


@flax.struct.dataclass
class ReplayState:
    """Ring buffer over the last C steps of each of B environments, all at the same cursor."""

    data: dict[str, jax.Array]  # STORED_FIELDS, each [B, C, ...]
    cursor: jax.Array  # [] int32, where the next unroll is written
    size: jax.Array  # [] int32, steps held of each environment, at most C
    skip: jax.Array  # [B] int32, oldest of these steps that an environment has no data for


def capacity_per_env(capacity: int, batch_size: int, unroll_length: int) -> int:
    """Steps per environment that fit in `capacity` transitions, in whole unrolls.

    Args:
        capacity: Transitions over all environments.
        batch_size: Environments B over all tasks.
        unroll_length: Steps T of one write.

    Returns:
        The largest multiple of `unroll_length` with `batch_size * result <= capacity`.

    Raises:
        ValueError: If not even one unroll fits.
    """
    unrolls = capacity // (batch_size * unroll_length)
    if unrolls < 1:
        raise ValueError(
            f"A replay capacity of {capacity} transitions holds no unroll of {unroll_length} steps "
            f"of {batch_size} environments; it needs at least {batch_size * unroll_length}."
        )
    return unrolls * unroll_length


def init(example: Any, *, batch_size: int, capacity_per_env: int) -> ReplayState:
    """Allocates an empty buffer.

    Args:
        example: A `Trajectory` of arrays or `jax.ShapeDtypeStruct`, leaves `[T, B, ...]`; only
            shapes and dtypes are read.
        batch_size: Environments B over all tasks.
        capacity_per_env: Steps C held of each environment, a multiple of T.

    Returns:
        The empty state.

    Raises:
        ValueError: If the example has another batch size, or T does not divide C.
    """
    unroll_length, example_batch = example.reward.shape
    if example_batch != batch_size:
        raise ValueError(f"The example holds {example_batch} environments, not {batch_size}.")
    if capacity_per_env % unroll_length != 0:
        raise ValueError(
            f"capacity_per_env={capacity_per_env} is not a multiple of the unroll {unroll_length}."
        )

    def allocate(leaf: Any) -> jax.Array:
        return jnp.zeros((batch_size, capacity_per_env, *leaf.shape[2:]), leaf.dtype)

    return ReplayState(
        data={name: allocate(getattr(example, name)) for name in STORED_FIELDS},
        cursor=jnp.zeros((), jnp.int32),
        size=jnp.zeros((), jnp.int32),
        skip=jnp.zeros(batch_size, jnp.int32),
    )


def add(state: ReplayState, trajectory: Any) -> ReplayState:
    """Writes one unroll over the oldest steps; in place where `state` is donated.

    Args:
        state: Buffer of B environments and C steps.
        trajectory: A `Trajectory` with leaves `[T, B, ...]`, following the last one written. T
            must be the same in every call and divide C, so that no write wraps around.

    Returns:
        The new state.

    Raises:
        ValueError: If T does not divide C.
    """
    unroll_length = trajectory.reward.shape[0]
    batch_size, capacity = state.data["reward"].shape
    chex.assert_shape(trajectory.reward, (unroll_length, batch_size))
    if capacity % unroll_length != 0:
        raise ValueError(f"An unroll of {unroll_length} steps does not divide C={capacity}.")

    def write(stored: jax.Array, new: jax.Array) -> jax.Array:
        new = jnp.swapaxes(new, 0, 1)
        return jax.lax.dynamic_update_slice_in_dim(stored, new, state.cursor, axis=1)

    overwritten = jnp.maximum(state.size + unroll_length - capacity, 0)
    return ReplayState(
        data={name: write(state.data[name], getattr(trajectory, name)) for name in STORED_FIELDS},
        cursor=(state.cursor + unroll_length) % capacity,
        size=jnp.minimum(state.size + unroll_length, capacity),
        skip=jnp.maximum(state.skip - overwritten, 0),
    )


def sample(
    state: ReplayState,
    key: chex.PRNGKey,
    *,
    batch_size: int,
    window: int,
    layout: BatchLayout,
    weights: Sequence[int] | None = None,
    axis_name: tuple[str, ...] = (),
) -> Window:
    """Draws windows of consecutive steps, by task, then uniformly over environments and starts.

    Tasks are stratified: windows lie in rounds 0, 1, ..., K-1, 0, 1, ..., in each of which a task
    of weight w comes w times, so that contiguous minibatches are balanced as well; the rest of
    `batch_size` goes to random places of a round. Of the n windows of a task with N environments,
    window j falls into `[j N / n, (j + 1) N / n)`, so environments are stratified too, and each
    device's windows come from its own environments. No window crosses the write head.

    Args:
        state: Buffer of B environments, those of this device.
        key: Random key, consumed; the same on every device.
        batch_size: Windows drawn over all tasks and devices.
        window: Steps W of a window, at most C.
        layout: Order of the environments of this device along the axis B.
        weights: Windows of each task in a round, whole numbers from 1; one of each if not given.
        axis_name: Mesh axes over which environments and windows are spread.

    Returns:
        The windows of this device. Their mask is 1 until an episode ends, the end included, and
        while every step is valid; it is 0 while the buffer holds under W steps of the environment.

    Raises:
        ValueError: If the layout is not one of B environments, W exceeds C, or the windows do not
            split over the devices.
    """
    num_envs = layout.num_envs
    num_stored, capacity = state.data["reward"].shape
    if sum(num_envs) != num_stored:
        raise ValueError(f"num_envs={num_envs} must sum to the {num_stored} environments stored.")
    if not 1 <= window <= capacity:
        raise ValueError(f"A window of {window} steps must lie in [1, {capacity}].")
    task_key, row_key = jax.random.split(key)
    weights = (1,) * len(num_envs) if weights is None else tuple(weights)
    task_id, stratum, strata = _strata(task_key, batch_size, weights, axis_name)
    keys = rows.keys(row_key, rows.numbers(task_id.size, axis_name))
    env_keys, start_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    here = jnp.asarray(num_envs, jnp.int32)[task_id]
    everywhere = here * jax.lax.axis_size(axis_name)
    draw = jax.vmap(lambda k, end: jax.random.randint(k, (), 0, end), in_axes=(0, 0))
    # In whole numbers, so that no rounding moves a window to the next device's environments.
    place = (stratum * everywhere + draw(env_keys, everywhere)) // strata
    env = layout.row(task_id, place - jax.lax.axis_index(axis_name) * here)
    # Starts are counted from the oldest step held, so the write head is never inside a window.
    held = state.size - state.skip[env]
    start = state.skip[env] + draw(start_keys, jnp.maximum(held - window + 1, 1))
    oldest = jnp.where(state.size == capacity, state.cursor, 0)
    step = (oldest + start[None, :] + jnp.arange(window, dtype=jnp.int32)[:, None]) % capacity
    fields = {name: leaf[env[None, :], step] for name, leaf in state.data.items()}
    mask = window_mask(fields["termination"], fields["truncation"], fields["valid"])
    return Window(
        observation=fields["observation"],
        pre_tanh_action=fields["pre_tanh_action"],
        reward=fields["reward"],
        termination=fields["termination"],
        next_observation=fields["next_observation"],
        task_id=task_id,
        mask=jnp.where(held >= window, mask, 0.0),
    )


def window_mask(termination: chex.Array, truncation: chex.Array, valid: chex.Array) -> jax.Array:
    """Steps of a time-major window that belong to its first episode and follow no fault.

    Args:
        termination: `[W, ...]` float 0 or 1.
        truncation: `[W, ...]` float 0 or 1.
        valid: `[W, ...]` float 0 or 1.

    Returns:
        `[W, ...]` float: 1 at step t where no episode ended before t and all steps up to and
        including t are valid.
    """
    chex.assert_equal_shape([termination, truncation, valid])
    goes_on = (1.0 - termination) * (1.0 - truncation)
    reached = jnp.concatenate([jnp.ones_like(goes_on[:1]), goes_on[:-1]])
    return jnp.cumprod(reached * valid, axis=0)


def num_bytes(state: ReplayState) -> int:
    """Bytes that the stored steps take, also of a `jax.eval_shape` of `init`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.data))


def _strata(
    key: chex.PRNGKey, batch_size: int, weights: tuple[int, ...], axis_name: tuple[str, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Task, stratum of its environments and number of such strata of each window here.

    Whole rounds, of which the r-th falls into the r-th part of the environments, then random places
    of a round, which draw from all environments of their tasks.
    """
    place = [(k, i) for i in range(max(weights)) for k, w in enumerate(weights) if i < w]
    tasks, nth = jnp.asarray(place, jnp.int32).T
    rounds, extra = divmod(batch_size, tasks.size)
    devices = jax.lax.axis_size(axis_name)
    if devices > 1 and (extra or rounds % devices):
        raise ValueError(
            f"{batch_size} windows in rounds of {tasks.size} do not divide evenly over {devices} "
            f"devices; "
            f"their number must be a multiple of {tasks.size * devices}."
        )
    weight = jnp.asarray(weights, jnp.int32)
    task_id = jnp.tile(tasks, rounds // devices)
    here = rows.numbers(task_id.size, axis_name) // tasks.size
    stratum = here * weight[task_id] + jnp.tile(nth, rounds // devices)
    strata = max(rounds, 1) * weight[task_id]
    if extra:
        distinct = tasks[jax.random.permutation(key, tasks.size)[:extra]]
        task_id = jnp.concatenate([task_id, distinct])
        stratum = jnp.concatenate([stratum, jnp.zeros_like(distinct)])
        strata = jnp.concatenate([strata, jnp.ones_like(distinct)])
    return task_id, stratum, strata
