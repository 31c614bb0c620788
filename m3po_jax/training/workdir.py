"""The folder of one run: which config it holds, and that one process at a time writes to it.

Imports no JAX, so that a refusal comes at once.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import m3po_jax
from m3po_jax.config import Config, ConfigError, UserError, flatten, from_config_dict
from m3po_jax.training import overwriting

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.csv"
EVALUATION_FILE = "eval.jsonl"
SAVED_EVALUATION_FILE = "saved_eval.jsonl"  # of `m3po-evaluate --save`
CHECKPOINT_FOLDER = "checkpoints"
FAULT_FOLDER = "fault"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_FILE = ".wandb_id"
LOCK_FILE = ".lock"
# In config.json of a run that starts from another.
_ORIGIN = "origin"

# Settings of `train` that came later, as runs of before behaved.
_BEFORE = {"fsdp_devices": 1, "task_placement": "replicated", "final_learning_rate_scale": 1.0}
# What a resumed run may change: how long it goes on and how often it reports. The first may only
# grow; the schedules of bonus and step sizes then stretch to the new end.
CHANGEABLE = (
    "train.total_env_steps",
    "train.eval_every",
    "train.eval_episodes",
    "train.eval_policy",
    "train.checkpoint_every",
    "train.log_every",
    "train.max_skipped_updates",
    "train.num_devices",
    "train.fsdp_devices",
    "train.task_placement",
)

_LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "brax",
    "mujoco",
    "mujoco-mjx",
    "playground",
    "ml-collections",
    "numpy",
)


class WorkdirError(UserError):
    """The folder cannot be used as it is; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A folder that is open for one run.

    Attributes:
        path: The folder, absolute.
        resumed: Whether it held this run already.
    """

    path: pathlib.Path
    resumed: bool


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
        config: Settings of the run to start or to go on with.
        overwrite: Start anew. The run that the folder holds is deleted when the new one has a
            checkpoint (`forget_overwritten`); one that ends without leaves it as it was.
        origin: What a run that starts from another has of it, by the flag that says so. Without
            one a run is resumed whatever it started from.

    Yields:
        The open folder; its config.json holds `config` and `origin`.

    Raises:
        WorkdirError: Another process uses the folder, it cannot be written, or it holds a run
            with another origin or with other settings than those in `CHANGEABLE`.
    """
    path = pathlib.Path(workdir).absolute()
    with _os_errors_named(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK_FILE, "a+")  # noqa: SIM115 (held until the end of the block)
    with lock:
        _lock(lock, path)
        with _os_errors_named(path):
            overwriting.finish_moving(path)
            _settle(path)
            if overwrite and (path / CONFIG_FILE).exists():
                _read_record(path)  # refuses a config.json that is not ours
                overwriting.set_aside(path, _files(path))
        try:
            with _os_errors_named(path):
                record, resumed = _record(path, config, origin)
                write_atomically(path / CONFIG_FILE, json.dumps(record, indent=2) + "\n")
            yield Workdir(path, resumed)
        finally:
            _settle(path)


def forget_overwritten(workdir: str | os.PathLike[str]) -> None:
    """Deletes the run that a new one in the folder, which now has a checkpoint, replaces."""
    overwriting.forget(pathlib.Path(workdir))


def read_config(workdir: str | os.PathLike[str]) -> Config:
    """Returns the settings of the run that the folder holds.

    Raises:
        WorkdirError: There is no run, or its config.json cannot be read by this version.
    """
    return _config_of(pathlib.Path(workdir).absolute(), read_record(workdir))


