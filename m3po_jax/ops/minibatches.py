"""Shuffled minibatches for epochs over one set of samples."""

from typing import Any

import jax
import jax.numpy as jnp


def minibatches(data: Any, key: jax.Array, *, epochs: int, num_minibatches: int) -> Any:
    """Splits samples into minibatches, freshly shuffled in every epoch.

    Args:
        data: Pytree with leaves `[N, ...]`.
        key: Consumed.
        epochs: Passes over the data.
        num_minibatches: Minibatches per pass; 1 keeps the order.

    Returns:
        Leaves `[epochs * num_minibatches, N / num_minibatches, ...]`.

    Raises:
        ValueError: `N` is not a multiple of `num_minibatches`.
    """
    num_samples = jax.tree.leaves(data)[0].shape[0]
    if num_samples % num_minibatches:
        raise ValueError(f"{num_samples} samples do not split into {num_minibatches} minibatches")
    if num_minibatches == 1:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (epochs, *x.shape)), data)
    permute = jax.vmap(lambda k: jax.random.permutation(k, num_samples))
    order = permute(jax.random.split(key, epochs)).reshape(epochs * num_minibatches, -1)
    return jax.tree.map(lambda x: x[order], data)
