"""Compiling programs; on a CPU large ones in a way that fits into the process."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.extend.mlir import ir

from m3po_jax.training import memory
from m3po_jax.workdir.progress import Progress

# XLA's CPU compiler puts each fused operation into an object of its own, and these take more memory
# mappings for the simulators of 25 tasks than the 65,530 that Linux grants a process: "Cannot
# allocate memory", then a crash. With its older emitters simulators take 0.4 of the mappings and
# 0.6 of the time to compile (docs/performance.md), but learning a fifth more time: so large
# programs only.
LARGE_PROGRAM = 100_000  # operations of StableHLO
# Folder in JAX's compile cache: one file for each program, with the seconds it took.
_NOTES = "m3po_jax_seconds"
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


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced program, to be compiled by calling it.

    How long that takes is noted beside JAX's compile cache, for the same program another time.

    Attributes:
        lowered: What was traced.
    """

    lowered: jax.stages.Lowered

    def __call__(self) -> jax.stages.Compiled:
        """Compiles it; see `compile_program`."""
        began = time.monotonic()
        compiled = compile_program(self.lowered)
        if self._note is not None:
            with contextlib.suppress(OSError):  # a note is nothing to end a run for
                self._note.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._note.with_name(f"{self._note.name}.{os.getpid()}")
                temporary.write_text(f"{time.monotonic() - began:.1f}\n", encoding="ascii")
                os.replace(temporary, self._note)
        return compiled

    @property
    def last_seconds(self) -> float | None:
        """Seconds that it took the last time on such a device; None where that is not known."""
        try:
            return None if self._note is None else float(self._note.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    @functools.cached_property
    def _note(self) -> pathlib.Path | None:
        folder: str | None = jax.config.values["jax_compilation_cache_dir"]
        if not folder:
            return None
        program: Any = self.lowered.compiler_ir()
        # Without the places in the source, and of large constants only that they are there.
        code = program.operation.get_asm(enable_debug_info=False, large_elements_limit=16)
        about = f"{jax.__version__} {jax.devices()[0].device_kind}"
        name = hashlib.sha256(f"{about} {code}".encode()).hexdigest()[:32]
        return pathlib.Path(folder) / _NOTES / name


def compile_all(
    programs: Mapping[str, Program], progress: Progress
) -> dict[str, jax.stages.Compiled]:
    """Compiles programs at the same time, while the display says which and how long so far."""
    before = {name: program.last_seconds for name, program in programs.items()}
    # XLA compiles outside of Python's lock. Processes that run together go in one order.
    workers = len(programs) if jax.process_count() == 1 else 1
    with (
        progress.working("Compiling", before) as done,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):

        def compile_one(name: str) -> jax.stages.Compiled:
            compiled = programs[name]()
            done(name)
            return compiled

        return dict(zip(programs, pool.map(compile_one, programs), strict=True))


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
