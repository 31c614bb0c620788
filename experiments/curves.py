"""Statistics and figures of the tables that `experiments.runs` writes."""

import collections
import csv
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import runs
from experiments.runs import Row

CONFIDENCE = 0.95
# The agent that every other is compared with.
REFERENCE = "m3po"
# Okabe and Ito's palette, told apart by colour-blind readers, and markers for print.
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
    ("#999999", "<"),
)
# Normalised scores `[seeds, tasks]` by env steps per task.
Curve = dict[int, np.ndarray]


def curves(rows: Sequence[Row], setting: str) -> dict[str, Curve]:
    """Scores of every agent of a setting, at the steps that all its seeds have.

    Seeds that are still running count as far as they have come.

    Args:
        rows: The table.
        setting: Which part of it.

    Returns:
        The curve of each agent.
    """
    cells: dict[tuple[str, int], dict[tuple[str, str], float]] = collections.defaultdict(dict)
    for row in rows:
        if row["setting"] == setting:
            step = int(row["env_steps_per_task"])
            cells[row["agent"], step][row["seed"], row["task"]] = float(row["normalized"])
    seeds = {
        agent: {seed for (a, _), cell in cells.items() if a == agent for seed, _ in cell}
        for agent, _ in cells
    }
    result: dict[str, Curve] = collections.defaultdict(dict)
    for (agent, step), cell in sorted(cells.items(), key=lambda item: item[0][1]):
        tasks = sorted({task for _, task in cell})
        if {seed for seed, _ in cell} == seeds[agent]:
            result[agent][step] = np.array(
                [[cell[seed, task] for task in tasks] for seed in sorted(seeds[agent], key=int)]
            )
    return dict(result)


def interval(scores: np.ndarray) -> tuple[float, float, float]:
    """Mean score and its 95 % t interval over seeds.

    A run is one sample, whatever the number of its tasks: tasks that one agent learns together are
    not independent. A bootstrap over three seeds of one task would return their range, which covers
    the mean in 75 % of all cases.

    Args:
        scores: `[seeds, tasks]`.

    Returns:
        Estimate, low and high; low and high are NaN for a single seed.
    """
    return _t_interval(float(scores.mean()), [scores])


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean score of `a` minus that of `b`, with Welch's 95 % t interval over both sets of seeds.

    Args:
        a: `[seeds, tasks]`.
        b: `[seeds, tasks]`, with the same number of tasks.

    Returns:
        Difference, low and high; low and high are NaN where either has a single seed.
    """
    return _t_interval(float(a.mean() - b.mean()), [a, b])


def _t_interval(estimate: float, samples: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The interval of a sum or difference of the means of independent samples `[seeds, tasks]`."""
    from scipy import stats

    if min(len(scores) for scores in samples) < 2:
        return estimate, float("nan"), float("nan")
    variances = [scores.mean(axis=1).var(ddof=1) / len(scores) for scores in samples]
    total = sum(variances)
    if total == 0.0:
        return estimate, estimate, estimate
    terms = (v**2 / (len(x) - 1) for v, x in zip(variances, samples, strict=True))
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, total**2 / sum(terms))
    width = float(quantile * np.sqrt(total))
    return estimate, estimate - width, estimate + width


def steps_to(curve: Curve, score: float) -> int | None:
    """Env steps per task of the first evaluation whose mean reaches `score`, or `None`."""
    return next((step for step, x in sorted(curve.items()) if x.mean() >= score), None)


def summary(rows: Sequence[Row]) -> list[dict[str, str]]:
    """One row per setting and agent: final scores, steps to thresholds, and the comparison.

    `m3po_minus` is M3PO's score minus the agent's where both end, with its interval, and
    `m3po_steps` where M3PO reaches the agent's final score; `steps_ratio` is the agent's steps over
    these: how many times fewer M3PO needs.
    """
    result = []
    for setting in sorted({row["setting"] for row in rows}):
        found = curves(rows, setting)
        for agent, curve in found.items():
            last = max(curve)
            mean, low, high = interval(curve[last])
            line: dict[str, str] = {
                "setting": setting,
                "agent": agent,
                "seeds": str(len(curve[last])),
                "tasks": str(curve[last].shape[1]),
                "env_steps_per_task": str(last),
                **_rounded(mean=mean, mean_low=low, mean_high=high),
            }
            for percent in (50, 80):
                steps = steps_to(curve, percent / 100.0)
                line[f"steps_to_{percent}_percent"] = "never" if steps is None else str(steps)
            result.append(line | _comparison(curve, found.get(REFERENCE)))
    return result


