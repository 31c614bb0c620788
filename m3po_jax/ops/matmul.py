"""Matrix products of bfloat16 inputs with float32 sums."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def bfloat16_matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """Product of inputs that are rounded to bfloat16, summed in float32.

    So are the two products of its gradient: `jax.grad` of a product of casts would give the
    gradient back in bfloat16 and multiply the float32 cotangent by bfloat16.

    Args:
        x: float32 `[..., I]`.
        w: float32 `[I, O]`.

    Returns:
        float32 `[..., O]`.
    """
    return _forward(x, w)[0]


def bfloat16_dot_general(x: jax.Array, w: jax.Array, dimension_numbers: Any, **_: Any) -> jax.Array:
    """Does `bfloat16_matmul` as the `dot_general` of a `flax.linen.Dense`.

    Raises:
        ValueError: `dimension_numbers` do not join the last axis of `x` and the first of `w`.
    """
    if dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
        raise ValueError(f"dimension numbers {dimension_numbers} are not those of a Dense layer")
    return bfloat16_matmul(x, w)


def _product(subscripts: str, *inputs: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *inputs, preferred_element_type=jnp.float32)


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    rounded = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _product("...i,io->...o", *rounded), rounded


def _backward(
    rounded: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = rounded
    gradient = gradient.astype(jnp.bfloat16)
    return _product("...o,io->...i", gradient, w), _product("...i,...o->io", x, gradient)


bfloat16_matmul.defvjp(_forward, _backward)
