"""What is shown of tasks: a line for each, and one with mean and spread for a whole family."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from m3po_jax.learning.metrics import SKIPPED
from m3po_jax.types import TaskSpec

# Sums, over the iterations that one line of metrics.csv covers and over a family; the other metrics
# are averaged.
SUMMED = ("rollout/episodes", "rollout/faults", SKIPPED)
# Metrics of which metrics.csv has the spread over a family.
_SPREAD = ("rollout/episode_return",)


def lines(
    specs: Sequence[TaskSpec],
    name_of: Callable[[TaskSpec], str | None] = lambda spec: spec.shown_as,
) -> dict[str, np.ndarray]:
    """The tasks of each line, by its name.

    Args:
        specs: The tasks.
        name_of: The name of the line that shows a task, None where none does.
    """
    found: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        name = name_of(spec)
        if name is not None:
            found.setdefault(name, []).append(index)
    return {name: np.array(tasks) for name, tasks in found.items()}


def columns(metric: str, values: np.ndarray, specs: Sequence[TaskSpec]) -> dict[str, float]:
    """The columns of metrics.csv of one metric.

    Args:
        metric: Its name.
        values: Of each task `[K]`, NaN where it is not known.
        specs: The tasks.
    """
    found: dict[str, float] = {}
    for name, tasks in lines(specs).items():
        of = values[tasks]
        found[f"{metric}/{name}"] = float(np.sum(of) if metric.endswith(SUMMED) else mean(of))
        if metric in _SPREAD and specs[tasks[0]].family:
            found[f"{metric}_spread/{name}"] = spread(of)
    return found


def means(x: np.ndarray, shown: Mapping[str, np.ndarray]) -> np.ndarray:
    """What is known of each line `[..., lines]` from that of each task `[..., K]`, as `mean`."""
    of = [np.apply_along_axis(mean, -1, x[..., tasks]) for tasks in shown.values()]
    return np.stack(of, axis=-1)


def mean(x: np.ndarray) -> float:
    """The mean of what is known, NaN if nothing is."""
    known = x[~np.isnan(x)]
    return float(np.mean(known)) if known.size else np.nan


def spread(x: np.ndarray) -> float:
    """The standard deviation of what is known, NaN if nothing is."""
    known = x[~np.isnan(x)]
    return float(np.std(known)) if known.size else np.nan
