"""Masked, per-task and running statistics.

Masks are 0/1 floats or booleans; an entry that is masked out never reaches a result, NaN included.
Weights are masks with numbers between: how much an entry counts, in units of a whole one.
Running statistics are exponential averages with the start-up bias removed: after n updates, update
i weighs `decay^(n - i)` relative to the newest. A task without samples keeps its state.

Samples can be spread over devices: with the mesh axes in `axis_name` every result is that of all
samples, and the same on every device.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from m3po_jax.ops import rows

Axis = int | tuple[int, ...] | None


def masked_mean(
    x: chex.Array, mask: chex.Array, axis: Axis = None, *, axis_name: tuple[str, ...] = ()
) -> jax.Array:
    """Mean of the entries of `x` whose mask is 1; 0 where there are none.

    Args:
        x: Floats `[...]`.
        mask: 0/1 or boolean, of the shape of `x`.
        axis: Axes to reduce; None reduces all.
        axis_name: Mesh axes over which the entries are spread.

    Returns:
        Means over `axis`.
    """
    chex.assert_equal_shape([x, mask])
    chex.assert_type(x, float)
    active = jnp.asarray(mask).astype(bool)
    count = jnp.sum(active, axis=axis, dtype=jnp.float32)
    total = jnp.sum(jnp.where(active, x, 0.0), axis=axis)
    total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


def per_task_moments(
    x: chex.Array,
    task_id: chex.Array,
    weight: chex.Array,
    *,
    num_tasks: int,
    axis_name: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted mean, population standard deviation and number of the samples of each task.

    Args:
        x: Floats `[...]`.
        task_id: Integers in [0, num_tasks), of the shape of `x`.
        weight: Weights of 0 or more, or a mask, of the shape of `x`.
        num_tasks: Number of tasks K.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        `(mean [K], std [K], count [K])`, all float; the count is the sum of the weights, and mean
        and std are 0 where it is 0.
    """
    mean, variance, count = _per_task_mean_variance(x, task_id, weight, num_tasks, axis_name)
    return mean, _safe_sqrt(variance), count


def normalize_per_task(
    x: chex.Array,
    task_id: chex.Array,
    weight: chex.Array,
    *,
    num_tasks: int,
    min_std: jax.Array | float = 0.0,
    epsilon: float = 1e-6,
    axis_name: tuple[str, ...] = (),
) -> jax.Array:
    """Shifts and scales the samples of each task to weighted mean 0 and standard deviation 1.

    Args:
        x: Floats `[...]`.
        task_id: Integers in [0, num_tasks), of the shape of `x`.
        weight: Weights of 0 or more, or a mask, of the shape of `x`.
        num_tasks: Number of tasks K.
        min_std: Samples that differ by less are not scaled up to 1; a number or one for each task
            `[K]`.
        epsilon: Added to the standard deviation.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        `(x - mean_k) / (max(std_k, min_std) + epsilon)` of the shape of `x`, 0 where the weight
        is 0.
    """
    mean, std, _ = per_task_moments(x, task_id, weight, num_tasks=num_tasks, axis_name=axis_name)
    divisor = jnp.maximum(std, min_std) + epsilon
    normalized = (x - mean[task_id]) / divisor[task_id]
    return jnp.where(jnp.asarray(weight).astype(bool), normalized, 0.0)


@flax.struct.dataclass
class RunningMoments:
    """Running mean and variance of each task.

    `weight` is the total weight of the updates so far, `1 - decay^n`; 0 means no sample yet, with
    mean 0 and variance 1, so that normalising by the state changes nothing.
    """

    mean: jax.Array  # [K]
    variance: jax.Array  # [K], of samples, not of batch means
    weight: jax.Array  # [K] in [0, 1)

    @property
    def std(self) -> jax.Array:
        """Standard deviations `[K]`."""
        return _safe_sqrt(self.variance)


def init_running_moments(num_tasks: int) -> RunningMoments:
    """Returns the state before any sample, for `num_tasks` tasks."""
    # Three arrays, not one used thrice: a donated state must not hold a buffer twice.
    return RunningMoments(
        mean=jnp.zeros(num_tasks), variance=jnp.ones(num_tasks), weight=jnp.zeros(num_tasks)
    )


