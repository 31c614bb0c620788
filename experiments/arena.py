"""The arena: one agent each for twelve tasks of DM Control, one set of hyperparameters.

python -m experiments.arena [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

M3PO and TD-MPC2 in the same loop: size `tiny`, 50,000 env steps, 16 episodes every 5,000, physics
by C MuJoCo, agent step, replay ratio, batch and normalised observations of both the defaults.
Scores at other steps are interpolated between evaluations. Published curves of single agents stand
beside them (experiments/results/published.csv, with their protocols): other networks, action
repeats and numbers of episodes, so they are for orientation.
Writes experiments/results/arena.csv, arena_summary.csv (the mean of the tasks), arena_tasks.csv and
a figure in docs/figures.
"""

import collections
import csv
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import curves, runs

# What was known of each task when the defaults were chosen.
TASKS = {
    "CartpoleSwingup": "tuning",
    "CartpoleSwingupSparse": "tuning",
    "ReacherEasy": "tuning",
    "FingerSpin": "tuning",
    "CartpoleBalance": "tuned on before",
    "PendulumSwingup": "tuned on before",
    "ReacherHard": "tuned on before",
    "BallInCup": "seen before",
    "CheetahRun": "seen before",
    "AcrobotSwingup": "seen before",
    "HopperStand": "unseen",
    "WalkerWalk": "unseen",
}
LABELS = {"m3po": "M3PO", "tdmpc2": "TD-MPC2"}
RIVAL = "tdmpc2"
STEPS = (10_000, 20_000, 25_000, 30_000, 43_000, 50_000)
# TD-MPC2 must need more than this for a ratio of steps to mean anything.
LEAST_STEPS = 15_000
PUBLISHED = runs.RESULTS / "published.csv"
# `[seeds, tasks]` by agent and steps.
Scores = dict[str, dict[int, np.ndarray]]


def run(agent: str, task: str, seed: int) -> runs.PlannedRun:
    """One agent on one task."""
    overrides = (
        ("train.total_env_steps", 50_000),
        ("train.warmup_env_steps", 2_500),
        ("train.eval_every", 5_000),
        ("train.eval_episodes", 16),
        ("train.checkpoint_every", 25_000),
    )
    return runs.PlannedRun(agent, task, seed, (f"dmc/{task}?impl=c",), overrides)


RUNS = [
    run(agent, task, seed)
    for seeds in ([0], [1, 2], [3, 4])
    for agent in LABELS
    for seed in seeds
    for task in TASKS
]


def scores(rows: Sequence[runs.Row], tasks: Sequence[str]) -> Scores:
    """Scores of every agent at `STEPS`, of the seeds that have finished all of the tasks.

    Args:
        rows: The table.
        tasks: Their settings.

    Returns:
        Normalised scores `[seeds, tasks]` by agent and steps.
    """
    points: dict[tuple[str, str, str], dict[int, float]] = collections.defaultdict(dict)
    for row in rows:
        if row["finished"] == "yes":
            key = row["agent"], row["seed"], row["setting"]
            points[key][int(row["env_steps_per_task"])] = float(row["normalized"])
    found: Scores = {}
    for agent in LABELS:
        seeds = sorted({seed for a, seed, _ in points if a == agent}, key=int)
        whole = [s for s in seeds if all((agent, s, task) in points for task in tasks)]
        if whole:
            found[agent] = {
                step: np.array(
                    [[_interpolated(points[agent, s, t], step) for t in tasks] for s in whole]
                )
                for step in STEPS
            }
    return found


def _interpolated(curve: Mapping[int, float], step: int) -> float:
    steps = sorted(curve)
    return float(np.interp(step, steps, [curve[s] for s in steps]))


def lines_of(name: str, found: Scores) -> list[dict[str, str]]:
    """One line per agent and number of steps: mean, interval over seeds, and M3PO's lead.

    Args:
        name: What the scores are of.
        found: From `scores`.
    """
    lines = []
    for agent, curve in found.items():
        for step, values in curve.items():
            estimates = [*curves.interval(values)]
            if agent != curves.REFERENCE and curves.REFERENCE in found:
                estimates += curves.difference(found[curves.REFERENCE][step], values)
            names = ("mean", "low", "high", "m3po_minus", "minus_low", "minus_high")
            texts = [f"{value:.3f}" for value in estimates] + [""] * (len(names) - len(estimates))
            seeds, tasks = values.shape
            facts = {"of": name, "agent": agent, "env_steps": step, "tasks": tasks, "seeds": seeds}
            line = {column: str(value) for column, value in facts.items()}
            lines.append(line | dict(zip(names, texts, strict=True)))
    return lines


