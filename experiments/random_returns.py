"""What random actions score: the zero of normalised scores of Brax's tasks.

python -m experiments.random_returns [--tasks brax/ant ...] [--episodes 64]

Plays whole episodes with uniform actions in each task alone, action repeat 1 unless its name has
`?action_repeat=N`, and writes experiments/results/random_returns.csv. Tasks that the table holds
are not played again.
"""

import argparse
import csv
import time

import jax

from experiments import runs
from m3po_jax.config import default_config, from_config_dict
from m3po_jax.envs.catalog import CATALOG
from m3po_jax.learning.state import init_agent
from m3po_jax.training.evaluator import Evaluator
from m3po_jax.training.experiment import make_experiment

COLUMNS = ("task", "return_mean", "return_std", "length_mean", "episodes", "seconds")
TASKS = tuple(f"brax/{name}" for name in CATALOG["brax"] if name != "fast")


def measure(task: str, episodes: int) -> dict[str, object]:
    """The row of a task."""
    config = default_config()
    config.tasks = (task,)
    config.env.action_repeat = 1
    experiment = make_experiment(from_config_dict(config))
    start = time.monotonic()
    agent = init_agent(experiment.networks, experiment.optimizers, jax.random.key(0))
    evaluator = Evaluator(experiment, episodes=episodes)
    (result,) = evaluator(agent, policy="random", seed=0)["tasks"].values()
    row = {name: result.get(name) for name in COLUMNS}
    return {**row, "task": task, "seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    """Measures the tasks that the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--episodes", type=int, default=64)
    arguments = parser.parse_args()
    path = runs.RESULTS / "random_returns.csv"
    new = not path.exists()
    done = {row["task"] for row in runs.read_table(path)}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for task in arguments.tasks:
            if task not in done:
                row = measure(task, arguments.episodes)
                writer.writerow(row)
                file.flush()
                print(row, flush=True)


if __name__ == "__main__":
    main()
