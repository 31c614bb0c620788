"""First states that episodes which end go on with, drawn once per unroll."""

import jax
import jax.numpy as jnp

from m3po_jax.envs import base

# For each task an `EnvState` with leaves `[N_k + 1, ...]`.
ResetPool = tuple[base.EnvState, ...]


def of(
    env_states: tuple[base.EnvState, ...], *, axis_name: tuple[str, ...], num_shards: int
) -> ResetPool:
    """First states `[N_k, ...]` of each task with that of the next environment behind.

    The environment after the last one of this share is the first of the next device's, and after
    the last of all comes the first.

    Args:
        env_states: First states of the environments here.
        axis_name: Mesh axes over which each task's environments are spread.
        num_shards: Number of their shares.
    """

    def extend(x: jax.Array) -> jax.Array:
        first = x[:1]
        if axis_name and x.size > 0:
            ring = [(i, (i - 1) % num_shards) for i in range(num_shards)]
            first = jax.lax.ppermute(first, axis_name, ring)
        return jnp.concatenate([x, first])

    pool: ResetPool = jax.tree.map(extend, env_states)
    return pool


def where_ended(
    ended: jax.Array, resets: jax.Array, first: base.EnvState, last: base.EnvState
) -> base.EnvState:
    """Returns `last`, and where `ended [N]` a first state from the pool `first [N + 1]` instead."""
    num_envs = ended.shape[0]
    index = jnp.arange(num_envs) + resets % 2

    def select(pooled: jax.Array, stepped: jax.Array) -> jax.Array:
        where = ended.reshape((num_envs,) + (1,) * (stepped.ndim - 1))
        return jnp.where(where, pooled[index], stepped)

    return jax.tree.map(select, first, last)
