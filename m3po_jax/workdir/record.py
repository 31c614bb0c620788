"""config.json of a run: its settings, what it started from, and the versions that wrote it.

Imports no JAX, so that a refusal comes at once.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from m3po_jax.config import Config, ConfigError, UserError, flatten, from_config_dict
from m3po_jax.version import VERSION

CONFIG_FILE = "config.json"
# In config.json of a run that starts from another.
ORIGIN = "origin"

# What a resumed run may change: how long it continues and how often it reports. The first may only
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
    """The folder cannot be used; the text says what to do."""


def new(config: Config, origin: Mapping[str, str] | None) -> dict[str, Any]:
    """Returns the config.json of a run that begins; `origin` as in `workdir.open_workdir`."""
    return {
        "config": dataclasses.asdict(config),
        **({} if origin is None else {ORIGIN: dict(origin)}),
        "versions": versions(),
        "commit": commit(),
        "history": [],
    }


def resumed(
    path: pathlib.Path, old: dict[str, Any], config: Config, origin: Mapping[str, str] | None
) -> dict[str, Any]:
    """Returns the config.json of a run that is resumed; what it replaces is added to `history`.

    Args:
        path: The folder.
        old: Its config.json so far.
        config: Settings to resume with.
        origin: As in `workdir.open_workdir`.

    Raises:
        WorkdirError: The run has another origin, or settings that differ and may not.
    """
    origin = _same_origin(path, old.get(ORIGIN), origin)
    before = flatten(dataclasses.asdict(config_of(path, old)))
    after = flatten(dataclasses.asdict(config))
    changed = {key: before[key] for key in before if before[key] != after[key]}
    refused = [key for key in changed if key not in CHANGEABLE]
    if after["train.total_env_steps"] < before["train.total_env_steps"]:
        refused.append("train.total_env_steps")
    if refused:
        lines = [f"  {key}: {before[key]!r} there, {after[key]!r} asked for" for key in refused]
        raise WorkdirError(
            f"{path} holds a run with another config:\n" + "\n".join(lines) + "\n"
            "Use the same settings to resume it (only train.total_env_steps, to more, and the "
            "eval, checkpoint, log, max_skipped_updates and device settings may change), give "
            "another --workdir, or delete that run with --overwrite."
        )
    record = new(config, origin)
    record["history"] = old.get("history", [])
    past = {"changed": changed, "versions": old["versions"], "commit": old.get("commit")}
    if changed or past["versions"] != record["versions"] or past["commit"] != record["commit"]:
        record["history"] = [*record["history"], past]
    return record


def read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the config.json in a folder, of whichever version.

    Raises:
        WorkdirError: It is damaged, or not ours.
    """
    file = path / CONFIG_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WorkdirError(
            f"{file} cannot be read ({error}); restore the file, or move the folder away and "
            f"start a new run"
        ) from error
    if not _is_ours(record):
        raise WorkdirError(f"{file} was not written by m3po_jax; give another --workdir")
    if flaw := _flaw(record):
        raise WorkdirError(
            f"{file} is not as it was written: {flaw}; put back what was there, or give another "
            "--workdir"
        )
    return dict(record)


def config_of(path: pathlib.Path, record: dict[str, Any]) -> Config:
    """Returns the settings in a config.json, which lies in the folder `path`.

    Raises:
        WorkdirError: It is of a version with other settings.
    """
    try:
        return from_config_dict(record["config"])
    except ConfigError as error:
        writer = _release(record["versions"]["m3po_jax"], record.get("commit"))
        this = _release(VERSION, commit())
        if writer == this:
            raise WorkdirError(
                f"{path / CONFIG_FILE} is not as {this} wrote it: {error}; put back what was "
                "there, or give another --workdir"
            ) from error
        raise WorkdirError(
            f"{path / CONFIG_FILE} was written by {writer}, and this is {this} ({error}); read it "
            "with the one that wrote it, or give another --workdir"
        ) from error


def version_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What to know of a run that other libraries began; empty where they are the same."""
    before, now = old["versions"], new["versions"]
    changes = [
        f"{name} {before.get(name, 'absent')} (now {now.get(name, 'absent')})"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if not changes:
        return ""
    return (
        f"This run was written with {', '.join(changes)}: it resumes, and need not end in the very "
        f"numbers of one version. {CONFIG_FILE} keeps note of it."
    )


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file such that a kill at any moment leaves the old or the new text."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_synced(temporary, text.encode())
    os.replace(temporary, path)


def write_synced(path: pathlib.Path, data: bytes) -> None:
    """Writes a file and returns when it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of the libraries that decide results."""
    found = {"python": platform.python_version(), "m3po_jax": VERSION}
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


def _same_origin(
    path: pathlib.Path, before: dict[str, str] | None, asked: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """Returns what the run in the folder started from; refuses to resume it as another."""
    if asked is None:
        return before
    if before is None:
        raise WorkdirError(
            f"{path} holds a run that was not started by m3po-finetune; give another --workdir, "
            "or resume it with m3po-train"
        )
    changed = [name for name in before if before[name] != asked.get(name)]
    if changed:
        lines = [
            f"  --{name}={before[name]} there, {asked.get(name)} asked for" for name in changed
        ]
        raise WorkdirError(
            f"{path} holds a run that was started differently:\n" + "\n".join(lines) + "\n"
            "Use the same to resume it, give another --workdir, or delete that run with "
            "--overwrite."
        )
    return before


def _is_ours(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("config"), dict)
        and isinstance(record.get("versions"), dict)
        and "m3po_jax" in record["versions"]
    )


def _flaw(record: dict[str, Any]) -> str:
    """What of a config.json has not the form in which `new` and `resumed` write it, if anything."""
    if not _texts(record["versions"]):
        return "`versions` must hold texts"
    if not isinstance(record.get("commit"), str | None):
        return f"`commit` must be a text or null, found {record['commit']!r}"
    origin = record.get(ORIGIN, {"from": ""})
    if not _texts(origin) or "from" not in origin:
        return f"`{ORIGIN}` must hold texts, with one named `from`, found {origin!r}"
    history = record.get("history", [])
    if not isinstance(history, list) or not all(map(_is_past, history)):
        return "`history` must be a list of what changed, each with `changed` and `versions`"
    return ""


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_past(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("changed"), dict)
        and _texts(entry.get("versions"))
        and isinstance(entry.get("commit"), str | None)
    )


def _release(version: str, commit: str | None) -> str:
    return f"m3po_jax {version}" + (f" of commit {commit}" if commit else "")
