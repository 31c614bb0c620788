"""Re-runs the iteration of a diagnostic bundle and says where its numbers stop being finite."""

import os
from typing import Any

import jax

from m3po_jax.config import Config
from m3po_jax.learning.train_step import make_train_step
from m3po_jax.ops import checks, finite
from m3po_jax.training.experiment import restore_run
from m3po_jax.training.fault import skipped_modules


def replay_fault(config: Config, folder: str | os.PathLike[str]) -> str:
    """Runs one iteration from the state in `folder` and returns what was not finite, as text.

    The iteration is the one that stopped the run, with the same keys and data; each gradient step
    is reported on the way.

    Args:
        config: Settings of the run.
        folder: The bundle.

    Raises:
        CheckpointError: The bundle holds no state or a damaged one.
    """
    experiment, state, _ = restore_run(
        config, folder, absent="holds no state; it is not the bundle of a stopped run"
    )
    lines = [f"iteration {int(state.iteration)}, updates done before it: {int(state.updates)}"]
    before = _nonzero(jax.device_get(checks.count_by_path(state)))
    lines.append(f"not finite in the start state: {_listed(before) or 'nothing'}")

    steps: dict[str, int] = {}
    faults: list[str] = []

    def observe(module: str, losses: dict[str, int], gradient: dict[str, int]) -> None:
        steps[module] = steps.get(module, 0) + 1
        bad_losses, bad_leaves = _nonzero(losses), _nonzero(gradient)
        if bad_losses or bad_leaves:
            faults.append(
                f"{module}, its gradient step {steps[module]} of this iteration\n"
                f"  losses: {', '.join(bad_losses) or 'all finite'}\n"
                f"  gradient leaves: {_listed(bad_leaves) or 'all finite'}"
            )

    step = make_train_step(experiment)
    with finite.observed(observe):
        _, metrics = jax.block_until_ready(jax.jit(step)(state))
        jax.effects_barrier()
    counts = ", ".join(f"{module} {count}" for module, count in steps.items())
    lines.append(f"gradient steps: {counts or 'none'}")
    if faults:
        lines.append(f"first not finite: {faults[0]}")
        left_out = ", ".join(skipped_modules(jax.device_get(metrics)))
        lines.append(f"{len(faults)} gradient steps are not finite; skipped in: {left_out}")
    else:
        lines.append("all losses and gradients are finite: the fault does not reproduce here")
    return "\n".join(lines)


def _nonzero(counts: dict[str, Any]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items() if count > 0}


def _listed(counts: dict[str, int], *, most: int = 5) -> str:
    named = [f"{name} ({count} values)" for name, count in list(counts.items())[:most]]
    return ", ".join(named) + (f" and {len(counts) - most} more" if len(counts) > most else "")