def update_running_moments(
    state: RunningMoments,
    x: chex.Array,
    task_id: chex.Array,
    mask: chex.Array,
    *,
    decay: float,
    axis_name: tuple[str, ...] = (),
) -> RunningMoments:
    """Folds one batch of samples into the running moments; no gradient flows into the state.

    The variance is that of the weighted mixture of batches (the spread between batch means
    included), updated without the cancellation of `E[x^2] - E[x]^2`.

    Args:
        state: Running moments of K tasks.
        x: Samples `[...]`.
        task_id: Integers in [0, K), of the shape of `x`.
        mask: 0/1 or boolean, of the shape of `x`.
        decay: Weight of the past per update, in [0, 1); 0 keeps the newest batch alone.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        The new state.

    Raises:
        ValueError: If `decay` is outside [0, 1).
    """
    mean, variance, count = _per_task_mean_variance(
        jax.lax.stop_gradient(x), task_id, mask, state.mean.shape[0], axis_name
    )
    rate, weight = _debiased_rate(state.weight, count > 0, decay)
    shift = mean - state.mean
    return RunningMoments(
        mean=state.mean + rate * shift,
        variance=(1.0 - rate) * (state.variance + rate * jnp.square(shift)) + rate * variance,
        weight=weight,
    )


@flax.struct.dataclass
class RunningScale:
    """Running 5th-to-95th percentile range of each task.

    `weight` is the total weight of the updates so far, `1 - decay^n`; 0 means no sample yet.
    """

    spread: jax.Array  # [K]
    weight: jax.Array  # [K] in [0, 1)

    @property
    def scale(self) -> jax.Array:
        """Divisors `[K]`: the range, at least 1, so that small values are never blown up."""
        return jnp.maximum(self.spread, 1.0)


def init_running_scale(num_tasks: int) -> RunningScale:
    """Returns the state before any sample, of scale 1, for `num_tasks` tasks."""
    return RunningScale(spread=jnp.zeros(num_tasks), weight=jnp.zeros(num_tasks))


def update_running_scale(
    state: RunningScale,
    x: chex.Array,
    task_id: chex.Array,
    mask: chex.Array,
    *,
    decay: float,
    axis_name: tuple[str, ...] = (),
) -> RunningScale:
    """Folds one batch of values into the running range, as TD-MPC2 does (arXiv 2310.16828).

    Args:
        state: Running ranges of K tasks.
        x: Samples `[...]`; no gradient flows into the state.
        task_id: Integers in [0, K), of the shape of `x`.
        mask: 0/1 or boolean, of the shape of `x`.
        decay: Weight of the past per update, in [0, 1); 0 keeps the newest batch alone.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        The new state.

    Raises:
        ValueError: If `decay` is outside [0, 1).
    """
    x, task_id, mask = (
        rows.gather(jnp.ravel(leaf), axis_name)
        for leaf in (jax.lax.stop_gradient(x), task_id, mask)
    )
    (low, high), count = _per_task_quantiles(x, task_id, mask, state.spread.shape[0], (0.05, 0.95))
    rate, weight = _debiased_rate(state.weight, count > 0, decay)
    # Selected, not multiplied by a rate of 0: an empty task's quantiles are a neighbour's values.
    spread = jnp.where(count > 0, state.spread + rate * (high - low - state.spread), state.spread)
    return RunningScale(spread=spread, weight=weight)


@flax.struct.dataclass
class RunningRange:
    """The smallest and the largest sample of each task so far; 0 where there is none yet."""

    low: jax.Array  # [K]
    high: jax.Array  # [K]
    seen: jax.Array  # [K] 1 where there was a sample, else 0

    @property
    def width(self) -> jax.Array:
        """Their distance `[K]`; 0 where all samples were equal."""
        return self.high - self.low


def init_running_range(num_tasks: int) -> RunningRange:
    """Returns the state before any sample, for `num_tasks` tasks."""
    return RunningRange(
        low=jnp.zeros(num_tasks), high=jnp.zeros(num_tasks), seen=jnp.zeros(num_tasks)
    )


