"""Ablation: the agent without one of its parts, and the bonus on a sparse task.

python -m experiments.ablation [--cores 0 1] [--only PART_OF_A_NAME] [--minutes 60]

One agent on CartpoleBalance, CartpoleSwingup and ReacherEasy (3 seeds, 36,000 env steps per task,
size `tiny`, action repeat 4, half an update per transition; the default is two). Without the bonus
nothing uses the model-free critic, so it is not trained either: that row is both ablations. A
policy that learns from real data takes about 260 gradient steps in a run, one that learns from
imagined data about 27,000. Then the agent with and without the bonus on a task with a sparse
reward, BallInCup (3 seeds, 60,000 env steps, one update per transition). CartpoleSwingupSparse was
not learned in this time: `sparse` in the table.
Writes experiments/results/ablation.csv, ..._summary.csv and a figure in docs/figures.
"""

from experiments import curves, runs
from m3po_jax.presets.suites import CLASSIC_TASKS

LABELS = {
    "m3po": "M3PO",
    "m3po_no_bonus": "no bonus, no model-free critic",
    "m3po_prior_acts": "no planner while collecting",
    "m3po_no_trust_region": "no trust region",
    "m3po_real": "policy learns from real data",
    "m3po_likelihood_ratio": "likelihood ratio on imagined data",
    "tdmpc2": "TD-MPC2",
}
TITLES = {"classic": "one agent, three tasks", "cup": "BallInCup alone"}


def run(agent: str, seed: int) -> runs.PlannedRun:
    """One variant."""
    overrides = (
        ("env.action_repeat", 4),
        ("train.total_env_steps", 108_000),
        ("train.warmup_env_steps", 7_500),
        ("train.updates_per_transition", 0.5),
        ("train.eval_every", 18_000),
        ("train.checkpoint_every", 54_000),
    )
    return runs.PlannedRun(agent, "classic", seed, CLASSIC_TASKS, overrides)


def cup(agent: str, seed: int) -> runs.PlannedRun:
    """Reward only where the ball is in the cup."""
    overrides = (
        ("env.action_repeat", 4),
        ("train.total_env_steps", 60_000),
        ("train.warmup_env_steps", 2_500),
        ("train.eval_every", 10_000),
        ("train.checkpoint_every", 30_000),
    )
    return runs.PlannedRun(agent, "cup", seed, ("dmc/BallInCup",), overrides)


RUNS = [
    *(run(agent, seed) for seed in range(3) for agent in LABELS),
    *(cup(agent, seed) for seed in range(3) for agent in ("m3po", "m3po_no_bonus")),
]


def main() -> None:
    """Runs what is missing, then writes the summary and the figure."""
    rows, figure = curves.summarized_runs("ablation", __doc__ or "", RUNS)
    curves.draw(rows, TITLES, figure, labels=LABELS)


if __name__ == "__main__":
    main()
