"""What starting and stepping a preset's environments costs: `python -m experiments.suite_startup`.

Traces and compiles the environments' part of a run: the first states, one unroll with its pool of
resets, under random actions, and what evaluation plays. Networks and planner are left out: they are
the same for few tasks and many. Once with the physics of tasks of one body computed together, as a
run has it, and once with each task by itself; the unrolls of both are then timed in turn. Nothing
is taken from a compilation cache. Seconds are CPU time of all cores, so they say nothing of how
many there were, and other jobs disturb them little. `--only` takes the tasks of one body. Two rows
are added to the CSV, which so holds several commits.
"""

import argparse
import csv
import functools
import importlib
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results" / "suite_startup.csv"
ROUNDS, EPISODES = 9, 10


def measure(tasks: Sequence[str], preset: Any) -> list[dict[str, Any]]:
    """The numbers of two rows, for these tasks with the settings of a preset."""
    import jax
    import numpy as np

    from m3po_jax.config import from_config_dict
    from m3po_jax.envs import registry

    jax.config.update("jax_enable_compilation_cache", False)
    cfg = from_config_dict(preset)
    length = cfg.env.unroll_length
    kinds: dict[str, list[Sequence[str]]] = {
        "together": [tasks],
        "each task": [[task] for task in tasks],
    }
    envs = {kind: [registry.make(g, cfg.env) for g in groups] for kind, groups in kinds.items()}
    rows, unrolls, states = {}, {}, {}
    for kind in kinds:
        # Neither finds what tracing the other has left.
        jax.clear_caches()
        rows[kind], start, unrolls[kind] = _prepare(kind, envs[kind], length)
        states[kind] = jax.block_until_ready(start(jax.random.key(0)))
    steps: dict[str, list[float]] = {kind: [] for kind in kinds}
    rewards = {}
    for number in range(ROUNDS):
        key = jax.random.key(number)
        for kind in kinds:
            call = functools.partial(unrolls[kind], states[kind], key)
            (states[kind], rewards[kind]), took = _timed(call)
            steps[kind].append(1e3 * took / length)
    for kind, times in steps.items():
        low, *_, high = sorted(times)
        rows[kind] |= {
            "agent_step_ms": round(statistics.median(times), 2),
            "agent_step_ms_low": round(low, 2),
            "agent_step_ms_high": round(high, 2),
            "mean_reward": round(float(np.mean(np.concatenate(rewards[kind], axis=1))), 4),
        }
    return list(rows.values())


def _prepare(kind: str, envs: Sequence[Any], unroll_length: int) -> tuple[dict, Any, Any]:
    """The first columns of a row, and the compiled start and unroll."""
    import jax

    row = {
        "physics": kind,
        "tasks": sum(len(env.specs) for env in envs),
        "environments": sum(env.batch_size for env in envs),
    }
    compiled = {}
    for name, function, arguments in _programs(envs, unroll_length):
        lowered, traced = _timed(functools.partial(jax.jit(function).lower, *arguments))
        row[f"{name}_trace_seconds"] = round(traced, 1)
        if name != "evaluation":
            compiled[name], took = _timed(lowered.compile)
            row[f"{name}_compile_seconds"] = round(took, 1)
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row, compiled["start"], compiled["unroll"]


def _programs(
    envs: Sequence[Any], unroll_length: int
) -> list[tuple[str, Callable[..., Any], tuple]]:
    """Name, function and arguments of what a run has of its environments."""
    import jax

    def start(envs: Sequence[Any], key: jax.Array) -> Any:
        return [env.init(key, stagger=False) for env in envs]

    def unroll(envs: Sequence[Any], states: Any, key: jax.Array) -> Any:
        pools = [env.draw_resets(key) for env in envs]
        largest = max(env.action_size for env in envs)

        def act(env: Any, key: jax.Array) -> jax.Array:
            # For each environment the same, however the tasks are grouped.
            draw = functools.partial(jax.random.uniform, shape=(largest,), minval=-1.0)
            return jax.vmap(draw)(env.env_keys(key))[:, : env.action_size]

        def step(states: Any, key: jax.Array) -> tuple[Any, list[jax.Array]]:
            stepped = [
                env.step(state, pool, act(env, key))
                for env, state, pool in zip(envs, states, pools, strict=True)
            ]
            return [state for state, _ in stepped], [timestep.reward for _, timestep in stepped]

        first = [state.with_new_pool() for state in states]
        return jax.lax.scan(step, first, jax.random.split(key, unroll_length))

    def evaluation(envs: Sequence[Any], key: jax.Array) -> Any:
        return unroll(envs, start(envs, key), key)

    key, played = jax.random.key(0), [env.resized(EPISODES) for env in envs]
    states = jax.eval_shape(lambda k: start(envs, k), key)
    return [
        ("start", lambda k: start(envs, k), (key,)),
        ("unroll", lambda s, k: unroll(envs, s, k), (states, key)),
        ("evaluation", lambda k: evaluation(played, k), (key,)),
    ]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, all computed, and its CPU seconds."""
    import jax

    begin = time.process_time()
    result = jax.block_until_ready(call())
    return result, time.process_time() - begin


def circumstances() -> dict[str, str]:
    """Which code ran where."""
    import jax

    from m3po_jax.workdir import record

    hardware = f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}"
    return {"commit": record.commit() or "", "jax": jax.__version__, "hardware": hardware}


def add_row(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Adds a row to a CSV, which may be new, and prints it."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def main() -> None:
    """Measures one preset, or some of its tasks, and adds two rows to the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="dmc25", help="a preset")
    parser.add_argument("--only", default="", help="only tasks whose name contains this")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="CSV of results")
    arguments = parser.parse_args()
    preset = importlib.import_module(f"m3po_jax.presets.{arguments.preset}").get_config()
    tasks = [name for name in preset.tasks if arguments.only in name]
    chosen = {"preset": arguments.preset, "only": arguments.only}
    for row in measure(tasks, preset):
        add_row(arguments.out, {**chosen, **row, **circumstances()})


if __name__ == "__main__":
    main()
