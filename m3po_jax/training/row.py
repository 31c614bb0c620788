"""What a row of metrics.csv says of the iterations that it covers."""

from collections.abc import Mapping, Sequence

import numpy as np

from m3po_jax.training import lines


def summarize(metrics: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One value per metric over several iterations.

    Counts are added, names in `_max` take the maximum, returns and lengths are weighted by the
    number of episodes, all else is averaged over the iterations that have it (are not NaN).

    Args:
        metrics: Metrics of each iteration, `[]` or `[K]`.
    """
    stacked = {name: np.stack([m[name] for m in metrics]) for name in metrics[0]}
    episodes = stacked["rollout/episodes"]
    summary = {}
    for name, values in stacked.items():
        present = ~np.isnan(values)
        filled = np.where(present, values, 0.0)
        if name.endswith(lines.SUMMED):
            summary[name] = np.sum(values, axis=0)
            continue
        if name.endswith("_max"):
            largest = np.max(np.where(present, values, -np.inf), axis=0)
            summary[name] = np.where(np.any(present, axis=0), largest, np.nan)
            continue
        weight = episodes if name.startswith("rollout/episode_") else present.astype(np.float32)
        total = np.sum(weight * present, axis=0)
        mean = np.sum(weight * filled, axis=0) / np.maximum(total, 1e-9)
        summary[name] = np.where(total > 0, mean, np.nan)
    return summary
