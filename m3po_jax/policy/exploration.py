"""The value-discrepancy bonus (docs/concepts.md; after POME, arXiv 1811.07350).

Where the model-based and the model-free value of a transition disagree, one of them has something
to learn. The bonus is a reward for exploring and never enters a task's reward, value or return.
"""

import jax
import jax.numpy as jnp

from m3po_jax.config import ExplorationConfig, check
from m3po_jax.ops import statistics


def discrepancy_bonus(
    q_mf: jax.Array,
    q_mb: jax.Array,
    task_id: jax.Array,
    moments: statistics.RunningMoments,
    *,
    config: ExplorationConfig,
) -> jax.Array:
    """Bonus of transitions: `clip((delta - mean_k) / (std_k + 1e-6), 0, max_bonus)`.

    `delta = |q_mf - q_mb|` is how much the two values of a transition disagree.

    Args:
        q_mf: Model-free values `r + gamma (1 - d) V_mf(h(o'))` `[...]`.
        q_mb: Model-based values `r^ + gamma (1 - d^) V_mb(d(z, a))` `[...]`.
        task_id: `[...]` int32.
        moments: Running moments of delta per task.
        config: Clip of the bonus.

    Returns:
        Bonuses `[...]`.

    Raises:
        ConfigError: A value of `config` is not one that it may have.
    """
    check(config, "exploration")
    delta = jnp.abs(q_mf - q_mb)
    std = moments.std[task_id] + 1e-6
    return jnp.clip((delta - moments.mean[task_id]) / std, 0.0, config.max_bonus)


def exploration_weight(progress: jax.Array | float, *, start: float, end: float) -> jax.Array:
    """Weight beta of the bonus, linear in `progress`, which is clipped to [0, 1]."""
    return start + (end - start) * jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)