def _comparison(curve: Curve, reference: Curve | None) -> dict[str, str]:
    """What `summary` says of an agent against the reference; empty texts where there is none."""
    names = ("minus", "minus_low", "minus_high", "steps")
    line = {**{f"{REFERENCE}_{name}": "" for name in names}, "steps_ratio": ""}
    if reference is None or reference is curve:
        return line
    common = set(curve) & set(reference)
    if common:
        values = difference(reference[max(common)], curve[max(common)])
        for name, value in zip(names, values, strict=False):
            line[f"{REFERENCE}_{name}"] = f"{value:.3f}"
    steps = steps_to(reference, float(curve[max(curve)].mean()))
    line[f"{REFERENCE}_steps"] = "never" if steps is None else str(steps)
    line["steps_ratio"] = "" if steps is None else f"{max(curve) / steps:.2f}"
    return line


def _rounded(**values: float) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in values.items()}


def write_summary(lines: Sequence[Mapping[str, str]], path: pathlib.Path) -> None:
    """Writes the lines as CSV, with an empty text where one lacks a column, and prints them."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(path.read_text())


def summarized_runs(
    experiment: str, description: str, wanted: Sequence[runs.PlannedRun]
) -> tuple[list[Row], pathlib.Path]:
    """Makes the runs that an experiment's table lacks and writes its summary.

    Args:
        experiment: Name of the table, its summary and its figure.
        description: For `--help`.
        wanted: In the order in which they matter.

    Returns:
        The table, and where its figure belongs.
    """
    rows = runs.main(experiment, description, wanted)
    if not rows:
        sys.exit("no run has been evaluated yet")
    write_summary(summary(rows), runs.RESULTS / f"{experiment}_summary.csv")
    return rows, runs.ROOT / "docs" / "figures" / f"{experiment}.png"


def draw(
    rows: Sequence[Row],
    settings: Mapping[str, str],
    path: pathlib.Path,
    *,
    labels: Mapping[str, str],
) -> None:
    """Draws learning curves with intervals, one panel a setting.

    Args:
        rows: The table.
        settings: Settings to draw and their titles; those without rows are left out.
        path: PNG to write.
        labels: Agents to draw and their labels.
    """
    made = {row["setting"] for row in rows if row["agent"] in labels}
    settings = {setting: title for setting, title in settings.items() if setting in made}
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(settings), 4)
    lines = -(-len(settings) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.6 * columns, 4.4 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(settings) :]:
        axis.remove()
    for axis, (setting, title) in zip(axes.flat, settings.items(), strict=False):
        found = curves(rows, setting)
        for (agent, label), (color, marker) in zip(labels.items(), STYLES, strict=False):
            if agent not in found:
                continue
            steps = sorted(found[agent])
            low, middle, high = _band(found[agent])
            seeds = len(found[agent][steps[0]])
            label = f"{label} ({seeds} seed{'s' if seeds > 1 else ''})"
            thousands = np.array(steps) / 1000.0
            axis.plot(thousands, middle, color=color, marker=marker, ms=4, lw=1.5, label=label)
            axis.fill_between(thousands, low, high, color=color, alpha=0.15, lw=0)
        axis.set(title=title, xlabel="thousand env steps per task", ylim=(0.0, 1.0))
        axis.grid(alpha=0.3)
        # Below: curves may be anywhere inside.
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    axes[0, 0].set_ylabel("mean normalised score, 95 % interval")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_final(
    rows: Sequence[Row], labels: Mapping[str, str], path: pathlib.Path, *, label: str
) -> None:
    """Draws final scores with intervals against settings that are numbers.

    Args:
        rows: The table.
        labels: Agents to draw and their labels.
        path: PNG to write.
        label: What the settings count.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = sorted({row["setting"] for row in rows}, key=int)
    figure, axis = pyplot.subplots(figsize=(5.6, 3.8), layout="constrained")
    for index, (agent, name) in enumerate(labels.items()):
        color, marker = STYLES[index]
        found = {s: curves(rows, s)[agent] for s in settings if agent in curves(rows, s)}
        if not found:
            continue
        estimates = np.array([interval(curve[max(curve)]) for curve in found.values()])
        # Side by side, so that intervals do not hide each other.
        x = np.array([settings.index(s) for s in found]) + 0.06 * (index - len(labels) / 2)
        errors = np.abs(estimates[:, 1:] - estimates[:, :1]).T
        axis.errorbar(
            x, estimates[:, 0], errors, color=color, marker=marker, lw=1.5, capsize=3, label=name
        )
    axis.set_xticks(range(len(settings)), settings)
    axis.set(xlabel=label, ylabel="final normalised score, 95 % interval", ylim=(0.0, 1.0))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _band(curve: Curve) -> tuple[list[float], list[float], list[float]]:
    """Low, estimate and high at the curve's steps, in their order."""
    estimates = [interval(curve[step]) for step in sorted(curve)]
    middle, low, high = (list(column) for column in zip(*estimates, strict=True))
    return low, middle, high
