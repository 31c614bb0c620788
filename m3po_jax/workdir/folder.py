"""The folder of one run: which config it holds, and that one process at a time writes to it.

Imports no JAX, so that a refusal comes at once.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from m3po_jax.config import Config
from m3po_jax.workdir import overwriting, record
from m3po_jax.workdir.record import CONFIG_FILE, WorkdirError, write_atomically

METRICS_FILE = "metrics.csv"
EVALUATION_FILE = "eval.jsonl"
SAVED_EVALUATION_FILE = "saved_eval.jsonl"  # of `m3po-evaluate --save`
CHECKPOINT_FOLDER = "checkpoints"
FAULT_FOLDER = "fault"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_FILE = ".wandb_id"
LOCK_FILE = ".lock"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A folder that is open for one run.

    Attributes:
        path: The folder, absolute.
        resumed: Whether it held this run already.
        note: What to know about resuming it.
    """

    path: pathlib.Path
    resumed: bool
    note: str = ""


@contextlib.contextmanager
def open_workdir(
    workdir: str | os.PathLike[str],
    config: Config,
    *,
    overwrite: bool = False,
    origin: Mapping[str, str] | None = None,
) -> Iterator[Workdir]:
    """Opens the folder for a new or a resumed run and holds its lock inside the `with` block.

    Args:
        workdir: The folder; made when it does not exist. Files of others in it stay untouched.
        config: Settings of the run to start or to resume.
        overwrite: Start a new run. The run that the folder holds is deleted when a checkpoint of
            the new one was read (`forget_overwritten`), and kept if the new one ends without any.
        origin: What a run that starts from another takes from it, by flag. Without it, a run is
            resumed whatever it started from.

    Yields:
        The open folder; its config.json holds `config` and `origin`.

    Raises:
        WorkdirError: Another process uses the folder, it cannot be written, or it holds a run
            with another origin or with other settings than those in `CHANGEABLE`.
    """
    path = pathlib.Path(workdir).absolute()
    with _locked(path):
        with _os_errors_named(path):
            _refuse_dangling(path)
            overwriting.finish_moving(_folders(path))
            _settle(path)
            if overwrite and (path / CONFIG_FILE).exists():
                record.read(path)  # refuses a config.json that is not ours
                overwriting.forget(_folders(path))  # a run that the one here has replaced
                overwriting.set_aside(path, _files(path))
        try:
            with _os_errors_named(path):
                new, resumed, note = _record(path, config, origin)
                write_atomically(path / CONFIG_FILE, json.dumps(new, indent=2) + "\n")
            yield Workdir(path, resumed, note)
        finally:
            with _os_errors_named(path):
                _settle(path)


def forget_overwritten(workdir: str | os.PathLike[str]) -> None:
    """Deletes the run that a new one replaces, of which a checkpoint now was read."""
    overwriting.forget(_folders(pathlib.Path(workdir)))


def read_config(workdir: str | os.PathLike[str]) -> Config:
    """Returns the settings of the run that the folder holds.

    Raises:
        WorkdirError: There is no run, or its config.json cannot be read by this version.
    """
    return record.config_of(pathlib.Path(workdir).absolute(), read_record(workdir))


