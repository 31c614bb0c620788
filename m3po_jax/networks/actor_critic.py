"""The policy prior, the model-free critic and the bonus critic."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3po_jax.networks import layers

# Beyond this pre-tanh mean an action is 1 to float32's third digit; a bounded mean keeps the
# gradient of a saturated policy, and its pre-tanh KL, from vanishing or running away.
_MEAN_BOUND = 5.0


class Actor(nn.Module):
    """A diagonal Gaussian over pre-tanh actions.

    Attributes:
        width: Width of the two hidden layers.
        action_size: Padded action size A.
        log_std_min: Lowest log standard deviation.
        log_std_max: Highest log standard deviation.
        precision: Of the products' inputs, as for `layers.MLP`.
    """

    width: int
    action_size: int
    log_std_min: float
    log_std_max: float
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, z: jax.Array, e: jax.Array, action_mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns mean and standard deviation `[..., A]`; both 0 in inactive dims.

        Args:
            z: Latents `[..., Z]`.
            e: Task embeddings `[..., E]`.
            action_mask: 1 for active action dims `[..., A]`.
        """
        x = jnp.concatenate([z, e], axis=-1)
        hidden = (self.width, self.width)
        out = layers.MLP(hidden, 2 * self.action_size, precision=self.precision)(x)
        mean, raw = jnp.split(out, 2, axis=-1)
        mean = _MEAN_BOUND * jnp.tanh(mean / _MEAN_BOUND)
        span = self.log_std_max - self.log_std_min
        std = jnp.exp(self.log_std_min + 0.5 * span * (jnp.tanh(raw) + 1.0))
        active = action_mask > 0.0
        return jnp.where(active, mean, 0.0), jnp.where(active, std, 0.0)


class Critic(nn.Module):
    """Two-hot logits of a state's value: V_mf(z, e) or V_x(z, e).

    Attributes:
        width: Width of the two hidden layers.
        num_bins: Bins of the head.
        precision: Of the products' inputs, as for `layers.MLP`.
    """

    width: int
    num_bins: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Maps inputs `[..., n_i]`, joined along the last axis, to logits `[..., bins]`."""
        x = jnp.concatenate(inputs, axis=-1)
        hidden = (self.width, self.width)
        head = layers.MLP(hidden, self.num_bins, zero_output=True, precision=self.precision)
        return head(x)
