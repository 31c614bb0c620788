"""Reading runs, and which of them are the same experiment with other seeds."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3po_jax.config import ConfigError, NetworkConfig, UserError, flatten, resolve_network
from m3po_jax.workdir import folder, metrics
from m3po_jax.workdir.best import BEST

# Settings that change no result: runs that differ in these and the seed alone form one group.
_SAME_EXPERIMENT = frozenset(
    {
        "seed",
        "train.checkpoint_every",
        "train.log_every",
        "train.max_skipped_updates",
        "train.num_devices",
        "train.fsdp_devices",
        "train.task_placement",
    }
)


class ReportError(UserError):
    """A run cannot be reported; the text says which one and what to do."""


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """What one workdir holds.

    Attributes:
        path: The workdir.
        name: What the report calls it.
        config: All settings by dotted name, of whichever version wrote them; sizes that
            `network.size` decides are filled in.
        versions: Versions of Python and the libraries.
        commit: Git commit of the package, if known.
        history: What resuming changed.
        evaluations: Lines of eval.jsonl.
        saved: Evaluations that `m3po-evaluate --save` kept.
        metrics: Columns of metrics.csv, float64 `[rows]` each.
    """

    path: pathlib.Path
    name: str
    config: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    history: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    saved: list[dict[str, Any]]
    metrics: dict[str, np.ndarray]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, without options."""
        return tuple(name.partition("?")[0] for name in self.config["tasks"])

    @property
    def newest_evaluations(self) -> list[dict[str, Any]]:
        """Evaluations of training, and those kept of a checkpoint that was then the newest."""
        kept = [record for record in self.saved if record.get("checkpoint") != BEST]
        return [*self.evaluations, *kept]

    @property
    def best_evaluations(self) -> list[dict[str, Any]]:
        """Evaluations kept of the best checkpoint, on other episodes than those that chose it."""
        return [record for record in self.saved if record.get("checkpoint") == BEST]

    @property
    def env_steps(self) -> int:
        """Env steps of the last thing that was written down."""
        steps = self.metrics.get("env_steps", np.zeros(0))
        logged = int(steps[-1]) if len(steps) else 0
        return max([logged, *(int(record["env_steps"]) for record in self.evaluations)])

    @property
    def wall_seconds(self) -> float:
        """Seconds of the process, evaluations and compilation included."""
        logged = self.metrics.get("wall_seconds", np.zeros(0))
        return float(max([0.0, *logged[-1:], *(r["wall_seconds"] for r in self.evaluations)]))

    def curve(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Env steps and values of a column of metrics.csv where there is a value; maybe empty."""
        if column not in self.metrics:
            return np.zeros(0), np.zeros(0)
        values = self.metrics[column]
        present = np.isfinite(values)
        return self.metrics["env_steps"][present], values[present]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in the seed alone.

    Attributes:
        label: What the report calls it.
        runs: The runs, by seed.
    """

    label: str
    runs: tuple[RecordedRun, ...]

    @property
    def config(self) -> dict[str, Any]:
        """The settings that its runs share, and the seed of the first."""
        return self.runs[0].config


def load_runs(workdirs: Sequence[str | os.PathLike[str]]) -> list[RecordedRun]:
    """Reads runs; one that is given twice counts once.

    Raises:
        ReportError: A run has written no metrics, or not in the form of this package.
        WorkdirError: A folder holds no run or its config.json is damaged.
        MetricsError: A line of its metrics is damaged.
    """
    paths = list(dict.fromkeys(pathlib.Path(path).resolve() for path in workdirs))
    if not paths:
        raise ReportError("no run is given; name at least one, such as --workdir=runs/classic")
    names = _short_names(paths)
    return [_load_run(path, name) for path, name in zip(paths, names, strict=True)]


def group_runs(runs: Sequence[RecordedRun]) -> list[Group]:
    """Puts runs together that differ in the seed alone, in the order of their first run."""
    found: dict[str, list[RecordedRun]] = {}
    for run in runs:
        settings = {k: v for k, v in run.config.items() if k not in _SAME_EXPERIMENT}
        found.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    labels = [_label(members) for members in found.values()]
    return [
        Group(
            label if labels.count(label) == 1 else " + ".join(run.name for run in members),
            tuple(sorted(members, key=lambda run: run.seed)),
        )
        for label, members in zip(labels, found.values(), strict=True)
    ]


def config_differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Settings in which groups differ, with the value of each group; '-' where one lacks it."""
    keys = dict.fromkeys(key for group in groups for key in group.config)
    rows = []
    for key in keys:
        if key in _SAME_EXPERIMENT:
            continue
        values = [setting(group.config, key) for group in groups]
        if len(set(values)) > 1:
            rows.append((key, values))
    return rows


def setting(config: dict[str, Any], key: str) -> str:
    """A setting as text; '-' where the config lacks it."""
    value = config.get(key, "-")
    return ", ".join(value) if isinstance(value, list) else str(value)


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader must know before comparing: unfinished runs, equal seeds, mixed versions."""
    found = []
    for group in groups:
        seeds = [run.seed for run in group.runs]
        if len(set(seeds)) < len(seeds):
            found.append(
                f"{group.label}: two of its runs have the same seed, so they are not independent "
                f"samples and the intervals are too narrow."
            )
        if len({(json.dumps(run.versions), run.commit) for run in group.runs}) > 1:
            found.append(f"{group.label}: its runs come from different versions or commits.")
        for run in group.runs:
            total = int(run.config["train.total_env_steps"])
            if run.env_steps < total:
                found.append(f"{run.name} is not finished: {run.env_steps:,} of {total:,} steps.")
    return found


def _load_run(path: pathlib.Path, name: str) -> RecordedRun:
    record = folder.read_record(path)
    columns = metrics.read_metrics(path)
    evaluations = metrics.read_evaluations(path)
    if not columns and not evaluations:
        raise ReportError(
            f"{path} has no metrics yet: no iteration was recorded; train longer first"
        )
    run = RecordedRun(
        path=path,
        name=name,
        config=_resolved(flatten(record["config"])),
        versions=record["versions"],
        commit=record.get("commit"),
        history=record.get("history", []),
        evaluations=evaluations,
        # Held-out variations are no tasks of the run.
        saved=[r for r in metrics.read_saved_evaluations(path) if not r.get("held_out")],
        metrics={column: np.array(values) for column, values in columns.items()},
    )
    _check(run)
    return run


def _resolved(config: dict[str, Any]) -> dict[str, Any]:
    """The settings with the sizes that the run had in the place of 0, where this version knows."""
    known = {f"network.{field.name}": field.name for field in dataclasses.fields(NetworkConfig)}
    given = {name: config[key] for key, name in known.items() if key in config}
    try:
        sizes = resolve_network(NetworkConfig(**given), len(config["tasks"]))
    except (ConfigError, KeyError, TypeError):  # of another version; `_check` refuses what is not
        return config
    return {k: getattr(sizes, known[k]) if k in known else value for k, value in config.items()}


def _check(run: RecordedRun) -> None:
    """Refuses what would fail later without the name of the run."""
    try:
        if not run.tasks or run.seed < 0 or run.config["train.total_env_steps"] < 1:
            raise ValueError("its config is not that of a run")
        for record in (*run.evaluations, *run.saved):
            str(record["policy"]), float(record["wall_seconds"])
            for task in record["tasks"].values():
                # None where a fault cut every episode.
                float(task["return_mean"] or 0.0), int(task["episodes"]), task["normalized"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{run.path} is damaged or was written by another version "
            f"({type(error).__name__}: {error}); report it with the version that wrote it, "
            f"{run.versions.get('m3po_jax', 'unknown')}"
        ) from error


def _short_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """The last parts of the paths, as many as tell all of them apart."""
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _label(runs: Sequence[RecordedRun]) -> str:
    """The run's name; of several runs what their names begin with."""
    names = [run.name for run in runs]
    if len(names) == 1:
        return names[0]
    prefix = os.path.commonprefix(names)
    match = re.fullmatch(r"(.*?)(?:[-_. /=]+(?:seed|s)?)?\d*", prefix)
    return (match[1] if match else "") or " + ".join(names)
