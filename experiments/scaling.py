"""Weak scaling of one training iteration: `python -m experiments.scaling`.

Every device gets the same environments and the same share of each batch. On a CPU, whose emulated
devices cannot show speed, the iteration is compiled ahead of time for each number of devices and
described: operations of matrix products and bytes exchanged per device, counted in the traced
program with its loops, and memory per device, from the compiled one. From these follows the time of
an iteration on named hardware at stated rates. On accelerators the iteration is timed instead.

Each number of devices is a process of its own, and one row of the CSV. With `--fsdp 1 2 4` each of
them is described with so many devices sharing one copy of parameters and optimizers; give another
`--out` then.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results" / "scaling.csv"
FIGURE = pathlib.Path(__file__).parents[1] / "docs" / "figures" / "scaling.png"
DEVICES = (1, 4, 16, 64, 256)
# Per device and task: environments, and windows of a batch.
NUM_ENVS, NUM_WINDOWS = 16, 128
UPDATES = 32


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Stated peak rates of one device and of the links between devices.

    Attributes:
        name: Product.
        flops: Peak of the matrix units in the precision that float32 products use, per second.
        bandwidth: Bytes per second that a device sends to its neighbours.
        latency_s: Of one exchange among all devices, at least.
        source: Where the rates are stated.
    """

    name: str
    flops: float
    bandwidth: float
    latency_s: float
    source: str


# The latencies are assumptions: makers state none for whole exchanges.
HARDWARE = (
    Hardware("H100 SXM (TF32, NVLink)", 494e12, 450e9, 15e-6, "NVIDIA H100 data sheet"),
    Hardware("H100 nodes (TF32, 400 Gb/s)", 494e12, 50e9, 40e-6, "NVIDIA H100, ConnectX-7"),
    Hardware("TPU v5e (bf16, ICI)", 197e12, 200e9, 10e-6, "Google Cloud, TPU v5e"),
)
# Share of the peak that products of this size reach; an assumption, the same for all.
UTILISATION = 0.2


@dataclasses.dataclass
class Cost:
    """What one device does in one iteration."""

    flops: float = 0.0  # of matrix products
    exchanged: float = 0.0  # bytes of operands of collective operations
    exchanges: float = 0.0  # collective operations

    def add(self, other: "Cost", times: float = 1.0) -> None:
        """Adds another cost so many times."""
        self.flops += times * other.flops
        self.exchanged += times * other.exchanged
        self.exchanges += times * other.exchanges


def cost_of(jaxpr: Any, *, trips: float) -> Cost:
    """Counts products and exchanges of a traced program.

    Args:
        jaxpr: The program as one device sees it.
        trips: Rounds of the outermost loops whose number the program finds out as it runs; loops
            like that inside of them count once.
    """
    total = Cost()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total.flops += _product_flops(equation)
        elif name.startswith(("psum", "all_gather", "ppermute", "pmax", "pmin", "all_to_all")):
            total.exchanges += 1
            total.exchanged += sum(x.aval.size * x.aval.dtype.itemsize for x in equation.invars)
        elif name == "cond":
            branches = [cost_of(x.jaxpr, trips=trips) for x in equation.params["branches"]]
            total.add(max(branches, key=lambda cost: (cost.flops, cost.exchanged)))
        elif name == "while":
            total.add(cost_of(equation.params["body_jaxpr"].jaxpr, trips=1.0), trips)
        elif name == "scan":
            inner = cost_of(equation.params["jaxpr"].jaxpr, trips=trips)
            total.add(inner, equation.params["length"])
        else:
            for inner in _inner_programs(equation.params.values()):
                total.add(cost_of(inner, trips=trips))
    return total


def _product_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs, out = equation.invars[0].aval, equation.outvars[0].aval
    return 2.0 * out.size * math.prod(lhs.shape[axis] for axis in contracted)


def _inner_programs(values: Iterable[Any]) -> list[Any]:
    """The programs among an equation's parameters, as of calls and of shard_map."""
    found = []
    for value in values:
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns"):
            found.append(program)
    return found


def describe(num_devices: int, fsdp: int, size: str) -> dict[str, float | int | str]:
    """Compiles the iteration for so many devices; the row of the CSV."""
    import jax

    experiment = _experiment(num_devices, fsdp, size)
    from m3po_jax.training import sharding

    shapes = experiment.state_shapes()
    traced = sharding.shard_train_step(experiment.mesh, experiment).trace(shapes)
    cost = cost_of(traced.jaxpr.jaxpr, trips=float(UPDATES))
    begin = time.monotonic()
    compiled = traced.lower().compile()
    seconds = time.monotonic() - begin
    memory = compiled.memory_analysis()
    parameters = sum(x.size for x in jax.tree.leaves(shapes.agent.params))
    row: dict[str, float | int | str] = {
        "devices": num_devices,
        "fsdp_devices": fsdp,
        "backend": jax.default_backend(),
        "size": size,
        "parameters": parameters,
        "environments": experiment.env.batch_size,
        "batch_size": experiment.config.world_model.batch_size,
        "updates": UPDATES,
        "gflop_per_device": round(cost.flops / 1e9, 1),
        "exchanged_mib_per_device": round(cost.exchanged / 2**20, 2) if num_devices > 1 else 0.0,
        "exchanges": int(cost.exchanges) if num_devices > 1 else 0,
        "state_mib_per_device": round(memory.argument_size_in_bytes / 2**20, 1),
        "temporary_mib_per_device": round(memory.temp_size_in_bytes / 2**20, 1),
        "compile_seconds": round(seconds, 1),
    }
    if jax.default_backend() != "cpu":
        row["seconds"] = _measure(experiment, compiled)
        return row
    for hardware in HARDWARE:
        row[f"predicted_seconds/{hardware.name}"] = _predict(cost, num_devices, hardware)
    return row


