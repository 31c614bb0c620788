"""The benchmark: compile, time in turn, compare with what the machine could do."""

import dataclasses
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.benchmark import clock as clocks
from m3po_jax.benchmark.parts import (
    Part,
    compile_part,
    make_parts,
    updates_per_iteration,
)
from m3po_jax.config import Config
from m3po_jax.learning.state import TrainState
from m3po_jax.training import sharding
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.experiment import Experiment, make_experiment, on_one_device

SCHEMA = 1
_Record = dict[str, Any]
# Operations and bytes of a program, whose costliest loop of unknown length runs so many rounds.
Count = Callable[[jax.stages.Compiled, float], tuple[float, float]]


def benchmark(
    config: Config, *, repetitions: int, clock: str, count: Count | None = None
) -> _Record:
    """Measures a training iteration that learns, and its parts, on one device.

    Args:
        config: Validated settings; `train.num_devices` is taken as 1.
        repetitions: Rounds in which each program is timed once.
        clock: See `clock.check_clock`.
        count: Counts the operations and bytes of a program; without it there are no floors.

    Returns:
        What `docs/performance.md` lists: device, seconds of the iteration and its parts, with
        `count` their operations, bytes and floors, and the machine's rates.
    """
    clocks.check_clock(clock)
    bench = _Bench(make_experiment(on_one_device(config)), count)
    rates = clocks.rate_programs(config)
    programs = {name: program for name, (program, _) in rates.items()}
    programs |= {"whole_step": bench.whole_step}
    programs |= {part.name: bench.program(part) for part in bench.parts}
    seconds = clocks.seconds_in_turn(programs, repetitions=repetitions, clock=clock)
    reached = {name: size / statistics.median(seconds[name]) for name, (_, size) in rates.items()}
    record = bench.record(seconds, reached)
    return {
        "schema": SCHEMA,
        "device": _device(),
        "clock": clock,
        "repetitions": repetitions,
        "config": dataclasses.asdict(bench.experiment.config),
        "rates": reached,
        **record,
        "seconds_of_repetitions": seconds,
    }


class _Bench:
    """The compiled programs of an experiment, and the state that they run on."""

    def __init__(self, experiment: Experiment, count: Count | None):
        self.experiment = experiment
        self.parts = make_parts(experiment)
        self._compile_seconds: dict[str, float] = {}
        self._count = count
        self._costs: dict[str, tuple[float, float]] = {}
        key = jax.random.key(experiment.config.seed)
        begin = time.monotonic()
        init = compile_program(sharding.shard_init(experiment.mesh, experiment).lower(key))
        state = self._compiled("start_state", init, begin)(key)
        begin = time.monotonic()
        train_step = sharding.shard_train_step(experiment.mesh, experiment)
        step = compile_program(train_step.lower(state))
        updates = float(updates_per_iteration(experiment))
        self._step = self._compiled("whole_step", step, begin, trips=updates)
        self._state: TrainState = self._ready(state)

    def whole_step(self) -> Any:
        """Starts one iteration that learns, from where the last one ended."""
        self._state, metrics = self._step(self._learning(self._state))
        return metrics

    def program(self, part: Part) -> Callable[[], Any]:
        """Compiles the part; the result starts what an iteration does of it."""
        begin = time.monotonic()
        compiled, run = compile_part(part, self._state)
        self._compiled(part.name, compiled, begin)
        return run

    def record(self, seconds: dict[str, list[float]], rates: dict[str, float]) -> _Record:
        """Times and floors, and the whole step and the sum of its parts."""
        flops = max(rate for name, rate in rates.items() if name.startswith("matmul"))
        copied = max(rate for name, rate in rates.items() if name.startswith("copy"))

        def entry(name: str, calls: int) -> _Record:
            per_call = [x / calls for x in seconds[name]]
            median = statistics.median(per_call)
            times = {"calls": calls, "seconds": median, "seconds_min": min(per_call)}
            if name not in self._costs:
                return times
            operations, moved = self._costs[name]
            floor = max(operations / flops, moved / copied) / calls
            counts = {"flops": operations / calls, "bytes": moved / calls}
            return {**times, **counts, "floor_seconds": floor, "over_floor": median / floor}

        sums = [
            sum(seconds[part.name][i] for part in self.parts)
            for i in range(len(seconds["whole_step"]))
        ]
        whole = statistics.median(seconds["whole_step"])
        ratios = [a / b for a, b in zip(seconds["whole_step"], sums, strict=True)]
        return {
            "whole_step_seconds": whole,
            "sum_of_parts_seconds": statistics.median(sums),
            "whole_over_parts": statistics.median(ratios),
            "whole_step": entry("whole_step", 1),
            "parts": {part.name: entry(part.name, part.calls) for part in self.parts},
            "updates_per_step": updates_per_iteration(self.experiment),
            "env_steps_per_step": self.experiment.env_steps_per_iteration,
            "env_steps_per_second": self.experiment.env_steps_per_iteration / whole,
            "compile_seconds": self._compile_seconds,
            "peak_bytes": self._peak_bytes(),
            "process_peak_bytes": _process_peak_bytes(),
        }

    def _compiled(
        self, name: str, compiled: jax.stages.Compiled, begin: float, *, trips: float = 1.0
    ) -> jax.stages.Compiled:
        """Notes how long it took since `begin`, and what the program costs."""
        self._compile_seconds[name] = time.monotonic() - begin
        if self._count is not None:
            self._costs[name] = self._count(compiled, trips)
        return compiled

    def _ready(self, state: TrainState) -> TrainState:
        """Collects with random actions until the replay holds windows, and learns once."""
        config = self.experiment.config
        unrolls = -(-config.world_model.horizon // config.env.unroll_length) + 1
        for _ in range(unrolls if config.train.warmup_env_steps else 0):
            state, _ = self._step(state.replace(iteration=jnp.zeros((), jnp.int32)))
        state, _ = jax.block_until_ready(self._step(self._learning(state)))
        return self._learning(state)

    def _learning(self, state: TrainState) -> TrainState:
        """The state where warm-up is over and exactly the usual updates are owed."""
        experiment = self.experiment
        random, steps = experiment.config.train.warmup_env_steps, experiment.env_steps_per_iteration
        unroll = experiment.env.batch_size * experiment.config.env.unroll_length
        usual = experiment.config.train.updates_per_transition * unroll
        owed = updates_per_iteration(experiment) - usual
        return state.replace(
            iteration=jnp.full((), -(-random // steps), jnp.int32),
            update_debt=jnp.full((), owed + 1e-3),
        )

    def _peak_bytes(self) -> int:
        """The device's peak or, where it keeps none, what the whole step holds."""
        memory = jax.devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            return int(memory["peak_bytes_in_use"])
        held: Any = self._step.memory_analysis()
        whole = held.argument_size_in_bytes + held.temp_size_in_bytes + held.output_size_in_bytes
        return int(whole - held.alias_size_in_bytes)


def _device() -> _Record:
    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "kind": device.device_kind,
        "machine": platform.processor() or platform.machine(),
        "cores": clocks.cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _process_peak_bytes() -> int:
    """Largest memory of this process so far, compiling included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
