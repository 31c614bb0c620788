"""The exploration bonus: novelty is where an ensemble disagrees about what comes next.

After Plan2Explore (arXiv 2005.05960): networks that start differently agree where data are plenty
and disagree where they are missing, whatever the reward is. Novelty steers the collecting planner
alone; no critic of a task, no policy and no return ever sees it.
"""

import jax
import jax.numpy as jnp

from m3po_jax.ops.statistics import RunningRange

# Disagreement of networks that agree to the last digit.
_NO_DISAGREEMENT = 1e-6


def disagreement(guesses: jax.Array) -> jax.Array:
    """Root mean square over features of the members' spread, `[...]` of guesses `[E, ..., Z]`."""
    return jnp.sqrt(jnp.mean(jnp.var(guesses, axis=0), axis=-1))


def novelty_bonus(disagreement: jax.Array, mean: jax.Array, *, max_bonus: float) -> jax.Array:
    """Bonus of steps: their disagreement in units of its mean over the task's replayed steps.

    Args:
        disagreement: `[...]`, 0 or more.
        mean: The task's running mean, of a shape that broadcasts to that.
        max_bonus: Upper clip.

    Returns:
        `clip(disagreement / mean, 0, max_bonus)` `[...]`.
    """
    return jnp.clip(disagreement / (mean + _NO_DISAGREEMENT), 0.0, max_bonus)


def novelty_weight(
    reward: RunningRange, recent: jax.Array, *, scale: float
) -> tuple[jax.Array, jax.Array]:
    """What novelty is worth in each task, in units of its return.

    `scale * (high - recent)`: a share of how far the rewards that the task gives of late stay below
    the best one that it has shown. It scales with the task's rewards, a constant added to all of
    them changes nothing, and it ends as the task is mastered.

    Args:
        reward: Range of the rewards per agent step, K tasks.
        recent: Mean of the rewards collected of late `[K]`.
        scale: The share.

    Returns:
        Weights `[K]`, and whether they mean anything `[K]`: where all rewards so far are equal,
        nothing is known that pays, and novelty is all there is.
    """
    known = reward.width > 0.0
    return scale * jnp.clip(reward.high - recent, 0.0, reward.width), known


def expectile_weight(target: jax.Array, value: jax.Array, *, expectile: float) -> jax.Array:
    """Weights `[...]` of regression samples that make it find an expectile and not the mean."""
    return jnp.where(target > value, expectile, 1.0 - expectile)