def update_running_range(
    state: RunningRange,
    x: chex.Array,
    task_id: chex.Array,
    mask: chex.Array,
    *,
    axis_name: tuple[str, ...] = (),
) -> RunningRange:
    """Widens the ranges to hold one batch of samples; no gradient flows into the state.

    Args:
        state: Running ranges of K tasks.
        x: Samples `[...]`.
        task_id: Integers in [0, K), of the shape of `x`.
        mask: 0/1 or boolean, of the shape of `x`.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        The new state.
    """
    x, member = _membership(jax.lax.stop_gradient(x), task_id, mask, state.low.shape[0])
    x = x[:, None]
    low = jax.lax.pmin(jnp.min(jnp.where(member, x, jnp.inf), axis=0), axis_name)
    high = jax.lax.pmax(jnp.max(jnp.where(member, x, -jnp.inf), axis=0), axis_name)
    here = low <= high
    before = state.seen > 0
    return RunningRange(
        low=jnp.where(here, jnp.where(before, jnp.minimum(low, state.low), low), state.low),
        high=jnp.where(here, jnp.where(before, jnp.maximum(high, state.high), high), state.high),
        seen=jnp.where(here, 1.0, state.seen),
    )


def _safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root with gradient 0, not infinity, at 0 (the spread of equal samples)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _debiased_rate(
    weight: jax.Array, has_samples: jax.Array, decay: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the step sizes `[K]` of a debiased average (1 at first, 0 without samples)."""
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay must lie in [0, 1), got {decay}.")
    new_weight = decay * weight + (1.0 - decay)
    rate = jnp.where(has_samples, (1.0 - decay) / new_weight, 0.0)
    return rate, jnp.where(has_samples, new_weight, weight)


def _membership(
    x: chex.Array, task_id: chex.Array, mask: chex.Array, num_tasks: int
) -> tuple[jax.Array, jax.Array]:
    """Returns flat samples `[N]` (0 where masked) and which task each counts for `[N, K]`."""
    chex.assert_equal_shape([x, task_id, mask])
    chex.assert_type([x, task_id], [float, int])
    active = jnp.ravel(mask).astype(bool)
    task_id = jnp.ravel(task_id)
    # A dense comparison: few tasks, no scatter, and sums in one fixed order on every backend.
    member = active[:, None] & (
        task_id[:, None] == jnp.arange(num_tasks, dtype=task_id.dtype)[None]
    )
    return jnp.where(active, jnp.ravel(x), 0.0), member


def _per_task_mean_variance(
    x: chex.Array,
    task_id: chex.Array,
    weight: chex.Array,
    num_tasks: int,
    axis_name: tuple[str, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns weighted mean, population variance and sum of weights `[K]` of each task."""
    x, member = _membership(x, task_id, weight, num_tasks)
    weight = jnp.where(member, jnp.ravel(weight).astype(x.dtype)[:, None], 0.0)
    count = jnp.sum(weight, axis=0)
    total = jnp.sum(jnp.where(member, weight * x[:, None], 0.0), axis=0)
    total, count = jax.lax.psum((total, count), axis_name)
    divisor = jnp.where(count > 0.0, count, 1.0)
    mean = total / divisor
    deviation = jnp.where(member, x[:, None] - mean[None], 0.0)
    squares = jax.lax.psum(jnp.sum(weight * deviation * deviation, axis=0), axis_name)
    return mean, squares / divisor, count


def _per_task_quantiles(
    x: chex.Array,
    task_id: chex.Array,
    mask: chex.Array,
    num_tasks: int,
    quantiles: tuple[float, ...],
) -> tuple[list[jax.Array], jax.Array]:
    """Returns the quantiles (linear interpolation) and the count `[K]` of each task's samples."""
    x, member = _membership(x, task_id, mask, num_tasks)
    count = jnp.sum(member, axis=0, dtype=jnp.int32)
    # One sort by (task, value) makes every task a sorted run; masked samples go behind the last.
    run = jnp.where(jnp.any(member, axis=1), jnp.ravel(task_id), num_tasks)
    _, ordered = jax.lax.sort((run, x), num_keys=2)
    start = jnp.cumsum(count) - count
    last = start + jnp.maximum(count - 1, 0)

    def at(quantile: float) -> jax.Array:
        position = quantile * jnp.maximum(count - 1, 0).astype(x.dtype)
        below = jnp.floor(position)
        lower = start + below.astype(jnp.int32)
        upper = jnp.minimum(lower + 1, last)
        low, high = ordered[lower], ordered[upper]
        return low + (position - below) * (high - low)

    return [at(quantile) for quantile in quantiles], count
