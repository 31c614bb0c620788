"""Tables of the report: last scores, and the spread of the episodes behind them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from m3po_jax.report import curves
from m3po_jax.report.runs import Group, RecordedRun
from m3po_jax.training import scores

_SUCCESS_RULES = {
    "success_rate": "share of episodes that met the goal",
    "success_rate_last": "share of episodes that met it in the last step",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def interval_text(series: curves.Series, digits: str = ".1f") -> str:
    """Mean and interval of the last point, '-' without one."""
    if not series.rows:
        return "-"
    _, mean, low, high, _ = series.rows[-1]
    if np.isnan(low):
        return f"{mean:{digits}}"
    return f"{mean:{digits}} [{low:{digits}}, {high:{digits}}]"


def evaluations_of(task: str) -> Callable[[Group], curves.Series]:
    """The returns of a task in the evaluations of a group, as a function of the group."""
    return lambda group: curves.evaluation_series(
        group, lambda record: curves.task_return(record, task)
    )


def final_table(groups: Sequence[Group], tasks: Sequence[str]) -> Table:
    """Means over seeds with intervals at the last evaluation, success and scores below them."""
    columns = []
    success = _success_rows(groups, tasks)
    for group in groups:
        aggregate = curves.evaluation_series(group, curves.task_scores)
        columns.append(
            [
                *(interval_text(evaluations_of(task)(group)) for task in tasks),
                interval_text(aggregate, ".3f"),
                str(len(group.runs)),
                f"{max(run.env_steps for run in group.runs):,}",
            ]
        )
    names = (*tasks, "mean normalised score", "seeds", "env steps")
    header = ("task", *(group.label for group in groups))
    caption = "Last evaluation during training: mean return [95 % interval]"
    rows = list(zip(names, *columns, strict=True))
    return Table(caption, header, (*rows[: len(tasks)], *success, *rows[len(tasks) :]))


def _success_rows(groups: Sequence[Group], tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows of success by both rules, of the tasks that define it and of their mean."""
    evaluations = [record for g in groups for run in g.runs for record in run.evaluations]
    shares: dict[str, Callable[[curves.Evaluation], list[float]]] = {}
    for rate, rule in _SUCCESS_RULES.items():
        of = {task: functools.partial(curves.task_success, task, rate) for task in tasks}
        goals = [task for task in tasks if any(map(of[task], evaluations))]
        shares |= {f"{task}, {rule}": of[task] for task in goals}
        if len(goals) > 1:
            mean = scores.SUCCESS_MEANS[rate]
            shares[f"mean over tasks, {rule}"] = functools.partial(curves.mean_success, mean)
    return [
        (name, *(interval_text(curves.evaluation_series(group, of), ".2f") for group in groups))
        for name, of in shares.items()
    ]


def episodes_table(groups: Sequence[Group], tasks: Sequence[str]) -> Table:
    """Spread of the returns over the episodes of each run's last evaluation, and their number.

    A run whose best checkpoint was evaluated (`m3po-evaluate --checkpoint=best --save`) has a
    second column for that.
    """
    columns = []
    for run in (run for group in groups for run in group.runs):
        policy = run.config.get("train.eval_policy")
        newest = curves.final_record(run.newest_evaluations, policy)
        best = curves.final_record(run.best_evaluations, policy)
        columns += [_episodes(run, "", newest, tasks)] if newest else []
        columns += [_episodes(run, "best checkpoint, ", best, tasks)] if best else []
    caption = "Episodes of each run: mean return ± standard deviation over episodes (episodes)"
    rows = tuple(zip(("task", *tasks), *columns, strict=True)) if columns else ()
    return Table(caption, rows[0] if rows else (), rows[1:])


def _episodes(
    run: RecordedRun, what: str, record: Mapping[str, Any], tasks: Sequence[str]
) -> tuple[str, ...]:
    head = f"{run.name}, {what}{record['policy']} at {record['env_steps']:,}"
    return head, *(_spread(record["tasks"].get(task)) for task in tasks)


def _spread(task: Mapping[str, Any] | None) -> str:
    if task is None or task["return_mean"] is None:
        return "-"
    spread = task.get("return_std")
    shown = "" if spread is None else f" ± {spread:.1f}"
    return f"{task['return_mean']:.1f}{shown} ({task['episodes']})"
