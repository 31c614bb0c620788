"""Sample efficiency: M3PO, TD-MPC2 and PPO at equal env steps, in the same loop.

python -m experiments.sample_efficiency [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

One agent on five tasks of DM Control (3 seeds, 100,000 env steps per task) and one agent per task
on CartpoleSwingup and PendulumSwingup (5 seeds, 60,000 env steps). All agents have the size `tiny`
and action repeat 4; both model-based ones have the same batch, planner and number of updates.
Writes experiments/results/sample_efficiency.csv, ..._summary.csv and a figure in docs/figures.
"""

from experiments import curves, runs

FIVE = (
    "dmc/CartpoleBalance",
    "dmc/CartpoleSwingup",
    "dmc/PendulumSwingup",
    "dmc/ReacherEasy",
    "dmc/ReacherHard",
)
SINGLE = {"swingup": "dmc/CartpoleSwingup", "pendulum": "dmc/PendulumSwingup"}
LABELS = {"m3po": "M3PO", "tdmpc2": "TD-MPC2", "ppo": "PPO"}
TITLES = {
    "swingup": "CartpoleSwingup alone",
    "pendulum": "PendulumSwingup alone",
    "five": "one agent, five tasks",
}


def single(agent: str, setting: str, seed: int) -> runs.Run:
    """One task for 60,000 env steps."""
    overrides = (
        ("train.total_env_steps", 60_000),
        ("train.random_env_steps", 0 if agent == "ppo" else 2_500),
        ("train.eval_every", 4_300),
        ("train.checkpoint_every", 30_000),
    )
    return runs.Run(agent, setting, seed, (SINGLE[setting],), overrides)


def five(agent: str, seed: int) -> runs.Run:
    """Five tasks for 100,000 env steps each; a quarter update per transition, for the time."""
    overrides = (
        ("train.total_env_steps", 500_000),
        ("train.random_env_steps", 0 if agent == "ppo" else 12_500),
        ("train.updates_per_transition", 0 if agent == "ppo" else 0.25),
        ("train.eval_every", 50_000),
        ("train.checkpoint_every", 50_000),
    )
    return runs.Run(agent, "five", seed, FIVE, overrides)


RUNS = [
    *(single("m3po", setting, seed) for seed in range(5) for setting in SINGLE),
    *(single(agent, "swingup", seed) for seed in range(5) for agent in ("ppo", "tdmpc2")),
    *(five(agent, seed) for seed in range(3) for agent in LABELS),
    *(single(agent, "pendulum", seed) for seed in range(5) for agent in ("ppo", "tdmpc2")),
]


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows, figure = curves.summarized_runs("sample_efficiency", __doc__ or "", RUNS)
    curves.draw(rows, TITLES, figure, labels=LABELS)


if __name__ == "__main__":
    main()
