"""Compiling programs; on a CPU large ones in a way that fits into the process."""

from typing import Any

import jax
from jax.extend.mlir import ir

from m3po_jax.training import memory

# XLA's CPU compiler puts each fused operation into an object of its own, and these take more memory
# mappings for the simulators of 25 tasks than the 65,530 that Linux grants a process: "Cannot
# allocate memory", then a crash. With its older emitters simulators take 0.4 of the mappings and
# 0.6 of the time to compile (docs/performance.md), but learning a fifth more time: so large
# programs only.
LARGE_PROGRAM = 100_000  # operations of StableHLO
_OPTIONS: dict[str, bool | str] = {"xla_cpu_use_fusion_emitters": False}


def compile_program(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles what was traced.

    Raises:
        MemoryShortage: What it computes does not fit into memory.
    """
    large = jax.default_backend() == "cpu" and _has_operations(lowered, LARGE_PROGRAM)
    compiled = lowered.compile(compiler_options=_OPTIONS if large else None)
    memory.require_room_to_run(compiled)
    return compiled


def _has_operations(lowered: jax.stages.Lowered, least: int) -> bool:
    """Whether a program has so many operations; counts no further than these."""
    count = 0

    def visit(_: Any) -> ir.WalkResult:
        nonlocal count
        count += 1
        return ir.WalkResult.ADVANCE if count < least else ir.WalkResult.INTERRUPT

    program: Any = lowered.compiler_ir()
    program.operation.walk(visit)
    return count >= least
