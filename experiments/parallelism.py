"""Parallel environments: does the score fall when environments are added at equal env steps?

python -m experiments.parallelism [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

CartpoleSwingup with 1, 8, 64 and 256 environments (3 seeds, 40,000 env steps, size `tiny`, action
repeat 4). M3PO and TD-MPC2 make one update per transition whatever the number of environments;
`tdmpc2 once` makes one update per step of all environments, as TD-MPC2's published code does.
Writes experiments/results/parallelism.csv, ..._summary.csv and a figure in docs/figures.
"""

from experiments import curves, runs

NUM_ENVS = (1, 8, 64, 256)
LABELS = {
    "m3po": "M3PO, one update per transition",
    "tdmpc2": "TD-MPC2, one update per transition",
    "tdmpc2 once": "TD-MPC2, one update per vector step",
}


def run(variant: str, num_envs: int, seed: int) -> runs.Run:
    """One number of environments."""
    overrides = (
        ("env.num_envs", num_envs),
        ("train.total_env_steps", 40_000),
        ("train.random_env_steps", 3_072),
        ("train.updates_per_transition", 1.0 / num_envs if "once" in variant else 1.0),
        ("train.eval_every", 10_000),
        ("train.eval_episodes", 16),
        ("train.checkpoint_every", 20_000),
    )
    agent = variant.partition(" ")[0]
    return runs.Run(
        agent, f"{num_envs}", seed, ("dmc/CartpoleSwingup",), overrides, variant=variant
    )


RUNS = [
    run(variant, num_envs, seed)
    for seed in range(3)
    for num_envs in NUM_ENVS
    for variant in LABELS
    # With one environment both forms of TD-MPC2 are the same.
    if not ("once" in variant and num_envs == 1)
]


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows, figure = curves.summarized_runs("parallelism", __doc__ or "", RUNS)
    curves.draw_final(rows, LABELS, figure, label="environments")


if __name__ == "__main__":
    main()
