"""The value-discrepancy bonus (docs/concepts.md; after POME, arXiv 1811.07350).

Where the model-based and the model-free value of a transition disagree, one of them has something
to learn. The bonus is a reward for exploring and never enters a task's reward, value or return.
"""

import jax
import jax.numpy as jnp

from m3po_jax.config import ExplorationConfig, check
from m3po_jax.ops import rows, statistics


def discrepancy_bonus(
    q_mf: jax.Array,
    q_mb: jax.Array,
    value: jax.Array,
    task_id: jax.Array,
    moments: statistics.RunningMoments,
    *,
    cfg: ExplorationConfig,
    valid: jax.Array | None = None,
    axis_name: tuple[str, ...] = (),
) -> jax.Array:
    """Bonus of transitions.

    `discrepancy`: `clip((delta - mean_k) / (std_k + 1e-6), 0, max_bonus)`, `delta = |q_mf - q_mb|`.
    `pome`: `clip(delta - median_k, -|q_mf - value|, |q_mf - value|)` in units of `std_k`, the
    median over the samples of the same task; at most `max_bonus` in size, as `std_k` can be tiny.

    Args:
        q_mf: Model-free values `r + gamma (1 - d) V_mf(h(o'))` `[...]`.
        q_mb: Model-based values `r^ + gamma (1 - d^) V_mb(d(z, a))` `[...]`.
        value: V_mf of the state `[...]`; used by `pome`.
        task_id: `[...]` int32.
        moments: Running moments of delta per task.
        cfg: Form and clip of the bonus.
        valid: `[...]` 0 or 1; transitions of 0 do not enter the median. `None` takes all.
        axis_name: Mesh axes over which the transitions are spread.

    Returns:
        Bonuses `[...]`.

    Raises:
        ConfigError: A value of `cfg` is not one that it may have.
    """
    check(cfg, "exploration")
    delta = jnp.abs(q_mf - q_mb)
    std = moments.std[task_id] + 1e-6
    if cfg.bonus == "discrepancy":
        return jnp.clip((delta - moments.mean[task_id]) / std, 0.0, cfg.max_bonus)
    limit = jnp.abs(q_mf - value)
    num_tasks = moments.mean.shape[0]
    counted = delta if valid is None else jnp.where(valid > 0.0, delta, jnp.nan)
    deltas, tasks = (rows.gather(jnp.ravel(x), axis_name) for x in (counted, task_id))
    per_task = jnp.where(tasks == jnp.arange(num_tasks)[:, None], deltas, jnp.nan)
    median = jnp.nan_to_num(jnp.nanmedian(per_task, axis=1))[task_id]
    bonus = jnp.clip(delta - median, -limit, limit) / std
    return jnp.clip(bonus, -cfg.max_bonus, cfg.max_bonus)


def exploration_weight(progress: jax.Array | float, *, start: float, end: float) -> jax.Array:
    """Weight beta of the bonus, linear in `progress`, which is clipped to [0, 1]."""
    return start + (end - start) * jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)
