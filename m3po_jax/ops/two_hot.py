"""Scalars as categorical distributions over bins that are equally spaced in symlog units."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.ops.symlog import symexp, symlog


@dataclasses.dataclass(frozen=True)
class Support:
    """Bins of a two-hot distribution; hashable, so it can be a static argument.

    Attributes:
        low: Lowest bin, in symlog units.
        high: Highest bin, in symlog units.
        num_bins: Number of bins, both ends included, at least 2.

    Raises:
        ValueError: If the bins would not be an increasing sequence of at least two.
    """

    low: float
    high: float
    num_bins: int

    def __post_init__(self) -> None:
        """Refuses a support that has no interval."""
        if not self.low < self.high:
            raise ValueError(f"Support needs low < high, got low={self.low}, high={self.high}.")
        if self.num_bins < 2:
            raise ValueError(f"Support needs at least 2 bins, got num_bins={self.num_bins}.")

    @property
    def bins(self) -> np.ndarray:
        """The bins `[num_bins]` in symlog units, float32 (a constant under `jit`)."""
        return np.linspace(self.low, self.high, self.num_bins, dtype=np.float64).astype(np.float32)


def _neighbours(x: chex.Array, support: Support) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the index of the bin below symlog(x) and the weights of it and of the next bin."""
    bins = jnp.asarray(support.bins)
    y = jnp.clip(symlog(x), bins[0], bins[-1])
    step = (support.high - support.low) / (support.num_bins - 1)
    index = jnp.floor((y - support.low) / step).astype(jnp.int32)
    index = jnp.clip(index, 0, support.num_bins - 2)
    # The division rounds, so a value beside a bin can land on the wrong side of it.
    index = index + (y >= bins[index + 1]).astype(jnp.int32) - (y < bins[index]).astype(jnp.int32)
    index = jnp.clip(index, 0, support.num_bins - 2)
    below, above = bins[index], bins[index + 1]
    # Each weight is its own distance, not 1 minus the other: a small weight keeps its relative
    # precision, so values near zero survive a round trip.
    gap = above - below
    weight_below, weight_above = (above - y) / gap, (y - below) / gap
    return index, weight_below, weight_above


def encode(x: chex.Array, support: Support) -> jax.Array:
    """Two-hot encoding of `symlog(x)`, clipped to the support.

    Linear interpolation between the two nearest bins, so `decode_probs` inverts it to float32
    precision anywhere in range (DreamerV3, arXiv 2301.04104).

    Args:
        x: Scalars `[...]` in raw units.
        support: The bins.

    Returns:
        Probabilities `[..., num_bins]`: at most two are not zero, and they sum to 1.
    """
    chex.assert_type(x, float)
    index, weight_below, weight_above = _neighbours(x, support)
    below = jax.nn.one_hot(index, support.num_bins, dtype=weight_below.dtype)
    above = jax.nn.one_hot(index + 1, support.num_bins, dtype=weight_below.dtype)
    return below * weight_below[..., None] + above * weight_above[..., None]


def decode_probs(probs: chex.Array, support: Support) -> jax.Array:
    """Scalar of a distribution over the bins: `symexp` of its mean in symlog units.

    Args:
        probs: Probabilities `[..., num_bins]`.
        support: The bins.

    Returns:
        Scalars `[...]` in raw units.
    """
    chex.assert_type(probs, float)
    chex.assert_axis_dimension(probs, -1, support.num_bins)
    # A multiply and a sum, not a dot: accelerators may round the inputs of a dot.
    return symexp(jnp.sum(probs * _bins_like(probs, support), axis=-1))


def decode(logits: chex.Array, support: Support) -> jax.Array:
    """Scalar of unnormalised log-probabilities, `decode_probs(softmax(logits))`.

    Args:
        logits: Logits `[..., num_bins]`.
        support: The bins.

    Returns:
        Scalars `[...]` in raw units.
    """
    chex.assert_type(logits, float)
    chex.assert_axis_dimension(logits, -1, support.num_bins)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    # One division of the two sums, so the normalised probabilities are never materialised.
    mean = jnp.sum(weights * _bins_like(logits, support), axis=-1) / jnp.sum(weights, axis=-1)
    return symexp(mean)


def cross_entropy(logits: chex.Array, x: chex.Array, support: Support) -> jax.Array:
    """Cross-entropy of predicted logits against the two-hot encoding of `x`, in nats.

    `x` is a target: no gradient flows into it.

    Args:
        logits: Logits `[..., num_bins]`.
        x: Target scalars `[...]` in raw units (not symlog), clipped to the support.
        support: The bins.

    Returns:
        Losses `[...]`, at least the entropy of the encoding.
    """
    chex.assert_type([logits, x], float)
    chex.assert_shape(logits, (*jnp.shape(x), support.num_bins))
    index, weight_below, weight_above = _neighbours(jax.lax.stop_gradient(x), support)
    # Gathering the two logits beat a dense two-hot product (on one CPU core, gradient included).
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    log_normaliser = jnp.log(jnp.sum(jnp.exp(logits - peak[..., None]), axis=-1))
    below = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0] - peak
    above = jnp.take_along_axis(logits, index[..., None] + 1, axis=-1)[..., 0] - peak
    return log_normaliser - (weight_below * below + weight_above * above)


def _bins_like(x: jax.Array, support: Support) -> jax.Array:
    """Returns the bins with leading unit axes, so that no rank is promoted implicitly."""
    return jnp.asarray(support.bins).reshape((1,) * (jnp.ndim(x) - 1) + (support.num_bins,))
