"""What a return is worth: the returns that count as normalised scores 0 and 1."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# Success of a task by both rules in use, at any step of an episode and at its last, and the
# names of their means over tasks.
SUCCESS_MEANS = {"success_rate": "success_mean", "success_rate_last": "success_mean_last"}
# Of a task's record, in the table's order.
_NUMBERS = ("return_mean", "return_std", "return_spread", "length_mean")
# DM Control rewards lie in [0, 1] and an episode has 1000 control steps (arXiv 1801.00690).
_DMC_RANGE = (0.0, 1000.0)
# Zero, or the mean return of uniform actions, and the mean optimal return over the start
# distribution, in closed form; tests/training/test_scores.py recomputes both.
_TOY_RANGES = {
    "toy/LinearQuadratic": (-11.574, -0.248),
    "toy/PointReachA": (0.0, 45.764),
    "toy/PointReachB": (0.0, 45.764),
    "toy/TerminatingPole": (0.0, 50.0),
}
# Low: the mean return of uniform actions over 64 episodes, action repeat 1, default backend, from
# experiments/results/random_returns.csv. High: the bound of the reward where there is one (the
# pendulums and what is paid in distances); else the return at which the axes of Brax's own training
# notebook end (google/brax, notebooks/training.ipynb), about what its tuned PPO and SAC reach.
_BRAX_RANGES = {
    "brax/ant": (-323.5, 8000.0),
    "brax/halfcheetah": (-100.1, 8000.0),
    "brax/hopper": (113.4, 2500.0),
    "brax/humanoid": (445.7, 13000.0),
    "brax/humanoidstandup": (7086.6, 75000.0),
    "brax/inverted_double_pendulum": (239.6, 10000.0),
    "brax/inverted_pendulum": (23.9, 1000.0),
    "brax/pusher": (-1815.7, 0.0),
    "brax/reacher": (-961.9, 0.0),
    "brax/walker2d": (231.9, 5000.0),
}


def references(task: str) -> tuple[float, float] | None:
    """Returns that count as scores 0 and 1, or `None` for a task without references.

    Args:
        task: Registry name without options.
    """
    if task.startswith("dmc/"):
        return _DMC_RANGE
    return _TOY_RANGES.get(task) or _BRAX_RANGES.get(task)


def normalized_score(task: str, episode_return: float) -> float | None:
    """Score of a return, 1 where the task counts as solved.

    Args:
        task: Registry name without options.
        episode_return: Undiscounted return of a whole episode.

    Returns:
        `(return - low) / (high - low)`, or `None` for a task without references.
    """
    bounds = references(task)
    return None if bounds is None else (episode_return - bounds[0]) / (bounds[1] - bounds[0])


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known, `None` without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def aggregate(scores: Mapping[str, float | None]) -> dict[str, Any]:
    """Sums up the normalised scores of many tasks.

    Args:
        scores: Score of each task, `None` where it has no references.

    Returns:
        `normalized_mean`, `normalized_iqm` (interquartile mean: of the middle half of the tasks,
        arXiv 2108.13264) and `worst_task`, over the tasks with a score; `None` without any.
    """
    known = {task: score for task, score in scores.items() if score is not None}
    if not known:
        return {"normalized_mean": None, "normalized_iqm": None, "worst_task": None}
    values = np.sort(list(known.values()))
    cut = len(values) // 4
    return {
        "normalized_mean": float(np.mean(values)),
        "normalized_iqm": float(np.mean(values[cut : len(values) - cut])),
        "worst_task": min(known, key=known.__getitem__),
    }


def overall(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `aggregate` says of the tasks of an evaluation.

    Nothing where a task that has a score was never played to an end: a mean over the others would
    look better for its faults.

    Args:
        tasks: Records of the tasks, as in eval.jsonl.
    """
    lost = [name for name, task in tasks.items() if task["return_mean"] is None]
    if any(references(name) is not None for name in lost):
        return aggregate({})
    return aggregate({name: task["normalized"] for name, task in tasks.items()})


def returns_text(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean and spread of the returns of each task in one line, with their number."""
    parts = []
    for name, task in tasks.items():
        faults, std = task.get("faults", 0), _number(task["return_std"])
        about = f"std {std}, {task['episodes']} episodes"
        if faults:
            about = f"std {std}, {faults} of {faults + task['episodes']} episodes cut by faults"
        if task.get("return_spread") is not None:
            about += f", spread {_number(task['return_spread'])}"
        parts.append(f"{name} {_number(task['return_mean'])} ({about})")
    return ", ".join(parts)


def evaluation_table(record: Mapping[str, Any]) -> str:
    """Returns one evaluation, as eval.jsonl holds it, as text ('-' for an unknown score).

    Where a task defines success there are columns for it: at any step, and at the last step; where
    faults cut episodes, one for their number; where a line is a family, one for the spread of its
    variations' means.
    """
    tasks = record["tasks"]
    # Lines of earlier versions lack the keys.
    success = {
        title: {name: task.get(rate) for name, task in tasks.items()}
        for title, rate in zip(("success", "at the end"), SUCCESS_MEANS, strict=True)
    }
    faults = {name: task.get("faults", 0) for name, task in tasks.items()}
    rows: list[tuple[str, ...]] = [
        ("task", "return", "std", "spread", "length", "episodes", "faults", *success, "normalized")
    ]
    for name, task in tasks.items():
        rows.append(
            (
                name,
                *(_number(task.get(key)) for key in _NUMBERS),
                str(task["episodes"]),
                str(faults[name]),
                *(_score(known[name]) for known in success.values()),
                _score(task["normalized"]),
            )
        )
    normalized = {name: task["normalized"] for name, task in tasks.items()}
    total, blank = overall(tasks), ("",) * 6
    means = [known_mean(known.values()) for known in success.values()]
    rows.append(("mean", *blank, *map(_score, means), _score(total["normalized_mean"])))
    if len(normalized) > 1:
        worst = total["worst_task"]
        rows.append(("interquartile mean", *blank, "", "", _score(total["normalized_iqm"])))
        rows.append(("worst task", *blank, "", "", _score(worst and normalized[worst])))
    # Columns of which nothing is known are left out.
    unknown = [len(rows[0]) - 3 + k for k, mean in enumerate(means) if mean is None]
    unknown += [] if any(faults.values()) else [rows[0].index("faults")]
    has_spread = any(task.get("return_spread") is not None for task in tasks.values())
    unknown += [] if has_spread else [rows[0].index("spread")]
    rows = [tuple(x for k, x in enumerate(row) if k not in unknown) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
