"""Where the next plan starts: the last one, one step on."""

import jax
import jax.numpy as jnp


def shift(plan_mean: jax.Array) -> jax.Array:
    """Drops the executed step of a plan `[..., H, A]`; the new last step is zero."""
    return jnp.concatenate([plan_mean[..., 1:, :], jnp.zeros_like(plan_mean[..., :1, :])], axis=-2)


def reset_where(plan_mean: jax.Array, episode_end: jax.Array) -> jax.Array:
    """Zeroes the plans `[B, H, A]` of environments whose episode ended, `[B]` 0 or 1."""
    return jnp.where(episode_end[:, None, None] > 0.0, 0.0, plan_mean)
