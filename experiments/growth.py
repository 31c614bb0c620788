"""How time and memory grow with sizes: `python -m experiments.growth`.

On cheap tasks, so that growth that is not the simulator's shows: seconds of an environment step for
more environments and more tasks, seconds of a plan for more samples and longer horizons, bytes and
seconds of the replay for larger capacities. One row of the CSV for each point; the figure draws the
expected law through the largest point of each curve: proportional to the work, and constant where
the work is. On one core (`taskset -c 0`) the time that the process computes is counted, else the
time that passes.
"""

import argparse
import csv
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results" / "growth.csv"
FIGURE = pathlib.Path(__file__).parents[1] / "docs" / "figures" / "growth.png"
ENVIRONMENTS = (1, 4, 16, 64, 256, 1024, 4096)
# Environments that take part in the curve over tasks, of each task.
PER_TASK = 16
TASKS = (1, 2, 4, 8, 16, 25)
SAMPLES, HORIZONS = (32, 64, 128, 256, 512), (1, 2, 4, 8)
CAPACITIES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
REPETITIONS = 5
Row = dict[str, Any]


def _experiment(num_tasks: int = 1, **sizes: int) -> Any:
    from m3po_jax.config import default_config, from_config_dict
    from m3po_jax.config_validation import validate
    from m3po_jax.envs import task, toy
    from m3po_jax.envs.multitask import MultiTaskEnv
    from m3po_jax.learning.optimizers import make_optimizers
    from m3po_jax.networks.factory import make_networks
    from m3po_jax.training import sharding
    from m3po_jax.training.experiment import Experiment

    cfg = default_config()
    cfg.tasks = ("toy/LinearQuadratic",)
    cfg.env.action_repeat, cfg.env.unroll_length = 1, max(HORIZONS)
    cfg.env.num_envs = sizes.get("num_envs", PER_TASK)
    # Enough for a window of each environment, as a run demands.
    cfg.train.warmup_env_steps = cfg.world_model.horizon * max(ENVIRONMENTS)
    cfg.planner.num_samples = sizes.get("num_samples", 32)
    cfg.planner.num_policy_samples = cfg.planner.num_elites = 8
    cfg.planner.horizon = sizes.get("horizon", 3)
    cfg.replay.capacity = sizes.get("capacity", 1_000_000)
    cfg.train.num_devices = 1
    config = from_config_dict(cfg)
    validate(config)
    # One simulator under several names, which a config does not allow, so that tasks cost the same.
    tasks = [
        task.as_task(
            name=f"quadratic{index}",
            environment=toy.LinearQuadratic(),
            num_envs=config.env.num_envs,
            action_repeat=1,
        )
        for index in range(num_tasks)
    ]
    env = MultiTaskEnv(tasks)
    networks = make_networks(env.specs, env.action_mask, env.observation_size, config.network)
    optimizers = make_optimizers(config, iterations=1, transitions=1)
    return Experiment(env, networks, optimizers, config, sharding.choose_devices(config))


def _seconds(experiment: Any, names: Sequence[str]) -> dict[str, float]:
    """Seconds of one call of these parts of an iteration."""
    import jax

    from m3po_jax.benchmark import clock, parts

    state = jax.jit(experiment.init)(jax.random.key(0))
    programs: dict[str, Callable[[], Any]] = {}
    calls = {}
    for part in parts.make_parts(experiment):
        if part.name in names:
            calls[part.name] = part.calls
            programs[part.name] = parts.compile_part(part, state)[1]
    kind = "cpu" if clock.cores() == 1 and jax.default_backend() == "cpu" else "wall"
    seconds = clock.seconds_in_turn(programs, repetitions=REPETITIONS, clock=kind)
    return {name: statistics.median(x) / calls[name] for name, x in seconds.items()}


def over_environments() -> list[Row]:
    """Seconds per environment step of the simulator and of planning."""
    return [
        row
        for number in ENVIRONMENTS
        for row in _per_step("environments", number, _experiment(num_envs=number))
    ]


def over_tasks() -> list[Row]:
    """The same for more tasks of equally many environments."""
    return [row for number in TASKS for row in _per_step("tasks", number, _experiment(number))]


