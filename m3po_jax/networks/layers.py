"""Building blocks: Mish, SimNorm, the Dense-LayerNorm-Mish layer and MLPs made of it."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3po_jax.ops.matmul import bfloat16_dot_general

# TD-MPC2's weight scale: LayerNorm makes the forward pass indifferent to it, and small weights
# make Adam's first steps large in relative terms.
_KERNEL_INIT = nn.initializers.truncated_normal(0.02)

# Products of inputs of a precision, as `nn.Dense` takes them. Sums and parameters are float32.
DOT_GENERAL: dict[str, Callable[..., jax.Array]] = {
    "float32": jax.lax.dot_general,
    "bfloat16": bfloat16_dot_general,
}


def mish(x: jax.Array) -> jax.Array:
    """Mish, `x * tanh(softplus(x))`, with a single exponential (Misra, arXiv 1908.08681).

    With `n = e^x (e^x + 2)`, `tanh(softplus(x)) = n / (n + 2)`. The exponent is capped where the
    quotient is 1 in float32 already.
    """
    exp_x = jnp.exp(jnp.minimum(x, 20.0))
    n = exp_x * (exp_x + 2.0)
    return x * (n / (n + 2.0))


def sim_norm(x: jax.Array, *, simplex_size: int) -> jax.Array:
    """Softmax over groups of `simplex_size` features (SimNorm, TD-MPC2, arXiv 2310.16828).

    Args:
        x: Features `[..., Z]`, `Z` a multiple of `simplex_size`.
        simplex_size: Size of a group.

    Returns:
        Features `[..., Z]`, each group non-negative with sum 1.

    Raises:
        ValueError: `Z` is not a multiple of `simplex_size`.
    """
    if x.shape[-1] % simplex_size:
        raise ValueError(f"{x.shape[-1]} features cannot be split into groups of {simplex_size}")
    groups = x.reshape(*x.shape[:-1], -1, simplex_size)
    return jax.nn.softmax(groups, axis=-1).reshape(x.shape)


class NormedDense(nn.Module):
    """Dense, optional dropout, LayerNorm, activation.

    Attributes:
        features: Output size.
        activation: Applied last.
        dropout: Rate of the dropout that keys switch on.
        precision: Of the product's inputs, a key of `DOT_GENERAL`.
    """

    features: int
    activation: Callable[[jax.Array], jax.Array] = mish
    dropout: float = 0.0
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Maps `[..., in]` to `[..., features]`.

        With `dropout_keys` `[N]`, which are consumed, x is `[..., N, in]` and each of the N rows
        draws with its own key.
        """
        x = _dense(self.features, self.precision)(x)
        if self.dropout > 0.0 and dropout_keys is not None:
            x = _dropout(x, dropout_keys, rate=self.dropout)
        return self.activation(nn.LayerNorm()(x))


class MLP(nn.Module):
    """Hidden `NormedDense` layers and a plain Dense output.

    Attributes:
        hidden: Widths of the hidden layers.
        features: Output size.
        dropout: Dropout rate of the first hidden layer.
        zero_output: Whether the output layer starts at zero.
        precision: Of the products' inputs, a key of `DOT_GENERAL`.
    """

    hidden: Sequence[int]
    features: int
    dropout: float = 0.0
    zero_output: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Maps `[..., in]` to `[..., features]`; for `dropout_keys` see `NormedDense`."""
        for index, width in enumerate(self.hidden):
            dropout = self.dropout if index == 0 else 0.0
            x = NormedDense(width, dropout=dropout, precision=self.precision)(x, dropout_keys)
        init = nn.initializers.zeros_init() if self.zero_output else _KERNEL_INIT
        return _dense(self.features, self.precision, init)(x)


def ensemble(module: type[MLP], size: int) -> type[nn.Module]:
    """Returns `module` with `size` independent parameter sets; outputs gain a leading axis.

    Keys of dropout, if there are any, have that axis too: `[size, N]`.
    """
    return nn.vmap(
        module,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(None, 0),
        out_axes=0,
        axis_size=size,
    )


def _dense(features: int, precision: str, init: Any = _KERNEL_INIT) -> nn.Dense:
    return nn.Dense(features, kernel_init=init, dot_general=DOT_GENERAL[precision])


def _dropout(x: jax.Array, keys: jax.Array, *, rate: float) -> jax.Array:
    # 16 random bits decide an element: half the generator's work of a float draw.
    threshold = round(rate * 2**16)
    shape = (*x.shape[:-2], x.shape[-1])
    bits = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint16), out_axes=-2)(keys)
    keep = bits >= threshold
    return jnp.where(keep, x / (1.0 - threshold / 2**16), 0.0)
