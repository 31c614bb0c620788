"""Running moments of each task's observations, and normalisation by them.

Unlike the exponential averages of `statistics`, these weight all samples ever seen equally, so that
they settle: a policy that reads normalised observations must not see its inputs drift for ever.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

_EPSILON = 1e-6


@flax.struct.dataclass
class ObservationMoments:
    """Mean and variance over all samples so far; with none, normalising changes nothing."""

    mean: jax.Array  # [K, O]
    variance: jax.Array  # [K, O] population variance
    count: jax.Array  # [K] samples


def init_observation_moments(num_tasks: int, observation_size: int) -> ObservationMoments:
    """Returns the state before any sample, for K tasks and padded observations of size O."""
    shape = (num_tasks, observation_size)
    return ObservationMoments(
        mean=jnp.zeros(shape), variance=jnp.ones(shape), count=jnp.zeros(num_tasks)
    )


def update_observation_moments(
    state: ObservationMoments,
    observation: chex.Array,
    task_id: chex.Array,
    mask: chex.Array,
    *,
    axis_name: tuple[str, ...] = (),
) -> ObservationMoments:
    """Folds one batch of observations into the moments (the pairwise rule of Chan et al., 1979).

    Args:
        state: Moments of K tasks.
        observation: Samples `[..., O]`; no gradient flows into the state.
        task_id: Integers in [0, K), `[...]`.
        mask: 0/1 or boolean `[...]`; a sample that is masked out never counts, NaN included.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        The moments of all samples so far; those of a task without new samples are unchanged.
    """
    num_tasks, size = state.mean.shape
    chex.assert_shape(observation, (*task_id.shape, size))
    chex.assert_equal_shape([task_id, mask])
    active = jnp.ravel(mask).astype(bool)
    x = jax.lax.stop_gradient(observation).reshape(-1, size)
    x = jnp.where(active[:, None], x, 0.0)
    task_id = jnp.ravel(task_id)
    tasks = jnp.arange(num_tasks, dtype=task_id.dtype)
    member = (active[:, None] & (task_id[:, None] == tasks[None])).astype(x.dtype)
    count = jax.lax.psum(jnp.sum(member, axis=0), axis_name)

    def per_task_mean(x: jax.Array) -> jax.Array:
        total = jnp.einsum("nk,no->ko", member, x, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.psum(total, axis_name) / jnp.maximum(count, 1.0)[:, None]

    mean = per_task_mean(x)
    variance = per_task_mean(jnp.square(x - mean[task_id]))
    total = state.count + count
    rate = (count / jnp.maximum(total, 1.0))[:, None]
    shift = mean - state.mean
    return ObservationMoments(
        mean=state.mean + rate * shift,
        variance=(1.0 - rate) * (state.variance + rate * jnp.square(shift)) + rate * variance,
        count=total,
    )


def normalize_observation(
    state: ObservationMoments, observation: chex.Array, task_id: chex.Array, *, limit: float = 10.0
) -> jax.Array:
    """Observations in units of their task's standard deviation around its mean, clipped.

    Args:
        state: Moments of K tasks.
        observation: `[..., O]`.
        task_id: `[...]`.
        limit: Results lie in [-limit, limit].

    Returns:
        `[..., O]`; 0 where an entry never varied, as in padded dimensions.
    """
    chex.assert_shape(observation, (*task_id.shape, state.mean.shape[-1]))
    std = jnp.sqrt(state.variance)[task_id]
    return jnp.clip((observation - state.mean[task_id]) / (std + _EPSILON), -limit, limit)
