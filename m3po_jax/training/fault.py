"""What happens when losses or gradients keep being not finite: a diagnostic bundle and an end."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from m3po_jax.config import UserError
from m3po_jax.learning.metrics import SKIPPED
from m3po_jax.training import processes
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError
from m3po_jax.workdir.folder import FAULT_FOLDER
from m3po_jax.workdir.record import CONFIG_FILE, write_atomically

FAULT_METRICS_FILE = "metrics.json"


class NumericsError(UserError):
    """Updates are left out again and again; the text names the modules and the bundle."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


class FaultWatch:
    """Counts the iterations in a row that left out an update of some module.

    After `limit` of them, each further iteration is suspect: its start state is saved before it
    runs, and if it leaves out an update too, the run stops.
    """

    def __init__(self, workdir: pathlib.Path, *, limit: int):
        """Watches a run in `workdir` that may have `limit` such iterations in a row."""
        self._workdir = workdir
        self._folder = workdir / FAULT_FOLDER
        self._limit = limit
        self._in_a_row = 0

    @property
    def suspicious(self) -> bool:
        """Whether the next iteration must be looked at."""
        return self._in_a_row >= self._limit

    def note(self, metrics: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Counts the metrics of iterations, in order."""
        for row in metrics:
            self._in_a_row = self._in_a_row + 1 if skipped_modules(row) else 0

    def save_state(self, iteration: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Writes the bundle of the iteration that is about to run; an older one is replaced.

        Raises:
            CheckpointError: It cannot be written.
        """
        try:
            self._remove()
            processes.any_of(True)  # no process writes before the folder is gone
            with Checkpointer(self._folder) as checkpointer:
                checkpointer.save(iteration, state, meta)
            if processes.leads():
                # Last, because it makes the bundle a bundle.
                shutil.copy(self._workdir / CONFIG_FILE, self._folder / CONFIG_FILE)
        except OSError as error:
            raise CheckpointError(
                f"updates keep being skipped because they are not finite, and {self._folder} "
                f"cannot be written: {error.strerror or error}; check that the disk has space, "
                "then run the same command again"
            ) from error

    def judge(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Ends the run if the iteration after `save_state` left out an update as well.

        Raises:
            NumericsError: It did.
        """
        modules = skipped_modules(metrics)
        self.note([metrics])
        if not modules:
            self._remove()
            return
        numbers = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        if processes.leads():
            text = json.dumps(numbers, indent=2) + "\n"
            write_atomically(self._folder / FAULT_METRICS_FILE, text)
        raise NumericsError(
            f"losses or gradients of {' and '.join(modules)} were not finite in "
            f"{self._in_a_row} iterations in a row (train.max_skipped_updates = {self._limit}). "
            f"Those updates were skipped, so the parameters are intact. The last of these "
            f"iterations is in {self._folder}; see where its numbers break with\n"
            f"  python -m m3po_jax.cli.replay_fault {self._folder}\n"
            "The same command resumes from the last checkpoint; with a larger "
            "--config.train.max_skipped_updates it tolerates more."
        )

    def end(self, iteration: int, state: Any, meta: Mapping[str, Any], what: str) -> NoReturn:
        """Ends the run because an assertion failed in the iteration that began with `state`.

        Raises:
            NumericsError: Always; it says `what` failed.
        """
        self.save_state(iteration, state, meta)
        raise NumericsError(
            f"{what}. It occurred in iteration {iteration + 1}, whose start is in {self._folder}; "
            f"run it again with\n  python -m m3po_jax.cli.replay_fault "
            f"{self._folder}\nThe same command resumes from the last checkpoint; without --debug "
            "such an update is skipped and counted."
        )

    def _remove(self) -> None:
        if processes.leads() and self._folder.exists():
            shutil.rmtree(self._folder)


def skipped_modules(metrics: Mapping[str, np.ndarray]) -> list[str]:
    """The modules that left out an update, by the metrics of one iteration."""
    return [
        name.removesuffix(SKIPPED)
        for name, count in metrics.items()
        if name.endswith(SKIPPED) and jax.device_get(count) > 0
    ]