def _experiment(num_devices: int, fsdp: int, size: str) -> Any:
    from m3po_jax.config import default_config, from_config_dict
    from m3po_jax.config_validation import validate
    from m3po_jax.training.experiment import make_experiment

    cfg = default_config()
    cfg.tasks = ("toy/LinearQuadratic", "toy/TerminatingPole")
    cfg.network.size = size
    cfg.env.num_envs = NUM_ENVS * num_devices
    cfg.world_model.batch_size = NUM_WINDOWS * len(cfg.tasks) * num_devices
    cfg.planner.num_samples, cfg.planner.num_policy_samples = 512, 24
    cfg.planner.iterations, cfg.planner.num_elites = 6, 64
    transitions = cfg.env.unroll_length * cfg.env.num_envs * len(cfg.tasks)
    cfg.train.updates_per_transition = UPDATES / transitions
    cfg.replay.capacity = 100_000 * num_devices
    cfg.env.action_repeat = 4
    env_steps = transitions * cfg.env.action_repeat
    cfg.train.warmup_env_steps, cfg.train.total_env_steps = 2 * env_steps, 1000 * env_steps
    cfg.train.num_devices, cfg.train.fsdp_devices = num_devices, fsdp
    config = from_config_dict(cfg)
    validate(config)
    return make_experiment(config)


def _predict(cost: Cost, num_devices: int, hardware: Hardware) -> float:
    """Seconds of an iteration: products, then exchanges by rings, nothing side by side."""
    compute = cost.flops / (UTILISATION * hardware.flops)
    if num_devices == 1:
        return round(compute, 5)
    sent = 2.0 * (num_devices - 1) / num_devices * cost.exchanged
    waiting = cost.exchanges * hardware.latency_s * math.log2(num_devices)
    return round(compute + sent / hardware.bandwidth + waiting, 5)


def _measure(experiment: Any, step: Any) -> float:
    """Seconds of an iteration that learns, the median of ten."""
    import jax

    from m3po_jax.training import sharding

    state = sharding.shard_init(experiment.mesh, experiment)(jax.random.key(0))
    seconds = []
    for _ in range(16):
        begin = time.monotonic()
        state, _ = jax.block_until_ready(step(state))
        seconds.append(time.monotonic() - begin)
    return round(sorted(seconds[6:])[5], 5)


def draw(rows: list[dict[str, str]], path: pathlib.Path) -> None:
    """Draws efficiency (time on one device over time on many) and what is exchanged."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    devices = [int(row["devices"]) for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for column in rows[0]:
        if column == "seconds" or column.startswith("predicted_seconds/"):
            times = [float(row[column]) for row in rows]
            label = column.partition("/")[2] or rows[0]["backend"]
            left.plot(devices, [100.0 * times[0] / t for t in times], marker="o", label=label)
    left.set(xlabel="devices", ylabel="weak-scaling efficiency (%)", xscale="log", ylim=(0, 105))
    left.legend(fontsize=8)
    for column, label in (
        ("exchanged_mib_per_device", "exchanged, MiB"),
        ("state_mib_per_device", "state, MiB"),
        ("temporary_mib_per_device", "temporary memory, MiB"),
        ("gflop_per_device", "matrix products, GFLOP"),
    ):
        values = [float(row[column]) or math.nan for row in rows]
        right.plot(devices, values, marker="o", label=label)
    right.set(xlabel="devices", ylabel="per device and iteration", xscale="log", yscale="log")
    right.set_ylim(top=50 * max(float(row["gflop_per_device"]) for row in rows))
    right.legend(fontsize=8, loc="upper left", ncols=2)
    for axes in (left, right):
        axes.set_xticks(devices, [str(n) for n in devices])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return int(row["devices"]), int(row["fsdp_devices"])


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return sorted(csv.DictReader(file), key=_key)


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(sorted(rows, key=_key))


def main() -> None:
    """Describes the numbers of devices that the CSV lacks, then draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=list(DEVICES))
    parser.add_argument("--fsdp", type=int, nargs="+", default=[1], help="devices for one copy")
    parser.add_argument("--size", default="5M", help="size of the networks")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="CSV of results")
    parser.add_argument("--figure", type=pathlib.Path, default=FIGURE)
    parser.add_argument("--one", action="store_true", help="describe the first, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        key = (arguments.devices[0], arguments.fsdp[0])
        rows: list[dict[str, Any]] = [row for row in _read(arguments.out) if _key(row) != key]
        _write(arguments.out, [*rows, describe(*key, arguments.size)])
        return
    done = {_key(row) for row in _read(arguments.out)}
    for number, fsdp in itertools.product(arguments.devices, arguments.fsdp):
        if (number, fsdp) not in done:
            print(f"{number} devices, {fsdp} for one copy ...", flush=True)
            command = [sys.executable, "-m", "experiments.scaling", "--one", "--fsdp", str(fsdp)]
            options = ["--devices", str(number), "--size", arguments.size]
            # Has no effect where there are accelerators.
            environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(number)}
            where = ["--out", str(arguments.out)]
            subprocess.run([*command, *options, *where], check=True, env=environment)
    rows = _read(arguments.out)
    if {fsdp for _, fsdp in map(_key, rows)} == {1}:
        draw(rows, arguments.figure)
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
