"""What placing tasks on devices costs and saves: `python -m experiments.placement`.

Compiles the collecting part of an iteration for both values of `train.task_placement` and runs it.
The policy acts alone, without the planner, so that the simulators are what is compared. Each row of
the CSV is a process of its own, without a compilation cache. On a CPU the devices are emulated and
share its cores, so seconds are CPU time there, the work of all of them together, and no time that a
user would wait.
"""

import argparse
import csv
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.scaling import cost_of

RESULTS = pathlib.Path(__file__).parent / "results" / "placement.csv"
TASKS = ("toy/LinearQuadratic", "toy/PointReachA", "toy/PointReachB", "toy/TerminatingPole")
PLACEMENTS = ("sharded", "by_task")
NUM_ENVS, NUM_UNROLLS = 16, 11


def measure(placement: str, num_devices: int, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Compiles and runs one placement; the row of the CSV."""
    import jax

    from m3po_jax.config import default_config, from_config_dict
    from m3po_jax.config_validation import validate
    from m3po_jax.envs.by_task import step_costs
    from m3po_jax.training import sharding
    from m3po_jax.training.experiment import make_experiment

    cfg = default_config()
    cfg.tasks = tasks
    cfg.network.size = "tiny"
    cfg.env.num_envs = NUM_ENVS
    cfg.planner.collect, cfg.exploration.scale = False, 0.0
    cfg.world_model.batch_size = 16 * num_devices * len(tasks)
    cfg.train.num_devices, cfg.train.task_placement = num_devices, placement
    cfg.train.warmup_env_steps, cfg.train.total_env_steps = 10**5, 10**6
    config = from_config_dict(cfg)
    validate(config)
    experiment = make_experiment(config)
    mesh, env = experiment.mesh, experiment.env
    state = sharding.shard_init(mesh, experiment)(jax.random.key(0))
    collect = jax.jit(sharding.shard_collect(mesh, experiment))
    traced = collect.trace(state)
    cost = cost_of(traced.jaxpr.jaxpr, trips=1.0)
    emulated = jax.default_backend() == "cpu"
    clock = time.process_time if emulated else time.monotonic
    compiled, compiling = _timed(clock, lambda: traced.lower().compile())
    unrolls = [
        _timed(clock, lambda: jax.block_until_ready(compiled(state)))[1] for _ in range(NUM_UNROLLS)
    ]
    placed = sharding.choose_placement(mesh, experiment)
    costs = step_costs(env)
    loads = [sum(costs[k] for k in group) for group in placed or [range(len(costs))]]
    return {
        "placement": placement,
        "backend": jax.default_backend(),
        "devices": num_devices,
        "tasks": len(tasks),
        "environments": env.batch_size,
        "unroll_steps": config.env.unroll_length,
        "dearest_over_mean_estimated": round(max(loads) * len(loads) / sum(loads), 2),
        "clock": "CPU time of all devices" if emulated else "wall",
        "compile_seconds": round(compiling, 1),
        "unroll_seconds": round(sorted(unrolls)[NUM_UNROLLS // 2], 4),
        "exchanges_per_unroll": int(cost.exchanges),
        "exchanged_kib_per_device": round(cost.exchanged / 2**10, 1),
        "temporary_mib_per_device": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2),
    }


def _timed(clock: Callable[[], float], call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    begin = clock()
    result = call()
    return result, clock() - begin


def main() -> None:
    """Measures both placements and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="CSV of results")
    parser.add_argument("--one", choices=PLACEMENTS, help="measure this one, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        row = measure(arguments.one, arguments.devices, tuple(arguments.tasks))
        writer = csv.DictWriter(sys.stdout, list(row))
        writer.writeheader()
        writer.writerow(row)
        return
    rows: list[dict[str, str]] = []
    for placement in PLACEMENTS:
        print(f"{placement} ...", flush=True)
        command = [sys.executable, "-m", "experiments.placement", "--one", placement]
        options = ["--devices", str(arguments.devices), "--tasks", *arguments.tasks]
        environment = {
            **os.environ,
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            # Has no effect where there are accelerators.
            "JAX_NUM_CPU_DEVICES": str(arguments.devices),
        }
        done = subprocess.run(
            [*command, *options], check=True, env=environment, text=True, stdout=subprocess.PIPE
        )
        rows.extend(csv.DictReader(done.stdout.splitlines()[-2:]))
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
