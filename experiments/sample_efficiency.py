"""Sample efficiency: M3PO, TD-MPC2 and PPO at equal env steps, in the same loop.

python -m experiments.sample_efficiency [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

One agent on five tasks of DM Control (3 seeds, 100,000 env steps per task) and one agent per task
on CartpoleSwingup and PendulumSwingup (5 seeds, 60,000 env steps). All agents have the size `tiny`
and action repeat 4; both model-based ones have the same batch, planner, number of updates and step
sizes of the model. TD-MPC2's step sizes are constant, as published, and in a second form fall like
those of M3PO.
Writes experiments/results/sample_efficiency.csv, ..._summary.csv and a figure in docs/figures.
"""

from typing import Any

from experiments import curves, runs
from m3po_jax.config import Config

FIVE = (
    "dmc/CartpoleBalance",
    "dmc/CartpoleSwingup",
    "dmc/PendulumSwingup",
    "dmc/ReacherEasy",
    "dmc/ReacherHard",
)
SINGLE = {"swingup": "dmc/CartpoleSwingup", "pendulum": "dmc/PendulumSwingup"}
FALLING = "tdmpc2 falling"
LABELS = {
    "m3po": "M3PO",
    "tdmpc2": "TD-MPC2",
    FALLING: "TD-MPC2, falling step sizes",
    "ppo": "PPO",
}
TITLES = {
    "swingup": "CartpoleSwingup alone",
    "pendulum": "PendulumSwingup alone",
    "five": "one agent, five tasks",
}


def single(agent: str, setting: str, seed: int) -> runs.PlannedRun:
    """One task."""
    overrides = (
        ("env.action_repeat", 4),
        ("train.total_env_steps", 60_000),
        ("train.warmup_env_steps", 0 if agent == "ppo" else 2_500),
        ("train.eval_every", 4_300),
        ("train.checkpoint_every", 30_000),
    )
    return _run(agent, setting, seed, (SINGLE[setting],), overrides)


def five(agent: str, seed: int) -> runs.PlannedRun:
    """Five tasks for 100,000 env steps each; a quarter update per transition, for the time."""
    overrides = (
        ("env.action_repeat", 4),
        ("train.total_env_steps", 500_000),
        ("train.warmup_env_steps", 0 if agent == "ppo" else 12_500),
        ("train.updates_per_transition", 0 if agent == "ppo" else 0.25),
        ("train.eval_every", 50_000),
        ("train.checkpoint_every", 50_000),
    )
    return _run(agent, "five", seed, FIVE, overrides)


def _run(
    variant: str, setting: str, seed: int, tasks: tuple[str, ...], overrides: Any
) -> runs.PlannedRun:
    if variant == FALLING:
        share = Config().train.final_learning_rate_scale
        overrides += (("train.final_learning_rate_scale", share),)
    agent = variant.partition(" ")[0]
    return runs.PlannedRun(agent, setting, seed, tasks, overrides, variant=variant)


RUNS = [
    *(single("m3po", setting, seed) for seed in range(5) for setting in SINGLE),
    *(five(agent, seed) for seed in range(3) for agent in ("m3po", "tdmpc2", "ppo")),
    *(
        single(agent, setting, seed)
        for setting in SINGLE
        for seed in range(5)
        for agent in ("ppo", "tdmpc2", FALLING)
    ),
    *(five(FALLING, seed) for seed in range(3)),
]


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows, figure = curves.summarized_runs("sample_efficiency", __doc__ or "", RUNS)
    curves.draw(rows, TITLES, figure, labels=LABELS)


if __name__ == "__main__":
    main()
