"""Distractors: what is gained by predicting outcomes instead of observations?

python -m experiments.distractors [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

One agent on CartpoleSwingup and ReacherEasy with 0, 32 and 128 oscillators appended to each
observation that have nothing to do with the task (3 seeds, 30,000 env steps per task, size `tiny`,
action repeat 4). M3PO against the same agent with a decoder of observations. Writes
experiments/results/distractors.csv, ..._summary.csv and a figure in docs/figures.
"""

from experiments import curves, runs

TASKS = ("dmc/CartpoleSwingup", "dmc/ReacherEasy")
DISTRACTORS = (0, 32, 128)
LABELS = {"m3po": "M3PO, implicit model", "reconstruction": "the same with a decoder"}


def run(agent: str, distractors: int, seed: int) -> runs.PlannedRun:
    """One number of distractors."""
    overrides = (
        ("env.action_repeat", 4),
        ("train.total_env_steps", 60_000),
        ("train.warmup_env_steps", 5_000),
        ("train.eval_every", 15_000),
        ("train.checkpoint_every", 30_000),
    )
    option = f"?distractors={distractors}" if distractors else ""
    tasks = tuple(task + option for task in TASKS)
    return runs.PlannedRun(agent, f"{distractors}", seed, tasks, overrides)


RUNS = [
    run(agent, distractors, seed)
    for seed in range(3)
    for distractors in DISTRACTORS
    for agent in LABELS
]


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows, figure = curves.summarized_runs("distractors", __doc__ or "", RUNS)
    curves.draw_final(rows, LABELS, figure, label="irrelevant observation dims")


if __name__ == "__main__":
    main()