def _per_step(over: str, number: int, experiment: Any) -> list[Row]:
    unroll, batch = experiment.config.env.unroll_length, experiment.env.batch_size
    seconds = _seconds(experiment, ("environments", "planning"))
    return [
        _row(over, number, "simulator", seconds["environments"] / unroll / batch),
        _row(over, number, "planning", seconds["planning"] / batch),
    ]


def over_plans() -> list[Row]:
    """Seconds per plan for more samples, and for longer horizons."""
    rows = []
    for number in SAMPLES:
        experiment = _experiment(num_samples=number)
        seconds = _seconds(experiment, ("planning",))["planning"] / experiment.env.batch_size
        rows.append(_row("samples", number, "plan", seconds))
    for number in HORIZONS:
        experiment = _experiment(horizon=number)
        seconds = _seconds(experiment, ("planning",))["planning"] / experiment.env.batch_size
        rows.append(_row("horizon", number, "plan", seconds))
    return rows


def over_capacities() -> list[Row]:
    """Bytes of the replay, and seconds to write an unroll and to draw a batch."""
    from m3po_jax.replay import buffer

    rows = []
    for number in CAPACITIES:
        experiment = _experiment(capacity=number)
        size = buffer.num_bytes(experiment.state_shapes().replay)
        seconds = _seconds(experiment, ("replay_write", "replay_sample"))
        rows.append(_row("capacity", number, "bytes", size))
        rows += [_row("capacity", number, name, value) for name, value in seconds.items()]
    return rows


CURVES: dict[str, Callable[[], list[Row]]] = {
    "environments": over_environments,
    "tasks": over_tasks,
    "plans": over_plans,
    "capacities": over_capacities,
}
# What grows with the work in proportion; all other curves should stay where they are.
PROPORTIONAL = (("samples", "plan"), ("horizon", "plan"), ("capacity", "bytes"))


def _row(over: str, number: int, curve: str, value: float) -> Row:
    print(f"{over} {number}: {curve} {value:.3g}", flush=True)
    return {"over": over, "number": number, "curve": curve, "value": f"{value:.4g}"}


def draw(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draws each curve with its law."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        ("environments", "seconds per environment step", ("simulator", "planning")),
        ("tasks", "seconds per environment step", ("simulator", "planning")),
        ("samples", "seconds per plan", ("plan",)),
        ("horizon", "seconds per plan", ("plan",)),
        ("capacity", "seconds", ("replay_write", "replay_sample")),
        ("capacity", "bytes", ("bytes",)),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, (over, label, curves) in zip(axes.flat, panels, strict=True):
        for curve in curves:
            points = [row for row in rows if (row["over"], row["curve"]) == (over, curve)]
            if not points:
                continue
            x = [int(row["number"]) for row in points]
            y = [float(row["value"]) for row in points]
            (line,) = axis.plot(x, y, marker="o", label=curve.replace("_", " "))
            power = 1.0 if (over, curve) in PROPORTIONAL else 0.0
            law = [y[-1] * (n / x[-1]) ** power for n in x]
            axis.plot(x, law, "--", color=line.get_color(), alpha=0.6)
        axis.set(xscale="log", yscale="log", xlabel=over, ylabel=label)
        numbers = sorted({int(row["number"]) for row in rows if row["over"] == over})
        axis.set_xticks(numbers, [f"{n:,}" for n in numbers], fontsize=7)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    figure.suptitle("measured, and dashed the expected law through the largest point", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _read(path: pathlib.Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Measures the chosen curves, keeps the others of the CSV, and draws all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", nargs="*", help=f"of {', '.join(CURVES)}; none means all")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--figure", type=pathlib.Path, default=FIGURE)
    given = parser.parse_args()
    if unknown := set(given.curves) - set(CURVES):
        parser.error(f"{', '.join(sorted(unknown))} is not one of {', '.join(CURVES)}")
    rows = _read(given.out)
    for name in given.curves or CURVES:
        new = CURVES[name]()
        known = {row["over"] for row in new}
        rows = [row for row in rows if row["over"] not in known] + new
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    draw(rows, given.figure)


if __name__ == "__main__":
    main()
