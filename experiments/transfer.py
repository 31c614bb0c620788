"""Transfer: what an agent of four tasks is worth on a fifth that it has never seen.

python -m experiments.transfer [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

Four of five cheap DM Control tasks are held out in turn (3 seeds). `pretrained` learns the other
four, 25,600 env steps each at a quarter update per transition. `finetuned` starts from it with
m3po-finetune: an empty replay, and the mean of the known task embeddings for the new task. Its
evaluation at 0 env steps is before any step of the new task: zero-shot. `scratch` starts from
scratch. Both have the same seeds and settings: 27,648 env steps, the first 2,560 with random
actions, one update per transition, the planner evaluated every 3,072 steps. All agents have the
size `tiny` and action repeat 4. The four old tasks are not in the finetuned run, so what finetuning
makes an agent forget is not measured.
Writes experiments/results/transfer.csv, ..._summary.csv and a figure in docs/figures. The returns
of random actions come from random_returns.csv, where
`python -m experiments.random_returns --tasks 'dmc/PendulumSwingup?action_repeat=4'` puts them.
"""

import sys
from collections.abc import Sequence

import numpy as np

from experiments import curves, runs

HELD_OUT = {
    "swingup": "dmc/CartpoleSwingup",
    "balance": "dmc/CartpoleBalance",
    "pendulum": "dmc/PendulumSwingup",
    "reacher": "dmc/ReacherEasy",
}
TASKS = (*HELD_OUT.values(), "dmc/PointMass")
ACTION_REPEAT = 4
LABELS = {"finetuned": "finetuned from four other tasks", "scratch": "from scratch"}
# The return of a DM Control task whose normalised score is 1.
FULL = 1000.0


def pretraining(setting: str, seed: int) -> runs.PlannedRun:
    """One agent for all tasks but one."""
    overrides = (
        ("env.action_repeat", ACTION_REPEAT),
        ("train.total_env_steps", 102_400),
        ("train.warmup_env_steps", 10_240),
        ("train.updates_per_transition", 0.25),
        ("train.eval_every", 51_200),
        ("train.checkpoint_every", 51_200),
    )
    tasks = tuple(task for task in TASKS if task != HELD_OUT[setting])
    return runs.PlannedRun("m3po", setting, seed, tasks, overrides, variant="pretrained")


def learning(setting: str, seed: int, start: runs.PlannedRun | None) -> runs.PlannedRun:
    """The task that was held out, from an agent of the others or from scratch."""
    overrides = (
        ("env.action_repeat", ACTION_REPEAT),
        ("train.total_env_steps", 27_648),
        ("train.warmup_env_steps", 2_560),
        ("train.eval_every", 3_072),
        ("train.checkpoint_every", 13_824),
    )
    variant = "scratch" if start is None else "finetuned"
    return runs.PlannedRun(
        "m3po", setting, seed, (HELD_OUT[setting],), overrides, variant=variant, start=start
    )


RUNS = [
    run
    for seed in range(3)
    for setting in HELD_OUT
    for pretrained in [pretraining(setting, seed)]
    for run in (pretrained, learning(setting, seed, None), learning(setting, seed, pretrained))
]


def summary(
    rows: Sequence[runs.Row], random_returns: Sequence[runs.Row] = ()
) -> list[dict[str, str]]:
    """One row per held-out task that has been learned both ways, in returns.

    `minus` is finetuned minus scratch, with its 95 % t interval over both sets of seeds: where
    both end, and in `mean_minus` of the means over all evaluations but the zero-shot one.
    `steps_to_50` is the first evaluation at which the mean over the seeds is half of the highest
    return, 0 if that is zero-shot; `ratio_50` is the steps of scratch over those of finetuned, a
    bound where one of them never comes there.

    Args:
        rows: The table.
        random_returns: The table of `experiments.random_returns`.
    """
    random = {row["task"]: f"{float(row['return_mean']):.1f}" for row in random_returns}
    result = []
    for setting, task in HELD_OUT.items():
        found = curves.curves(rows, setting)
        if not set(LABELS) <= set(found):
            continue
        ours, scratch = found["finetuned"], found["scratch"]
        common = sorted(set(ours) & set(scratch))
        last = common[-1]
        pretrained = found.get("pretrained")
        line = {
            "held_out": task,
            "seeds_finetuned": str(len(ours[last])),
            "seeds_scratch": str(len(scratch[last])),
            "env_steps": str(last),
            "pretrained": _mean(pretrained[max(pretrained)]) if pretrained else "",
            "random": random.get(f"{task}?action_repeat={ACTION_REPEAT}", ""),
            "zero_shot": _mean(ours[0]),
            "finetuned": _mean(ours[last]),
            "scratch": _mean(scratch[last]),
            **_minus("minus", ours[last], scratch[last]),
            **_minus("mean_minus", _over_run(ours, common), _over_run(scratch, common)),
        }
        for percent in (50, 80):
            a, b = (curves.steps_to(curve, percent / 100.0) for curve in (ours, scratch))
            line[f"finetuned_steps_to_{percent}"] = "never" if a is None else str(a)
            line[f"scratch_steps_to_{percent}"] = "never" if b is None else str(b)
            line[f"ratio_{percent}"] = ratio(a, b, last)
        result.append(line)
    return result


def ratio(finetuned: int | None, scratch: int | None, last: int) -> str:
    """How many times more steps scratch takes; a bound where one never arrives until `last`."""
    if finetuned is None:
        return "" if scratch is None else f"<{scratch / last:.2f}"
    if finetuned == 0:
        return "inf"
    return f">{last / finetuned:.2f}" if scratch is None else f"{scratch / finetuned:.2f}"


def _over_run(curve: curves.Curve, steps: Sequence[int]) -> np.ndarray:
    """Mean score over evaluations `[seeds, tasks]`."""
    return np.mean([curve[step] for step in steps], axis=0)


def _mean(scores: np.ndarray) -> str:
    return f"{FULL * scores.mean():.1f}"


def _minus(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, str]:
    """A difference and its interval, which a single seed does not have."""
    values = [f"{FULL * value:.1f}" for value in curves.difference(a, b)]
    if min(len(a), len(b)) < 2:
        values[1:] = ["", ""]
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows = runs.main("transfer", __doc__ or "", RUNS)
    lines = summary(rows, runs.read_table(runs.RESULTS / "random_returns.csv"))
    if not lines:
        sys.exit("no held-out task has been learned both ways yet")
    curves.write_summary(lines, runs.RESULTS / "transfer_summary.csv")
    titles = {setting: task.removeprefix("dmc/") for setting, task in HELD_OUT.items()}
    curves.draw(rows, titles, runs.ROOT / "docs" / "figures" / "transfer.png", labels=LABELS)


if __name__ == "__main__":
    main()