def read_record(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the config.json of the run that the folder holds, of whichever version.

    Raises:
        WorkdirError: There is no run, or its config.json is damaged.
    """
    path = pathlib.Path(workdir).absolute()
    if not (path / CONFIG_FILE).exists():
        raise WorkdirError(f"{path} holds no run (no {CONFIG_FILE}); train one there first")
    return _read_record(path)


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a finished checkpoint lies in the folder, without opening it."""
    return any(child.name.isdigit() for child in _checkpoints(pathlib.Path(workdir)))


def has_begun(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a run in the folder has anything to lose: a checkpoint or metrics."""
    return has_checkpoint(workdir) or (pathlib.Path(workdir) / METRICS_FILE).exists()


def holds_metrics(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a run in the folder has written metrics or an evaluation."""
    return any((pathlib.Path(workdir) / name).exists() for name in (METRICS_FILE, EVALUATION_FILE))


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file such that a kill at any moment leaves the old or the new text."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of the libraries that decide results."""
    found = {"python": platform.python_version(), "m3po_jax": m3po_jax.__version__}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str | None:
    """Returns the git commit of this package, '+changes' behind it where files differ from it."""
    package = pathlib.Path(__file__).parent.parent
    try:
        # an installed copy can lie inside a checkout of something else: only tracked files count
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        head = _git(package, "rev-parse", "HEAD")
        return head + ("+changes" if _git(package, "status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, check=True, text=True, timeout=10
    ).stdout.strip()


@contextlib.contextmanager
def _os_errors_named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"cannot use the workdir {path}: {error.strerror or error} ({error.filename}); "
            "give --workdir a folder that can be written"
        ) from error


def _lock(lock: Any, path: pathlib.Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise WorkdirError(
            f"{path} is in use by {owner}; wait for it or stop it, or give another --workdir"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _new_record(config: Config, origin: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(config),
        **({} if origin is None else {_ORIGIN: dict(origin)}),
        "versions": versions(),
        "commit": commit(),
        "history": [],
    }


def _record(
    path: pathlib.Path, config: Config, origin: Mapping[str, str] | None
) -> tuple[dict[str, Any], bool]:
    """Returns the new config.json, and whether it is that of a run which goes on."""
    if not (path / CONFIG_FILE).exists():
        _refuse_headless(path)
        return _new_record(config, origin), False
    old = _read_record(path)
    if has_begun(path):
        return _resumed_record(path, old, config, origin), True
    if origin is None and _ORIGIN in old:
        raise WorkdirError(
            f"{path} is for a run that starts from {old[_ORIGIN]['from']}, and nothing of that is "
            "there yet; m3po-finetune starts it"
        )
    # A start that was refused or cut short left nothing to go on with.
    return _new_record(config, origin), False


def _resumed_record(
    path: pathlib.Path, old: dict[str, Any], config: Config, origin: Mapping[str, str] | None
) -> dict[str, Any]:
    """Returns the new config.json; what it replaces goes to the end of `history`."""
    origin = _same_origin(path, old.get(_ORIGIN), origin)
    before = flatten(dataclasses.asdict(_config_of(path, old)))
    after = flatten(dataclasses.asdict(config))
    changed = {key: before[key] for key in before if before[key] != after[key]}
    refused = [key for key in changed if key not in CHANGEABLE]
    if after["train.total_env_steps"] < before["train.total_env_steps"]:
        refused.append("train.total_env_steps")
    if refused:
        lines = [f"  {key}: {before[key]!r} there, {after[key]!r} asked for" for key in refused]
        raise WorkdirError(
            f"{path} holds a run with another config:\n" + "\n".join(lines) + "\n"
            "Ask for the same settings to resume it (only train.total_env_steps, to more, and the "
            "eval, checkpoint, log, max_skipped_updates and device settings may change), give "
            "another --workdir, or delete that run with --overwrite."
        )
    new = _new_record(config, origin)
    new["history"] = old.get("history", [])
    past = {"changed": changed, "versions": old["versions"], "commit": old.get("commit")}
    if changed or past["versions"] != new["versions"] or past["commit"] != new["commit"]:
        new["history"] = [*new["history"], past]
    return new


def _same_origin(
    path: pathlib.Path, before: dict[str, str] | None, asked: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """Returns what the run in the folder started from; refuses to go on as if it was another."""
    if asked is None:
        return before
    if before is None:
        raise WorkdirError(
            f"{path} holds a run that was not started by m3po-finetune; give another --workdir, "
            "or go on with it by m3po-train"
        )
    changed = [name for name in before if before[name] != asked.get(name)]
    if changed:
        lines = [
            f"  --{name}={before[name]} there, {asked.get(name)} asked for" for name in changed
        ]
        raise WorkdirError(
            f"{path} holds a run that has begun otherwise:\n" + "\n".join(lines) + "\n"
            "Ask for the same to resume it, give another --workdir, or delete that run with "
            "--overwrite."
        )
    return before


def _read_record(path: pathlib.Path) -> dict[str, Any]:
    file = path / CONFIG_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkdirError(
            f"{file} cannot be read ({error}); put the file back, or move the folder away and "
            "start anew"
        ) from error
    if not _is_ours(record):
        raise WorkdirError(f"{file} was not written by m3po_jax; give another --workdir")
    return dict(record)


def _is_ours(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("config"), dict)
        and isinstance(record.get("versions"), dict)
        and "m3po_jax" in record["versions"]
    )


def _config_of(path: pathlib.Path, record: dict[str, Any]) -> Config:
    settings = dict(record["config"])
    if isinstance(settings.get("train"), dict):
        settings["train"] = {**_BEFORE, **settings["train"]}
    try:
        return from_config_dict(settings)
    except ConfigError as error:
        writer = _release(record["versions"]["m3po_jax"], record.get("commit"))
        raise WorkdirError(
            f"{path / CONFIG_FILE} was written by {writer}, and this is "
            f"{_release(m3po_jax.__version__, commit())} ({error}); read it with the one that "
            "wrote it, or give another --workdir"
        ) from error


def _release(version: str, commit: str | None) -> str:
    return f"m3po_jax {version}" + (f" of commit {commit}" if commit else "")


def _checkpoints(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of checkpoints, unfinished ones included, and nothing else there."""
    folder = path / CHECKPOINT_FOLDER
    if not folder.is_dir() or folder.is_symlink():
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
            f"{path} holds {name} but no {CONFIG_FILE}, so the run in it cannot be told; "
            f"put {CONFIG_FILE} back, remove {path / name}, or give another --workdir"
        )


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Files and folders of the run and nothing else."""
    files = _checkpoints(path)
    if (path / FAULT_FOLDER / CONFIG_FILE).exists():
        files.append(path / FAULT_FOLDER)
    files += (path / TENSORBOARD_FOLDER).glob("events.out.tfevents.*")
    names = (METRICS_FILE, EVALUATION_FILE, SAVED_EVALUATION_FILE, WANDB_FILE, CONFIG_FILE)
    return [*files, *(path / name for name in names if (path / name).exists())]


def _settle(path: pathlib.Path) -> None:
    """Decides between a run that was set aside and the one that was to replace it."""
    if not overwriting.is_set_aside(path):
        return
    if has_checkpoint(path):
        overwriting.forget(path)
        return
    for file in _files(path):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    overwriting.put_back(path)