def read_record(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the config.json of the run that the folder holds, of whichever version.

    Raises:
        WorkdirError: There is no run, or its config.json is damaged.
    """
    path = pathlib.Path(workdir).absolute()
    with _os_errors_named(path, "name a folder that can be read"):
        if not (path / CONFIG_FILE).exists():
            raise WorkdirError(
                f"{path} holds no run (no {CONFIG_FILE}); train one there first{_waiting(path)}"
            )
    return record.read(path)


def checkpoint_steps(workdir: str | os.PathLike[str]) -> list[int]:
    """Returns the iterations of the finished checkpoints in the folder, without opening any."""
    children = _checkpoints(pathlib.Path(workdir))
    return sorted(int(child.name) for child in children if child.name.isdigit())


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a finished checkpoint lies in the folder, without opening it."""
    return bool(checkpoint_steps(workdir))


def require_checkpoint(workdir: str | os.PathLike[str]) -> None:
    """Refuses a run without a checkpoint, before anything slow.

    Raises:
        WorkdirError: There is none yet.
    """
    path = pathlib.Path(workdir).absolute()
    with _os_errors_named(path, "name a folder that can be read"):
        _refuse_dangling(path)
        if not has_checkpoint(path):
            raise WorkdirError(
                f"{workdir} has no checkpoint yet; train longer first{_waiting(path)}"
            )


def has_begun(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a run in the folder has anything to lose: a checkpoint or metrics."""
    return has_checkpoint(workdir) or (pathlib.Path(workdir) / METRICS_FILE).exists()


def holds_metrics(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a run in the folder has written metrics or an evaluation."""
    return any((pathlib.Path(workdir) / name).exists() for name in (METRICS_FILE, EVALUATION_FILE))


@contextlib.contextmanager
def _os_errors_named(
    path: pathlib.Path, remedy: str = "give --workdir a folder that can be written"
) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise WorkdirError(
            f"cannot use the workdir {path}: {error.strerror or error}{where}; {remedy}"
        ) from error


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Makes the folder and holds its lock; says in it who does."""
    with _os_errors_named(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(lock, 1000).decode(errors="replace").strip() or "another process"
            raise WorkdirError(
                f"{path} is in use by {owner}; wait for it or stop it, or give another --workdir"
            ) from error
        with _os_errors_named(path):
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(lock)


def _waiting(path: pathlib.Path) -> str:
    """What to know of a run that --overwrite was to replace, if there is one."""
    if not overwriting.is_set_aside(path):
        return ""
    return (
        "; the run that --overwrite was to replace is still there, and m3po-train with its "
        "settings and without --overwrite restores it"
    )


def _refuse_dangling(path: pathlib.Path) -> None:
    """A link to a disk that is not there must not pass for a run without checkpoints."""
    folder = path / CHECKPOINT_FOLDER
    if folder.is_symlink() and not folder.exists():
        raise WorkdirError(
            f"{folder} is a link to {os.readlink(folder)}, which is not there; mount that disk or "
            "fix the link"
        )


def _record(
    path: pathlib.Path, config: Config, origin: Mapping[str, str] | None
) -> tuple[dict[str, Any], bool, str]:
    """Returns the new config.json, whether its run is resumed, and what to know about that."""
    if not (path / CONFIG_FILE).exists():
        _refuse_headless(path)
        return record.new(config, origin), False, ""
    old = record.read(path)
    if has_begun(path):
        new = record.resumed(path, old, config, origin)
        return new, True, record.version_changes(old, new)
    if origin is None and record.ORIGIN in old:
        source = old[record.ORIGIN]["from"]
        raise WorkdirError(
            f"{path} is for a run that starts from {source}, and that has not begun yet; start "
            f"it with m3po-finetune"
        )
    # A start that was refused or cut short left nothing to resume.
    return record.new(config, origin), False, ""


def _checkpoints(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of checkpoints, unfinished ones included, and nothing else there."""
    folder = path / CHECKPOINT_FOLDER
    if not folder.is_dir():
        return []
    return [
        child
        for child in folder.iterdir()
        if child.is_dir() and child.name.partition(".")[0].isdigit()
    ]


def _refuse_headless(path: pathlib.Path) -> None:
    """Files of a run without its config must not be taken for those of a new run."""
    names = [name for name in (METRICS_FILE, EVALUATION_FILE) if (path / name).exists()]
    for name in [*names, *([CHECKPOINT_FOLDER] if _checkpoints(path) else [])]:
        raise WorkdirError(
            f"{path} holds {name} but no {CONFIG_FILE}, so its run cannot be identified; restore "
            f"{CONFIG_FILE}, move {path / name} away, or give another --workdir"
        )


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    """Folders that hold files of the run, the workdir last."""
    return [path / CHECKPOINT_FOLDER, path / TENSORBOARD_FOLDER, path]


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Files and folders of the run and nothing else."""
    files = _checkpoints(path)
    if (path / FAULT_FOLDER / CONFIG_FILE).exists():
        files.append(path / FAULT_FOLDER)
    files += (path / TENSORBOARD_FOLDER).glob("events.out.tfevents.*")
    names = (METRICS_FILE, EVALUATION_FILE, SAVED_EVALUATION_FILE, WANDB_FILE, CONFIG_FILE)
    return [*files, *(path / name for name in names if (path / name).exists())]


def _settle(path: pathlib.Path) -> None:
    """Puts a run back that was set aside, unless the one that is to replace it has a checkpoint."""
    if not overwriting.is_set_aside(path) or has_checkpoint(path):
        return
    for file in _files(path):
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    overwriting.put_back(_folders(path))
