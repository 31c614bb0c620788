"""Means over seeds with bootstrap intervals."""

import numpy as np

DRAWS = 2000
LEVEL = 0.95


def bootstrap_interval(scores: np.ndarray, *, seed: int = 0) -> tuple[float, float] | None:
    """Stratified percentile bootstrap of the mean over seeds and tasks (arXiv 2108.13264).

    Within each task (stratum) the seeds are resampled with replacement.

    Args:
        scores: `[seeds, tasks]`.
        seed: Seed of the draws, so that a report can be repeated.

    Returns:
        Lower and upper end of the 95 % interval of the mean; None for a single seed, which says
        nothing of the spread.
    """
    num_seeds, num_tasks = scores.shape
    if num_seeds < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.integers(num_seeds, size=(DRAWS, num_seeds, num_tasks))
    means = scores[drawn, np.arange(num_tasks)].mean(axis=(1, 2))
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)
