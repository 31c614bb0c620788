"""Timing of compiled programs in turn, and the rates that this machine reaches."""

import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.config import Config, ConfigError, resolve_network
from m3po_jax.networks.layers import DOT_GENERAL

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
# A reading is at least this long, so that what a call itself costs the clock does not show.
_SHORTEST_READING = 5e-3
_LARGE_MATRIX = 1024
_SMALL_COPY, _LARGE_COPY = 2**18, 2**26  # bytes: within a core's cache, and far beyond it
_MOST_CALLS = 1000
_ROUNDS = 8


def check_clock(name: str) -> None:
    """Refuses the `cpu` clock where it would not show time.

    Raises:
        ConfigError: Unknown, or this process computes on more than one core or an accelerator.
    """
    if name not in CLOCKS:
        raise ConfigError(f"--clock={name} is unknown; choose one of {', '.join(CLOCKS)}")
    if name == "wall":
        return
    if cores() != 1 or jax.default_backend() != "cpu":
        raise ConfigError(
            f"--clock=cpu adds up the time of all cores, and this run has {cores()} on "
            f"{jax.default_backend()}; start it on one (taskset -c 0 python ...), or use "
            "--clock=wall"
        )


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def seconds_in_turn(
    programs: Mapping[str, Callable[[], Any]], *, repetitions: int, clock: str
) -> dict[str, list[float]]:
    """Seconds per call of each program, warm and blocked until the result is there.

    Every round times each program once, so other load on the machine affects all of them equally.

    Args:
        programs: Functions that start a computation and return its result.
        repetitions: Rounds.
        clock: `wall`, or `cpu` for the time that this process computed.

    Returns:
        One number for each round.
    """
    now = CLOCKS[clock]

    def reading(program: Callable[[], Any], calls: int) -> float:
        begin = now()
        for _ in range(calls):
            jax.block_until_ready(program())
        return (now() - begin) / calls

    calls = {}
    for name, program in programs.items():
        reading(program, 1)
        once = max(reading(program, 1), 1e-9)
        calls[name] = min(max(1, round(_SHORTEST_READING / once)), _MOST_CALLS)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repetitions):
        for name, program in programs.items():
            seconds[name].append(reading(program, calls[name]))
    return seconds


def rate_programs(config: Config) -> dict[str, tuple[Callable[[], Any], float]]:
    """Programs whose speed bounds that of all others: matrix products and copies.

    Args:
        config: Gives the precision and size of the network's own products: the rows of a batch of
            windows, and the width of a layer.

    Returns:
        By name, a function that starts the program, and the operations (`matmul_*`) or bytes
        (`copy_*`) of one call.
    """
    width = resolve_network(config.network, len(config.tasks)).mlp_width
    dot_general = DOT_GENERAL[config.network.precision]
    rows = config.world_model.batch_size * config.world_model.horizon

    def program(step: Callable[[jax.Array], jax.Array], x: jax.Array) -> Callable[[], Any]:
        """Steps in a loop inside of the program, so that starting it takes no share."""
        run = jax.jit(lambda x: jax.lax.fori_loop(0, _ROUNDS, lambda _, x: step(x), x))
        compiled = run.lower(x).compile()
        return lambda: compiled(x)

    def product(m: int, k: int) -> tuple[Callable[[], Any], float]:
        other = jnp.eye(k)  # so that the numbers stay what they are
        step = functools.partial(dot_general, dimension_numbers=(((1,), (0,)), ((), ())))
        return program(lambda x: step(x, other), jnp.ones((m, k))), 2.0 * m * k * k * _ROUNDS

    def copy(size: int) -> tuple[Callable[[], Any], float]:
        return program(lambda x: x + 1.0, jnp.ones(size // 4)), 2.0 * size * _ROUNDS

    return {
        "matmul_network": product(rows, width),
        "matmul_large": product(_LARGE_MATRIX, _LARGE_MATRIX),
        "copy_cached": copy(_SMALL_COPY),
        "copy_large": copy(_LARGE_COPY),
    }
