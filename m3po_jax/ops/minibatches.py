"""Shuffled minibatches for epochs over one set of samples."""

from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.ops import rows


def minibatches(
    data: Any,
    key: jax.Array,
    *,
    epochs: int,
    num_minibatches: int,
    axis_name: tuple[str, ...] = (),
) -> Any:
    """Splits samples into minibatches, freshly shuffled in every epoch.

    Of every `num_minibatches` consecutive samples one goes to each minibatch, in random order. So
    consecutive samples, which are similar, are dealt out evenly, and every device that holds a part
    of the samples holds as large a part of each minibatch.

    Args:
        data: Pytree with leaves `[N, ...]`, the samples of this device.
        key: Consumed; the same on every device.
        epochs: Passes over the data.
        num_minibatches: Minibatches per pass; 1 keeps the order.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        Leaves `[epochs * num_minibatches, N / num_minibatches, ...]`.

    Raises:
        ValueError: `N` is not a multiple of `num_minibatches`.
    """
    num_samples = jax.tree.leaves(data)[0].shape[0]
    if num_samples % num_minibatches:
        raise ValueError(
            f"{num_samples} samples cannot be split into {num_minibatches} minibatches"
        )
    if num_minibatches == 1:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (epochs, *x.shape)), data)
    strata = num_samples // num_minibatches
    deal = jax.vmap(lambda k: jax.random.permutation(k, num_minibatches))

    def one_epoch(key: jax.Array) -> jax.Array:
        dealt = deal(rows.keys(key, rows.numbers(strata, axis_name)))
        return (num_minibatches * jnp.arange(strata, dtype=dealt.dtype)[:, None] + dealt).T

    order = jax.vmap(one_epoch)(jax.random.split(key, epochs)).reshape(-1, strata)
    return jax.tree.map(lambda x: x[order], data)
