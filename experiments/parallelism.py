"""Parallel environments: does the score fall with more environments at equal env steps?

python -m experiments.parallelism [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

CartpoleSwingup with 1, 8, 64 and 256 environments (3 seeds, 100,000 env steps, size `tiny`, action
repeat 4): with 256 each sees 390 simulator steps, 3.9 of the 10 seconds of an episode. M3PO and
TD-MPC2 make half an update per transition whatever the number of environments, and collect 64
transitions between updates, or 4 of each environment where that is more. `tdmpc2 once` makes a
fixed number of updates per vector step: one, however many environments it steps.
Writes experiments/results/parallelism.csv, ..._summary.csv and a figure in docs/figures.
"""

from experiments import curves, runs

NUM_ENVS = (1, 8, 64, 256)
LABELS = {
    "m3po": "M3PO, half an update per transition",
    "tdmpc2": "TD-MPC2, half an update per transition",
    "tdmpc2 once": "TD-MPC2, one update per vector step",
}


def run(variant: str, num_envs: int, seed: int) -> runs.PlannedRun:
    """One number of environments."""
    overrides = (
        ("env.action_repeat", 4),
        ("env.num_envs", num_envs),
        ("env.unroll_length", max(4, 64 // num_envs)),
        ("train.total_env_steps", 100_000),
        ("train.warmup_env_steps", 3_072),
        ("train.updates_per_transition", 1.0 / num_envs if "once" in variant else 0.5),
        ("train.eval_every", 25_000),
        ("train.checkpoint_every", 50_000),
    )
    agent = variant.partition(" ")[0]
    return runs.PlannedRun(
        agent, f"{num_envs}", seed, ("dmc/CartpoleSwingup",), overrides, variant=variant
    )


RUNS = [
    run(variant, num_envs, seed) for seed in range(3) for num_envs in NUM_ENVS for variant in LABELS
]


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows, figure = curves.summarized_runs("parallelism", __doc__ or "", RUNS)
    curves.draw_final(rows, LABELS, figure, label="environments")


if __name__ == "__main__":
    main()
