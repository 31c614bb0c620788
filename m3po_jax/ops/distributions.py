"""Masked diagonal Gaussians over the pre-tanh action `u`, and the density of `tanh(u)`.

Tasks have different numbers of actions, padded to `A`. A dimension that `action_mask` switches
off contributes exactly zero to every value here, and receives exactly zero gradient, whatever its
mean and standard deviation hold (NaN and zero included). All arguments broadcast against each
other; sums run over the last axis.
"""

import math

import chex
import jax
import jax.numpy as jnp

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_LOG_TWO = math.log(2.0)


def sample(
    mean: chex.Array, std: chex.Array, action_mask: chex.Array, key: chex.PRNGKey
) -> jax.Array:
    """Reparameterised draw from `N(mean, std^2)`, zero in inactive dimensions.

    Args:
        mean: Means `[..., A]`.
        std: Positive standard deviations `[..., A]`.
        action_mask: `[..., A]`, 1 (or True) where the dimension exists.
        key: Random key, consumed.

    Returns:
        Samples `[..., A]` of the broadcast shape.
    """
    chex.assert_type([mean, std], float)
    active, mean, std = _align(action_mask, (mean, 0.0), (std, 1.0))
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return jnp.where(active, mean + std * noise, 0.0)


def log_prob(
    u: chex.Array, mean: chex.Array, std: chex.Array, action_mask: chex.Array
) -> jax.Array:
    """Log-density of `u` under `N(mean, std^2)`, in nats.

    Args:
        u: Pre-tanh actions `[..., A]`.
        mean: Means `[..., A]`.
        std: Positive standard deviations `[..., A]`.
        action_mask: `[..., A]`, 1 (or True) where the dimension exists.

    Returns:
        Log-densities `[...]`.
    """
    chex.assert_type([u, mean, std], float)
    active, u, mean, std = _align(action_mask, (u, 0.0), (mean, 0.0), (std, 1.0))
    terms = -0.5 * jnp.square((u - mean) / std) - jnp.log(std) - _HALF_LOG_TWO_PI
    return _sum_active(terms, active)


def tanh_log_prob(
    u: chex.Array, mean: chex.Array, std: chex.Array, action_mask: chex.Array
) -> jax.Array:
    """Log-density of the action `tanh(u)`, `u ~ N(mean, std^2)`, in nats.

    `log(1 - tanh(u)^2) = 2 * (log 2 - u - softplus(-2 u))` stays finite where `tanh` rounds to 1.

    Args:
        u: Pre-tanh actions `[..., A]`.
        mean: Means `[..., A]`.
        std: Positive standard deviations `[..., A]`.
        action_mask: `[..., A]`, 1 (or True) where the dimension exists.

    Returns:
        Log-densities `[...]`.
    """
    chex.assert_type([u, mean, std], float)
    active, safe_u, _, _ = _align(action_mask, (u, 0.0), (mean, 0.0), (std, 1.0))
    log_derivative = 2.0 * (_LOG_TWO - safe_u - jax.nn.softplus(-2.0 * safe_u))
    return log_prob(u, mean, std, action_mask) - _sum_active(log_derivative, active)


def entropy(std: chex.Array, action_mask: chex.Array) -> jax.Array:
    """Differential entropy of the pre-tanh Gaussian, in nats.

    Args:
        std: Positive standard deviations `[..., A]`.
        action_mask: `[..., A]`, 1 (or True) where the dimension exists.

    Returns:
        Entropies `[...]`.
    """
    chex.assert_type(std, float)
    active, std = _align(action_mask, (std, 1.0))
    return _sum_active(jnp.log(std) + _HALF_LOG_TWO_PI + 0.5, active)


def kl(
    mean_p: chex.Array,
    std_p: chex.Array,
    mean_q: chex.Array,
    std_q: chex.Array,
    action_mask: chex.Array,
) -> jax.Array:
    """Exact `KL(p || q)` of diagonal Gaussians, in nats; also that of their tanh images.

    Args:
        mean_p: Means of p `[..., A]`.
        std_p: Positive standard deviations of p `[..., A]`.
        mean_q: Means of q `[..., A]`.
        std_q: Positive standard deviations of q `[..., A]`.
        action_mask: `[..., A]`, 1 (or True) where the dimension exists.

    Returns:
        Divergences `[...]`, exactly 0 at equality.
    """
    chex.assert_type([mean_p, std_p, mean_q, std_q], float)
    active, mean_p, std_p, mean_q, std_q = _align(
        action_mask, (mean_p, 0.0), (std_p, 1.0), (mean_q, 0.0), (std_q, 1.0)
    )
    ratio = std_p / std_q
    # (r - 1)(r + 1) keeps the digits that r^2 - 1 loses near equality, where updates live.
    spread = 0.5 * (ratio - 1.0) * (ratio + 1.0) - jnp.log(ratio)
    return _sum_active(spread + 0.5 * jnp.square((mean_p - mean_q) / std_q), active)


def _align(
    action_mask: chex.Array, *arrays_and_fills: tuple[chex.Array, float]
) -> tuple[jax.Array, ...]:
    """Broadcasts everything to one shape and overwrites inactive entries by harmless constants.

    The overwriting comes before any arithmetic: selecting afterwards alone would still let
    `0 * inf = NaN` through in the backward pass.
    """
    arrays = [array for array, _ in arrays_and_fills]
    shape = jnp.broadcast_shapes(jnp.shape(action_mask), *(jnp.shape(array) for array in arrays))
    active = jnp.broadcast_to(action_mask, shape).astype(bool)
    safe = [
        jnp.where(active, jnp.broadcast_to(array, shape), fill) for array, fill in arrays_and_fills
    ]
    return active, *safe


def _sum_active(terms: jax.Array, active: jax.Array) -> jax.Array:
    """Sums the active terms over the last axis."""
    return jnp.sum(jnp.where(active, terms, 0.0), axis=-1)
