"""Symmetric logarithm: squashes rewards and returns of any scale, keeps their sign."""

import chex
import jax
import jax.numpy as jnp


def symlog(x: chex.Array) -> jax.Array:
    """Symmetric logarithm `sign(x) * log(1 + |x|)` (DreamerV3, arXiv 2301.04104).

    Its slope is `1 / (1 + |x|)` everywhere, also at 0, where differentiating the formula through
    `sign` and `abs` would give 0.

    Args:
        x: Floats of any shape.

    Returns:
        An array of the shape of `x`; finite for every finite `x`.
    """
    chex.assert_type(x, float)
    negative = x < 0
    value = jnp.log1p(jnp.where(negative, -x, x))
    return jnp.where(negative, -value, value)


def symexp(x: chex.Array) -> jax.Array:
    """Inverse of `symlog`: `sign(x) * (exp(|x|) - 1)`.

    Args:
        x: Floats of any shape, in symlog units.

    Returns:
        An array of the shape of `x`; infinite where `|x|` passes 88 (float32).
    """
    chex.assert_type(x, float)
    negative = x < 0
    value = jnp.expm1(jnp.where(negative, -x, x))
    return jnp.where(negative, -value, value)
