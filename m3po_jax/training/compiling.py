"""Compiling programs; on a CPU large ones in a way that fits into the process."""

import jax

# XLA's CPU compiler puts each fused operation into an object of its own, and these take more memory
# mappings for the simulators of 25 tasks than the 65,530 that Linux grants a process: "Cannot
# allocate memory", then a crash. With its older emitters simulators take 0.4 of the mappings and
# 0.6 of the time to compile (docs/performance.md), but learning a fifth more time: so large
# programs only.
LARGE_PROGRAM = 100_000  # lines of StableHLO
_OPTIONS: dict[str, bool | str] = {"xla_cpu_use_fusion_emitters": False}


def compile_program(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles what was traced."""
    large = jax.default_backend() == "cpu" and lowered.as_text().count("\n") >= LARGE_PROGRAM
    return lowered.compile(compiler_options=_OPTIONS if large else None)
