"""Control steps per CPU second of Meta-World's tasks in the compiled loop, and in its own Python.

python -m experiments.metaworld_speed [--tasks=A,B]

Writes experiments/results/metaworld_speed.csv: with 8 and with 32 environments of a task, callbacks
and rewards included, and one environment of Meta-World alone.
"""

import argparse
import csv
import time

import numpy as np

from experiments import host_physics, runs
from m3po_jax.envs.catalog import MT10
from m3po_jax.envs.metaworld import environment, library

NUM_ENVS = (8, 32)
STEPS = 500


def own_steps_per_cpu_second(name: str) -> float:
    """Steps per CPU second of Meta-World's Python, along one episode of random actions."""
    env, rng = library.make(name), np.random.default_rng(0)
    library.set_goal(env, name, library.goals(name)[0])
    env.reset()
    start = time.process_time()
    for _ in range(STEPS):
        env.step(rng.uniform(-1.0, 1.0, 4).astype(np.float32))
    return STEPS / (time.process_time() - start)


def main() -> None:
    """Measures the tasks anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(MT10))
    columns = ("task", *(f"steps_{n}_environments" for n in NUM_ENVS), "own_steps")
    with (runs.RESULTS / "metaworld_speed.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for name in parser.parse_args().tasks:
            env = environment.MetaWorldEnvironment(name)
            speeds = [host_physics.steps_per_cpu_second(env, n) for n in NUM_ENVS]
            row = (name, *map(round, (*speeds, own_steps_per_cpu_second(name))))
            writer.writerow(row)
            file.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
