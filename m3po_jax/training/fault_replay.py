"""Re-runs the iteration of a diagnostic bundle and says where its numbers stop being finite."""

import os
from typing import Any

import jax

from m3po_jax.config import Config
from m3po_jax.learning.train_step import make_train_step
from m3po_jax.ops import checks, counting
from m3po_jax.training.experiment import restore_run
from m3po_jax.training.fault import skipped_modules


def replay_fault(config: Config, folder: str | os.PathLike[str]) -> str:
    """Runs one iteration from the state in `folder` and returns what was not finite, as text.

    The iteration is the one that stopped the run, with the same keys and data, and with the
    assertions of `--debug`.

    Args:
        config: Settings of the run.
        folder: The bundle.

    Raises:
        CheckpointError: The bundle holds no state or a damaged one.
    """
    experiment, state, meta = restore_run(
        config, folder, absent="holds no state; it is not the bundle of a stopped run"
    )
    before = jax.device_get(checks.count_by_path(state))
    error, (_, metrics) = jax.jit(checks.checked(make_train_step(experiment)))(state)
    failed = checks.message(error)
    modules = skipped_modules(jax.device_get(metrics))
    return "\n".join(
        [
            f"iteration {meta['env_steps'] // experiment.env_steps_per_iteration}, updates done "
            f"before it: {counting.whole(state.updates)}",
            f"not finite in the start state: {_listed(before) or 'nothing'}",
            f"first assertion that fails: {failed or 'none; the fault does not reproduce here'}",
            f"updates skipped in: {', '.join(modules) or 'no module'}",
        ]
    )


def _listed(counts: dict[str, Any], *, most: int = 5) -> str:
    bad = [f"{name} ({count})" for name, count in counts.items() if count > 0]
    return ", ".join(bad[:most]) + (f" and {len(bad) - most} more" if len(bad) > most else "")
