"""Optimizers whose state is kept in parts, one on each device of a mesh axis."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from m3po_jax.types import Params


def split_axis(shape: tuple[int, ...], num_parts: int) -> int | None:
    """The axis along which an array is kept in parts.

    Args:
        shape: Of the whole array.
        num_parts: Equal parts to make.

    Returns:
        The longest axis that divides, the first of equally long ones. None, for an array that stays
        whole, where no axis divides, and for a single axis: biases are small, and many.
    """
    axes = [k for k, size in enumerate(shape) if size and size % num_parts == 0]
    if num_parts == 1 or len(shape) < 2 or not axes:
        return None
    return max(axes, key=lambda k: shape[k])


def in_parts(
    optimizer: optax.GradientTransformation, num_parts: int, axis_name: str
) -> optax.GradientTransformation:
    """The optimizer with a state in parts: each device updates its own, and all gather the updates.

    Gradient, parameters and updates are whole and equal on all devices; the state is that of
    `split_axis`. Whatever looks at entries one by one works unchanged; what needs the norm of a
    gradient must take it from the extra argument `global_norm`, as that of the whole.

    Args:
        optimizer: Its `init` makes the state of whole parameters.
        num_parts: Devices on the axis.
        axis_name: The mesh axis.
    """
    if num_parts == 1:
        return optimizer
    inner = optax.with_extra_args_support(optimizer)

    def own(x: jax.Array) -> jax.Array:
        axis = split_axis(x.shape, num_parts)
        if axis is None:
            return x
        size = x.shape[axis] // num_parts
        here = jax.lax.axis_index(axis_name) * size
        return jax.lax.dynamic_slice_in_dim(x, here, size, axis)

    def whole(part: jax.Array, like: jax.Array) -> jax.Array:
        axis = split_axis(like.shape, num_parts)
        if axis is None:
            return part
        return jax.lax.all_gather(part, axis_name, axis=axis, tiled=True, to="invarying")

    def update(
        gradient: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        def global_norm(parts: Params) -> jax.Array:
            shared, split = jnp.zeros(()), jnp.zeros(())
            for part, like in zip(jax.tree.leaves(parts), jax.tree.leaves(gradient), strict=True):
                square = jnp.sum(jnp.square(part))
                if part.shape == like.shape:
                    shared += square
                else:
                    split += square
            return jnp.sqrt(shared + jax.lax.psum(split, axis_name))

        mine: Any = (jax.tree.map(own, gradient), state, jax.tree.map(own, params))
        updates, state = inner.update(*mine, global_norm=global_norm)
        return jax.tree.map(whole, updates, gradient), state

    return optax.GradientTransformation(optimizer.init, update)
