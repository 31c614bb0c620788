"""First states that episodes which end go on with, drawn once per unroll."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from m3po_jax.envs import base

# For each environment object an `EnvState` with leaves `[N_k + V_k, ...]`, V_k its variations.
ResetPool = tuple[base.EnvState, ...]


def of(
    env_states: tuple[base.EnvState, ...],
    strides: Sequence[int],
    *,
    axis_name: tuple[str, ...],
    num_shards: int,
) -> ResetPool:
    """First states `[N_k, ...]` of each object with those of the next environments behind.

    The environment after the last one of this share is the first of the next device's, and after
    the last of all comes the first.

    Args:
        env_states: First states of the environments here.
        strides: How many rows further in each object the next environment of the same task stands.
        axis_name: Mesh axes over which each object's environments are spread.
        num_shards: Number of their shares.
    """

    def extend(x: jax.Array, stride: int) -> jax.Array:
        first = x[:stride]
        if axis_name and x.size > 0:
            ring = [(i, (i - 1) % num_shards) for i in range(num_shards)]
            first = jax.lax.ppermute(first, axis_name, ring)
        return jnp.concatenate([x, first])

    return tuple(
        jax.tree.map(lambda x, stride=stride: extend(x, stride), states)
        for states, stride in zip(env_states, strides, strict=True)
    )


def where_ended(
    ended: jax.Array, resets: jax.Array, first: base.EnvState, last: base.EnvState, *, stride: int
) -> base.EnvState:
    """Returns `last`, and where `ended [N]` a first state from `first [N + stride]` instead."""
    num_envs = ended.shape[0]
    index = jnp.arange(num_envs) + stride * (resets % 2)

    def select(pooled: jax.Array, stepped: jax.Array) -> jax.Array:
        where = ended.reshape((num_envs,) + (1,) * (stepped.ndim - 1))
        return jnp.where(where, pooled[index], stepped)

    return jax.tree.map(select, first, last)
