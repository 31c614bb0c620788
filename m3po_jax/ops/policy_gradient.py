"""Policy-gradient objectives, per sample and unreduced."""

import math

import chex
import jax
import jax.numpy as jnp

# exp(20) is 5e8. Beyond it a ratio is a fault, and an infinite one times a zero advantage is NaN.
_MAX_LOG_RATIO = 20.0


def clipped_surrogate(
    log_ratio: chex.Array, advantage: chex.Array, *, clip_epsilon: float
) -> jax.Array:
    """PPO's clipped surrogate objective, to be maximised (arXiv 1707.06347, equation 7).

    `min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)`. At ratio 1 its gradient is the policy
    gradient `A * grad log pi`.

    Args:
        log_ratio: `log pi_new(u) - log pi_old(u)` `[...]`, saturated at +-20.
        advantage: Advantages `[...]`; no gradient flows into them.
        clip_epsilon: Half-width of the ratio's range, positive.

    Returns:
        Objectives `[...]`.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    chex.assert_type([log_ratio, advantage], float)
    advantage = jax.lax.stop_gradient(advantage)
    ratio = jnp.exp(jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    clipped = jnp.clip(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def importance_weight(log_ratio: chex.Array, *, cap: float = 1.0) -> jax.Array:
    """Truncated importance weight `min(cap, exp(log_ratio))`, a constant (no gradient).

    The truncation is V-trace's (arXiv 1802.01561, equation 1).

    Args:
        log_ratio: `log target(u) - log behaviour(u)` `[...]`.
        cap: Largest weight, positive.

    Returns:
        Weights `[...]` in [0, cap].
    """
    chex.assert_type(log_ratio, float)
    # The cap is applied to the logarithm, so that the exponential cannot overflow.
    return jnp.exp(jax.lax.stop_gradient(jnp.minimum(log_ratio, math.log(cap))))
