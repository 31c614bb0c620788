"""Endurance: does a long run keep its memory, its speed and its one compiled program?

python -m experiments.endurance [--iterations=2000] [--csv=FILE] [--figure=FILE]

Runs the training iteration on the toy suite with a very small agent, writes a table of resident
memory, live device buffers, time per iteration and traces, and, where matplotlib is installed
(pip install matplotlib), draws it.
"""

import csv
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags

from m3po_jax.config import Config, from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.learning.train_step import make_train_step
from m3po_jax.presets import toy
from m3po_jax.training.experiment import make_experiment

ITERATIONS = flags.DEFINE_integer("iterations", 2000, "Training iterations.", lower_bound=40)
CSV = flags.DEFINE_string("csv", "experiments/results/endurance.csv", "Table to write.")
FIGURE = flags.DEFINE_string("figure", "docs/figures/endurance.png", "Figure to draw; '' for none.")

_ROWS = 200
_PANELS = (
    ("resident_mib", "resident memory [MiB]"),
    ("live_mib", "live device buffers [MiB]"),
    ("milliseconds", "time per iteration [ms]"),
    ("traces", "traces of the training step"),
)


def small_config(iterations: int) -> Config:
    """The toy suite with an agent that is small enough for thousands of iterations on a CPU."""
    tree = toy.get_config()
    tree.env.num_envs = 2
    tree.env.unroll_length = 4
    tree.network.encoder_width = 16
    tree.network.mlp_width = 16
    tree.network.latent_size = 16
    tree.world_model.batch_size = 12
    tree.planner.num_samples = 8
    tree.planner.num_policy_samples = 2
    tree.planner.num_elites = 4
    tree.critic.minibatches = 1
    tree.train.warmup_env_steps = 480
    # The ring wraps many times.
    tree.replay.capacity = 4800
    config = from_config_dict(tree)
    steps = iterations * make_experiment(config).env_steps_per_iteration
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, total_env_steps=steps)
    )
    validate(config)
    return config


def measure(config: Config, iterations: int) -> Iterator[dict[str, float]]:
    """Runs the iterations and yields a row of measurements `_ROWS` times."""
    experiment = make_experiment(config)
    step: Any = jax.jit(make_train_step(experiment), donate_argnums=0)
    state = jax.jit(experiment.init)(jax.random.key(config.seed))
    every = max(iterations // _ROWS, 1)
    began = time.monotonic()
    for iteration in range(1, iterations + 1):
        state, metrics = step(state)
        if iteration % every == 0:
            jax.block_until_ready(metrics)
            now = time.monotonic()
            # Sizes only: a list of the arrays would keep them alive.
            sizes = [x.nbytes for x in jax.live_arrays()]
            yield {
                "iteration": iteration,
                "resident_mib": _resident_bytes() / 2**20,
                "live_buffers": len(sizes),
                "live_mib": sum(sizes) / 2**20,
                "milliseconds": 1e3 * (now - began) / every,
                "traces": step._cache_size(),
            }
            began = now


def _resident_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def draw(rows: Sequence[Mapping[str, float]], path: pathlib.Path) -> None:
    """Draws the table, one panel a quantity, each from zero."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(8, 5), sharex=True, layout="constrained")
    for axis, (name, label) in zip(axes.flat, _PANELS, strict=True):
        # The first row includes compilation.
        values = [row[name] for row in rows[1:]]
        axis.plot([row["iteration"] for row in rows[1:]], values, lw=1)
        axis.set_ylim(0, 1.25 * max(values))
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("training iteration")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(_: Sequence[str]) -> None:
    """Measures, writes the table, draws, and says how much changed from one half to the other."""
    rows = []
    path = pathlib.Path(CSV.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for row in measure(small_config(ITERATIONS.value), ITERATIONS.value):
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow({name: round(value, 3) for name, value in row.items()})
            file.flush()
            rows.append(row)
    # The first tenth compiles and collects without learning.
    steady = rows[len(rows) // 10 :]
    for name in ("resident_mib", "live_buffers", "live_mib", "milliseconds", "traces"):
        values = [row[name] for row in steady]
        half = len(values) // 2
        first, second = sum(values[:half]) / half, sum(values[half:]) / (len(values) - half)
        print(
            f"{name}: first half {first:.2f}, second half {second:.2f}, largest {max(values):.2f}"
        )
    if FIGURE.value:
        draw(rows, pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
