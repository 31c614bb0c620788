"""Imagination: following the policy in the latent model."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from m3po_jax.types import LatentModel


@flax.struct.dataclass
class Imagined:
    """Latent-only experience of `H` steps, time-major; leading batch axes are free."""

    z: jax.Array  # [H, ..., Z] where the action was taken
    z_next: jax.Array  # [H, ..., Z]
    u: jax.Array  # [H, ..., A] pre-tanh action
    mean: jax.Array  # [H, ..., A] of the policy that drew u
    std: jax.Array  # [H, ..., A]
    reward: jax.Array  # [H, ...]
    continuation: jax.Array  # [H, ...] probability of no termination


def imagine(model: LatentModel, z: jax.Array, context: Any, noise: jax.Array) -> Imagined:
    """Follows the model's stochastic policy for `H` steps.

    Args:
        model: The latent model.
        z: Start latents `[..., Z]`.
        context: What the model needs of the task; it stays the same over time.
        noise: Standard normal draws `[H, ..., A]` of the actions.
    """

    def step(z: jax.Array, noise: jax.Array) -> tuple[jax.Array, Imagined]:
        mean, std = model.policy(z, context)
        u = mean + std * noise
        z_next, reward, continuation = model.next(z, u, context)
        return z_next, Imagined(z, z_next, u, mean, std, reward, continuation)

    # Horizons are short: unrolled, the steps need no loop and fuse better.
    _, imagined = jax.lax.scan(step, z, noise, unroll=True)
    return imagined


def reach_probability(continuation: jax.Array) -> jax.Array:
    """Probability `[H, ...]` that step h is reached at all, from continuations `[H, ...]`."""
    reached = jnp.cumprod(continuation, axis=0)
    return jnp.concatenate([jnp.ones_like(reached[:1]), reached[:-1]], axis=0)
