"""What starting and stepping a preset's environments costs: `python -m experiments.suite_startup`.

Traces and compiles the environments' part of a run: the first states, one unroll with its pool of
resets, under random actions, and what evaluation plays. Networks and planner are left out: they are
the same for few tasks and many. Nothing is taken from a compilation cache. Seconds are CPU time of
all cores, so they say nothing of how many there were, and other jobs disturb them little. `--only`
measures the tasks of one body; a row is added to the CSV, which so holds several commits.
"""

import argparse
import csv
import functools
import importlib
import os
import pathlib
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results" / "suite_startup.csv"
NUM_UNROLLS, EPISODES = 5, 10


def measure(tasks: Sequence[str], preset: Any) -> dict[str, Any]:
    """The numbers of one row, for these tasks with the settings of a preset."""
    import jax

    from m3po_jax.config import from_config_dict
    from m3po_jax.envs import registry

    jax.config.update("jax_enable_compilation_cache", False)
    cfg = from_config_dict(preset)
    env = registry.make(tasks, cfg.env)
    key = jax.random.key(0)
    traced, compiling, compiled = {}, {}, {}
    for name, function, arguments in _programs(env, cfg.env.unroll_length):
        lowered, traced[name] = _timed(functools.partial(jax.jit(function).lower, *arguments))
        if name != "evaluation":
            compiled[name], compiling[name] = _timed(lowered.compile)
            times = f"traced {traced[name]:.1f} s, compiled {compiling[name]:.1f} s"
            print(f"{name}: {times}", flush=True)
    state = jax.block_until_ready(compiled["start"](key))
    unrolls = []
    for _ in range(NUM_UNROLLS):
        (state, reward), took = _timed(functools.partial(compiled["unroll"], state, key))
        unrolls.append(took)
    return {
        "tasks": len(tasks),
        "environments": env.batch_size,
        "start_trace_seconds": round(traced["start"], 1),
        "start_compile_seconds": round(compiling["start"], 1),
        "unroll_trace_seconds": round(traced["unroll"], 1),
        "unroll_compile_seconds": round(compiling["unroll"], 1),
        "evaluation_trace_seconds": round(traced["evaluation"], 1),
        "agent_step_ms": round(1e3 * sorted(unrolls)[NUM_UNROLLS // 2] / cfg.env.unroll_length, 2),
        "mean_reward": round(float(reward.mean()), 4),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _programs(env: Any, unroll_length: int) -> list[tuple[str, Callable[..., Any], tuple]]:
    """Name, function and arguments of what a run has of its environments."""
    import jax

    def start(env: Any, key: jax.Array) -> Any:
        return env.init(key, stagger=False)

    def unroll(env: Any, state: Any, key: jax.Array) -> Any:
        pool = env.draw_resets(key)

        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            shape = (env.batch_size, env.action_size)
            state, timestep = env.step(state, pool, jax.random.uniform(key, shape, minval=-1.0))
            return state, timestep.reward

        return jax.lax.scan(step, state.with_new_pool(), jax.random.split(key, unroll_length))

    def evaluation(env: Any, key: jax.Array) -> Any:
        return unroll(env, start(env, key), key)

    key, played = jax.random.key(0), env.resized(EPISODES)
    state = jax.eval_shape(lambda k: start(env, k), key)
    return [
        ("start", lambda k: start(env, k), (key,)),
        ("unroll", lambda s, k: unroll(env, s, k), (state, key)),
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

    from m3po_jax.training import workdir

    hardware = f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}"
    return {"commit": workdir.commit() or "", "jax": jax.__version__, "hardware": hardware}


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
    """Measures one preset, or some of its tasks, and adds a row to the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="dmc25", help="a module of experiments/configs")
    parser.add_argument("--only", default="", help="only tasks whose name contains this")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="CSV of results")
    arguments = parser.parse_args()
    preset = importlib.import_module(f"experiments.configs.{arguments.preset}").get_config()
    tasks = [name for name in preset.tasks if arguments.only in name]
    chosen = {"preset": arguments.preset, "only": arguments.only}
    add_row(arguments.out, {**chosen, **measure(tasks, preset), **circumstances()})


if __name__ == "__main__":
    main()
