"""Counts beyond 2^32, which arrays hold without 64-bit numbers: two words of 32 bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def zero() -> jax.Array:
    """A count `[2]` uint32 of nothing: the low word, then the high one."""
    return jnp.zeros(2, jnp.uint32)


def add(count: jax.Array, number: jax.Array | int) -> jax.Array:
    """Adds a number `[]` from 0 to below 2^32 to a count `[2]`."""
    low = count[0] + jnp.asarray(number).astype(jnp.uint32)
    return jnp.stack([low, count[1] + (low < count[0]).astype(jnp.uint32)])


def approximately(count: jax.Array) -> jax.Array:
    """A count `[2]` as float32 `[]`, exact to 2^24."""
    low, high = count.astype(jnp.float32)
    return high * 2.0**32 + low


def whole(count: Any) -> int:
    """A count `[2]` on the host."""
    low, high = np.asarray(count)
    return int(high) << 32 | int(low)
