"""Rows of a batch that is spread over devices: their numbers, their random draws, their gathering.

`axis_name` holds the mesh axes over which a batch is spread, rows contiguous; empty, as is the
default everywhere, for a batch that is whole. What a row draws depends on its number in the whole
batch, so results do not depend on how many devices share the work.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.flatten_util
import jax.numpy as jnp

Tree = TypeVar("Tree")


def numbers(num_rows: int, axis_name: tuple[str, ...] = ()) -> jax.Array:
    """Numbers in the whole batch of the `num_rows` rows that lie here, `[num_rows]` int32."""
    here = jax.lax.axis_index(axis_name)
    return jnp.asarray(here * num_rows, jnp.int32) + jnp.arange(num_rows, dtype=jnp.int32)


def keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """One key for each row number `[N]`. The key is consumed."""
    folded: jax.Array = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
    return folded


def normal(key: jax.Array, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal draws `[N, *shape]` of the rows `[N]`. The key is consumed."""
    draws: jax.Array = jax.vmap(lambda k: jax.random.normal(k, shape))(keys(key, rows))
    return draws


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread(tree: Tree, axis_name: tuple[str, ...] = ()) -> Tree:
    """Floats that are equal on all devices, for use with rows that are not.

    Use it at the start of a function to differentiate: the gradients of all leaves are then summed
    over the devices in one exchange, and not each at every use.
    """
    result: Tree = jax.lax.pcast(tree, axis_name, to="varying")
    return result


def _spread_forward(tree: Tree, axis_name: tuple[str, ...]) -> tuple[Tree, None]:
    return spread(tree, axis_name), None


def _spread_backward(axis_name: tuple[str, ...], _: None, gradient: Tree) -> tuple[Tree]:
    if jax.lax.axis_size(axis_name) == 1:
        return (jax.lax.psum(gradient, axis_name),)
    flat, unravel = jax.flatten_util.ravel_pytree(gradient)
    return (unravel(jax.lax.psum(flat, axis_name)),)


spread.defvjp(_spread_forward, _spread_backward)


def gather(x: jax.Array, axis_name: tuple[str, ...] = ()) -> jax.Array:
    """The rows `[D * N, ...]` of all devices from the `[N, ...]` of each; equal on all devices."""
    if not axis_name:
        return x
    shares = jnp.zeros((jax.lax.axis_size(axis_name), *x.shape), x.dtype)
    # A sum and not an all-gather, whose result JAX's types do not know to be equal everywhere.
    own = shares.at[jax.lax.axis_index(axis_name)].set(x)
    return jax.lax.psum(own, axis_name).reshape(-1, *x.shape[1:])


def mean(x: Any, axis_name: tuple[str, ...] = ()) -> jax.Array:
    """Mean of all entries over all devices, `[]`; every device holds equally many."""
    return jax.lax.pmean(jnp.mean(x), axis_name)
