"""Curves of a group of runs: means over its seeds with intervals."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from m3po_jax.report.intervals import bootstrap_interval
from m3po_jax.report.runs import Group

# More points than this are averaged: a picture shows no more, and the page stays small.
MAX_POINTS = 120

Evaluation = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a picture.

    Attributes:
        label: Its name in the legend.
        x: Positions `[N]`.
        mean: Means over the seeds `[N]`.
        low: Lower end of the 95 % interval `[N]`, NaN with one seed.
        high: Upper end `[N]`.
        seeds: Number of seeds `[N]`.
    """

    label: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray

    @property
    def rows(self) -> list[tuple[float, float, float, float, int]]:
        """`(x, mean, low, high, seeds)` of each point."""
        columns = (self.x, self.mean, self.low, self.high)
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        return [(*row, int(n)) for row, n in zip(numbers, self.seeds, strict=True)]


def point_series(label: str, samples: Mapping[float, Sequence[Sequence[float]]]) -> Series:
    """A series from the scores `[seeds][tasks]` at each position."""
    positions = sorted(samples)
    rows = []
    for position in positions:
        scores = np.asarray(samples[position], float)
        rows.append((position, scores.mean(), *(bootstrap_interval(scores) or (np.nan, np.nan))))
    x, mean, low, high = np.array(rows, float).reshape(-1, 4).T
    seeds = np.array([len(samples[position]) for position in positions], int)
    return Series(label, x, mean, low, high, seeds)


def evaluation_series(group: Group, scores_of: Callable[[Evaluation], Sequence[float]]) -> Series:
    """Scores of the evaluations during training.

    Args:
        group: The runs.
        scores_of: Scores of one evaluation, one per task; empty where it has none.
    """
    samples: dict[float, list[Sequence[float]]] = {}
    for run in group.runs:
        at = {record["env_steps"]: scores_of(record) for record in run.evaluations}
        for step, scores in at.items():
            if len(scores):
                samples.setdefault(step, []).append(scores)
    return point_series(group.label, samples)


def metric_series(group: Group, column: str, *, label: str | None = None) -> Series:
    """A column of metrics.csv, averaged in up to `MAX_POINTS` spans of env steps.

    Columns in `_max` take the maximum of a span, so that no peak is averaged away.
    """
    curves = [run.curve(column) for run in group.runs]
    steps = np.unique(np.concatenate([x for x, _ in curves]))
    name = label or group.label
    if not len(steps):
        return point_series(name, {})
    if len(steps) > MAX_POINTS:
        edges = np.linspace(steps[0], steps[-1], MAX_POINTS + 1)
    else:
        edges = np.append(steps, np.inf)
    reduce = np.max if column.endswith("_max") else np.mean
    samples: dict[float, list[Sequence[float]]] = {}
    for x, y in curves:
        span = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        for index in np.unique(span):
            # the end of the span, or a maximum would seem to come before it was measured
            end = edges[index] if np.isinf(edges[index + 1]) else edges[index + 1]
            position = float(steps[index]) if len(steps) <= MAX_POINTS else float(end)
            samples.setdefault(position, []).append([float(reduce(y[span == index]))])
    return point_series(name, samples)


def final_record(evaluations: Sequence[Evaluation], policy: str | None = None) -> Evaluation | None:
    """The last evaluation, or the one with most episodes among those of its position.

    Args:
        evaluations: Evaluations of one run.
        policy: Only of this policy; None takes all.
    """
    chosen = [r for r in evaluations if policy in (None, r["policy"])]
    if not chosen:
        return None
    last = max(record["env_steps"] for record in chosen)
    return max((r for r in reversed(chosen) if r["env_steps"] == last), key=_episodes)


def task_return(record: Evaluation, task: str) -> list[float]:
    """The mean return of a task, as `scores_of` of `evaluation_series` gives it.

    Nothing where faults cut all of its episodes.
    """
    found = record["tasks"].get(task, {}).get("return_mean")
    return [] if found is None else [found]


def task_success(task: str, rate: str, record: Evaluation) -> list[float]:
    """The share of a task's episodes that met its goal; nothing where it has none.

    Args:
        task: The task.
        rate: By which rule, a key of `SUCCESS_MEANS` of `training/scores.py`.
        record: The evaluation.
    """
    found = record["tasks"].get(task, {}).get(rate)
    return [] if found is None else [found]


def mean_success(mean: str, record: Evaluation) -> list[float]:
    """A mean of `task_success` over the tasks that have a goal, by its name in the record."""
    found = record.get(mean)
    return [] if found is None else [found]


def task_scores(record: Evaluation) -> list[float]:
    """Normalised scores of the tasks that have a known scale."""
    return [t["normalized"] for t in record["tasks"].values() if t["normalized"] is not None]


def _episodes(record: Evaluation) -> int:
    return min(int(task["episodes"]) for task in record["tasks"].values())
