"""A run of several processes: how they find each other, agree, and end together.

With one process nothing here communicates.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from m3po_jax.config import Config, UserError
from m3po_jax.workdir.folder import Workdir, open_workdir
from m3po_jax.workdir.preemption import leave

# A process that has not been heard of for so long counts as dead, and the others end.
HEARTBEAT_TIMEOUT_S = 60
# A process that is done waits so long for the others.
SHUTDOWN_TIMEOUT_S = 60

_LONGEST_WAIT_S = 3600


class ProcessError(UserError):
    """The processes of a run do not come together; the text says what to do."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the others; call it before anything else of JAX.

    Args:
        coordinator: `HOST:PORT` of process 0. What is None is found out from the surroundings, on
            TPU, Slurm and Open MPI, on Kubernetes with `jax[k8s]`.
        num_processes: Processes of the run.
        process_id: Number of this one, from 0.

    Raises:
        ProcessError: The others did not come, or nothing says where they are.
    """
    # JAX would take SIGTERM for itself; ours stops all processes after the same iteration.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ProcessError(
            f"the processes of this run did not find each other: {str(error).splitlines()[0]}\n"
            "Start every process with the same command and --distributed; where the cluster does "
            "not say so, also with --coordinator=HOST:PORT of process 0, --num_processes and "
            "--process_id."
        ) from error


def leads() -> bool:
    """Whether this process writes logs, metrics and evaluations; exactly one does."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until every process is here, as after compiling, which takes them unequally long.

    Not by a collective operation of the devices: those give up within half a minute on CPUs.

    Args:
        what: Name of the place.
    """
    if jax.process_count() > 1:
        everyone = set(range(jax.process_count()))
        multihost.sync_global_processes(what, timeout=_LONGEST_WAIT_S, processes=everyone)


def any_of(flag: bool) -> bool:
    """Whether the flag is true in any process; all must ask, in the same order."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_leader(flag: bool) -> bool:
    """The flag of the process that leads; all must ask, in the same order."""
    return any_of(flag and leads())


@contextlib.contextmanager
def shared_workdir(
    workdir: str | os.PathLike[str], config: Config, *, overwrite: bool
) -> Iterator[Workdir]:
    """Opens the folder in the process that leads; no process continues before it is open.

    All processes must see the same folder.

    Raises:
        WorkdirError: See `workdir.open_workdir`.
        ProcessError: That process refused it, in all others.
    """
    with contextlib.ExitStack() as stack:
        refusal, opened = None, None
        if leads():
            try:
                opened = stack.enter_context(open_workdir(workdir, config, overwrite=overwrite))
            except UserError as error:
                refusal = error
        if any_of(refusal is not None):
            raise refusal or ProcessError("process 0 refused to start; its message says why")
        resumed = from_leader(opened is not None and opened.resumed)
        note = "" if opened is None else opened.note
        yield Workdir(pathlib.Path(workdir).absolute(), resumed, note)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process if the block fails in the runtime, as it does when another one has died.

    At once and not by an exception: whatever waits for the others, as closing checkpoints does,
    would hang.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        leave(
            f"error: process {jax.process_index()} of {jax.process_count()} cannot continue, "
            f"most likely because another one has ended: {str(error).splitlines()[0]}\n"
            "Start all processes again with the same command: they resume from the last checkpoint."
        )
