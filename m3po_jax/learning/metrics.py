"""Metrics of an iteration: how their names say what becomes of them, and those of a rollout."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from m3po_jax.envs.batch import Timestep
from m3po_jax.learning.parts import Parts
from m3po_jax.ops import statistics
from m3po_jax.types import Metrics

# How the metric of each module ends that counts its gradient steps that were left out. It is summed
# over updates.
SKIPPED = "/skipped"
# How the metrics end of which the largest counts; all others are averaged.
_MAX = "_max"


def none_of(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Metrics:
    """Metrics of an update that was not made: NaN, and no step left out."""
    return {
        name: jnp.full(shape.shape, 0.0 if name.endswith(SKIPPED) else jnp.nan)
        for name, shape in shapes.items()
    }


def add(total: Metrics, metrics: Metrics) -> Metrics:
    """Metrics of the updates so far, with those of one more."""
    return {
        name: jnp.maximum(total[name], value) if name.endswith(_MAX) else total[name] + value
        for name, value in metrics.items()
    }


def finish(total: Metrics, num_updates: jax.Array) -> Metrics:
    """What the updates gave together: NaN if there was none, but no step left out."""
    count = jnp.where(num_updates > 0, num_updates.astype(jnp.float32), jnp.nan)

    def of(name: str, x: jax.Array) -> jax.Array:
        if name.endswith(SKIPPED):
            return x
        return x + 0.0 * count if name.endswith(_MAX) else x / count

    return {name: of(name, value) for name, value in total.items()}


def rollout_metrics(timesteps: Timestep, parts: Parts) -> Metrics:
    """Per task `[K]`: mean return and length of episodes that ended, their number, faults."""
    task_id = jnp.broadcast_to(parts.env.task_id, timesteps.reward.shape)

    def moments(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return statistics.per_task_moments(
            x, task_id, mask, num_tasks=parts.num_tasks, axis_name=parts.axis_name
        )

    complete = timesteps.episode_complete
    episode_return, _, episodes = moments(timesteps.episode_return, complete)
    length, _, _ = moments(timesteps.episode_length.astype(jnp.float32), complete)
    valid_fraction, _, count = moments(timesteps.valid, jnp.ones_like(timesteps.valid))
    reward, _, _ = moments(timesteps.reward, timesteps.valid)
    none = jnp.where(episodes > 0.0, 0.0, jnp.nan)
    return {
        "rollout/episode_return": episode_return + none,
        "rollout/episode_length": length + none,
        "rollout/episodes": episodes,
        "rollout/reward": reward,
        "rollout/faults": count * (1.0 - valid_fraction),
    }