def published(tasks: Sequence[str]) -> list[dict[str, str]]:
    """Lines as those of `lines_of` for published agents that have all of the tasks at a step."""
    with PUBLISHED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[tuple[str, int], dict[str, dict[str, str]]] = collections.defaultdict(dict)
    for row in rows:
        found[row["method"], int(row["steps"])][row["task"]] = row
    lines = []
    for (method, step), by_task in sorted(found.items()):
        if all(task in by_task for task in tasks):
            mean = np.mean([float(by_task[task]["mean"]) for task in tasks]) / 1000.0
            lines.append(
                {
                    "agent": f"{method} (published)",
                    "env_steps": str(step),
                    "tasks": str(len(tasks)),
                    "seeds": min((by_task[task]["n_seeds"] for task in tasks), key=_number),
                    "mean": f"{mean:.3f}",
                }
            )
    return lines


def _number(text: str) -> float:
    """A number of seeds, which not every source says."""
    return float(text) if text else 0.0


def steps_ratios(rows: Sequence[runs.Row]) -> dict[str, float]:
    """How many times fewer steps M3PO needs for 95 % of TD-MPC2's final score, by task.

    The mean curves of both are interpolated. Tasks where TD-MPC2 needs up to `LEAST_STEPS`, or
    where either has not finished a run, are left out; 0 is one where M3PO never gets there.
    """
    ratios = {}
    for task in TASKS:
        found = curves.curves([row for row in rows if row["finished"] == "yes"], task)
        if not {curves.REFERENCE, RIVAL} <= found.keys():
            continue
        last = max(found[RIVAL])
        target = 0.95 * float(found[RIVAL][last].mean())
        rival = _first_at(found[RIVAL], target)
        if rival > LEAST_STEPS:
            ratios[task] = rival / _first_at(found[curves.REFERENCE], target)
    return ratios


def _first_at(curve: curves.Curve, target: float) -> float:
    """Interpolated steps at which the mean first is `target`; infinity where it never is."""
    before_step, before = 0.0, 0.0
    for step in sorted(curve):
        score = float(curve[step].mean())
        if score >= target:
            share = (target - before) / (score - before) if score > before else 1.0
            return before_step + max(share, 0.0) * (step - before_step)
        before_step, before = float(step), score
    return float("inf")


def write(rows: Sequence[runs.Row]) -> None:
    """Writes and prints the summaries of the tasks that every agent has finished."""
    complete = [task for task in TASKS if len(scores(rows, [task])) == len(LABELS)]
    if not complete:
        sys.exit("no task has been finished by every agent yet")
    total = lines_of("mean", scores(rows, complete))
    total += [{"of": "mean", **line} for line in published(complete)]
    curves.write_summary(total, runs.RESULTS / "arena_summary.csv")
    of_tasks = [line for task in complete for line in lines_of(task, scores(rows, [task]))]
    of_tasks = [{**line, "history": TASKS[line["of"]]} for line in of_tasks]
    curves.write_summary(of_tasks, runs.RESULTS / "arena_tasks.csv")
    ratios = steps_ratios(rows)
    for task, ratio in ratios.items():
        print(f"{task}: {ratio:.2f} times fewer steps to 95 % of TD-MPC2's final score")
    if ratios:
        print(f"median over {len(ratios)} tasks: {np.median(list(ratios.values())):.2f}")


def main() -> None:
    """Runs what is missing, then writes the summaries and the figure."""
    rows = runs.main("arena", __doc__ or "", RUNS)
    write(rows)
    titles = {task: task for task in TASKS}
    curves.draw(rows, titles, runs.ROOT / "docs" / "figures" / "arena.png", labels=LABELS)


if __name__ == "__main__":
    main()
