"""Checkpoints: a thin wrapper over Orbax that never restarts in silence."""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from m3po_jax.config import UserError
from m3po_jax.workdir import stored_leaves
from m3po_jax.workdir.alias import Alias
from m3po_jax.workdir.folder import CHECKPOINT_FOLDER
from m3po_jax.workdir.orbax_reading import first_line, one_error, read_to_host

State = TypeVar("State")

# What a state holds; raise it with every change of that.
FORMAT = 2
# Who wrote an earlier format: its state may hold what this one holds otherwise.
_WRITERS = {1: "m3po_jax 0.1.0 of commit 2bbc5a1 or before"}
# In the meta of every checkpoint: its format, and checksums of each leaf and of the rest of it.
_FORMAT, _CHECKSUMS = "format", "checksums"
# Behind the step: a checkpoint that is being deleted, and one that cannot be read back.
_OUTDATED, _UNREADABLE = ".outdated", ".unreadable"


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; the text names it and says what to do."""


def lost_checkpoints(workdir: str | os.PathLike[str]) -> CheckpointError:
    """What to raise for a run that has metrics, and of which no checkpoint is left."""
    return CheckpointError(
        f"{workdir} holds metrics of a run but no checkpoint, which every run has from its start: "
        "restore the folder checkpoints, or start a new run in another --workdir"
    )


class Checkpointer:
    """Saves and restores the whole training state in `WORKDIR/checkpoints/STEP`.

    A checkpoint is written elsewhere and renamed into place, so a kill leaves older ones intact.
    Writing blocks: the training step donates its state, and a write that continues in the
    background could read buffers that were given away. What was written is read back before an
    older checkpoint is deleted.

    Orbax stores array data without checksums, so a flipped bit could be restored as another number:
    every leaf has its checksum in the meta, which restoring compares.

    Several processes write their own parts of each leaf. What they write does not depend on how the
    state is spread, so any number of devices and processes can restore it.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, max_to_keep: int = 2):
        """Opens the folder, which is made when missing.

        Args:
            workdir: Folder of the run.
            max_to_keep: How many of the newest stay, besides those that `save` is told to keep.
        """
        self._folder = pathlib.Path(workdir).absolute() / CHECKPOINT_FOLDER
        self._max_to_keep = max_to_keep
        # Threads of a save that failed: their path must not become that of another folder.
        self._may_still_write = False
        # Orbax would delete the older ones before anybody has read the new one.
        options = ocp.CheckpointManagerOptions(max_to_keep=None, enable_async_checkpointing=False)
        # named here, so that a new process can read metadata before it restores
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._alias = Alias(self._folder)
            self._manager = ocp.CheckpointManager(
                self._alias.path, options=options, item_handlers=handlers
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot use the checkpoint folder {self._folder}: {error}; make it a folder that "
                "can be written, or give another --workdir"
            ) from error

    def latest_step(self) -> int | None:
        """Returns the step of the newest finished checkpoint, None where there is none."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any], *, keep: Collection[int] = ()
    ) -> None:
        """Saves a checkpoint; does nothing where that step is saved already.

        Args:
            step: Number of the checkpoint, growing.
            state: Any pytree of arrays, typed PRNG keys included.
            meta: What else to know, as JSON.
            keep: Steps of older checkpoints that stay, besides the newest.

        Raises:
            CheckpointError: It could not be written, as on a full disk, or what can be read of it
                is not what was saved. The older checkpoints are then still there.
        """
        if step in self._manager.all_steps():
            return
        state = jax.tree.map(stored_leaves.without_empty, state)
        try:
            meta = {**meta, _FORMAT: FORMAT}
            meta = {**meta, _CHECKSUMS: stored_leaves.checksums(state, meta)}
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            )
            with one_error():
                saved = self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # Orbax passes on whatever its file layers raise
            self._may_still_write = True
            raise CheckpointError(
                f"cannot write the checkpoint {self._folder / str(step)}: "
                f"{self._alias.named(first_line(error))}; check that the disk has space and the "
                f"folder can be written, then run the same command again: it resumes from the "
                f"previous checkpoint"
            ) from error
        if not saved:
            raise CheckpointError(f"Orbax declined to write checkpoint {self._folder / str(step)}")
        self._read_back(step, state, meta)
        self._delete_outdated(keep)

    def restore_latest(self, abstract_state: State) -> tuple[State, dict[str, Any]] | None:
        """Restores the newest checkpoint; see `restore`.

        Returns:
            State and meta, or None where no checkpoint was ever saved.

        Raises:
            CheckpointError: The newest checkpoint is damaged or holds another state. An older one
                is not taken in its place unless the user removes the newest.
        """
        step = self.latest_step()
        return None if step is None else self.restore(step, abstract_state)

    def restore(self, step: int, abstract_state: State) -> tuple[State, dict[str, Any]]:
        """Restores a checkpoint.

        Args:
            step: Its number.
            abstract_state: The state's pytree, of arrays or of `jax.ShapeDtypeStruct`. A leaf
                goes where its sharding says, without one to the first device.

        Returns:
            State and meta.

        Raises:
            CheckpointError: It is not there, damaged or holds another state.
        """
        self.meta(step)  # which refuses another format, by its name
        abstract = stored_leaves.stored_form(abstract_state)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        with self._reading(step):
            stored = stored_leaves.shapes(self._manager.item_metadata(step)["state"].tree)
            self._refuse_other(step, stored, stored_leaves.shapes(abstract))
            restored = self._manager.restore(step, args=arguments)
            state, meta = restored["state"], dict(restored["meta"])
            expected = meta.pop(_CHECKSUMS, {})
            wrong = stored_leaves.mismatches(expected, stored_leaves.checksums(state, meta))
            meta.pop(_FORMAT)
            # Damaged metadata make Orbax give back the bare words of a key, of which all are right.
            wrong = wrong or stored_leaves.mismatches(
                stored_leaves.dtypes(abstract), stored_leaves.dtypes(state)
            )
        if wrong:
            raise self._unreadable(step, f"{wrong} is not what was saved")
        return jax.tree.map(stored_leaves.with_empty, abstract_state, state), meta

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the meta of a checkpoint.

        Raises:
            CheckpointError: It cannot be read, or has another format.
        """
        arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
        with self._reading(step):
            meta = dict(self._manager.restore(step, args=arguments)["meta"])
            found = meta.get(_FORMAT, 1)
            if found != FORMAT:
                writer = _WRITERS.get(found, "a later version of m3po_jax")
                raise CheckpointError(
                    f"the checkpoint {self._folder / str(step)} has format {found}, which {writer} "
                    f"wrote, and this version reads format {FORMAT}; continue with the commit that "
                    "config.json beside it names (one that was resumed since under `history`), or "
                    "start a new run in another --workdir"
                )
        return meta

    def restore_part(
        self, name: str, abstract: Mapping[str, Any], *, step: int | None = None
    ) -> dict[str, Any]:
        """Restores some of one field of a checkpoint's state, and reads no other array.

        Args:
            name: The field, as `agent`.
            abstract: Pytrees of its parts by their names, as for `restore`.
            step: Number of the checkpoint; None takes the newest.

        Returns:
            The parts, on the first device where `abstract` has no sharding.

        Raises:
            CheckpointError: There is no checkpoint, it is damaged, or a part differs.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self._folder} holds no checkpoint")
        meta = self.meta(step)
        item = {name: stored_leaves.stored_form(dict(abstract))}
        # A part is an array or a pytree of arrays.
        prefixes = tuple(f"{name}/{part}/" for part in abstract)
        arguments = ocp.args.PyTreeRestore(
            item,
            restore_args=ocp.checkpoint_utils.construct_restore_args(item),
            partial_restore=True,
        )
        with self._reading(step):
            everything = stored_leaves.shapes(self._manager.item_metadata(step)["state"].tree)
            stored = {k: v for k, v in everything.items() if f"{k}/".startswith(prefixes)}
            self._refuse_other(step, stored, stored_leaves.shapes(item))
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                part = reader.restore(self._alias.path / str(step) / "state", args=arguments)
            found = stored_leaves.checksums(part, {})
            expected = {k: v for k, v in meta[_CHECKSUMS].items() if k in found and k != "meta"}
            wrong = stored_leaves.mismatches({**found, **expected}, found)
        if wrong:
            raise self._unreadable(step, f"{wrong} is not what was saved")
        return jax.tree.map(stored_leaves.with_empty, dict(abstract), part[name])

    def wait(self) -> None:
        """Blocks until all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and frees Orbax's threads."""
        self._manager.close()
        if not self._may_still_write:
            self._alias.close()

    def __enter__(self) -> "Checkpointer":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the manager."""
        self.close()

    def _refuse_other(self, step: int, stored: dict[str, str], asked: dict[str, str]) -> None:
        """Refuses a state of other leaves: Orbax would cast another dtype in silence."""
        if stored != asked:
            raise CheckpointError(
                f"the checkpoint {self._folder / str(step)} holds a different state than this "
                f"config or version makes: {stored_leaves.differences(stored, asked)}; continue "
                f"with the version that wrote it, or start a new run in another --workdir"
            )

    def _read_back(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Refuses a checkpoint that cannot be read back, and moves it aside."""
        problem = self._difference(step, state, meta) if jax.process_index() == 0 else ""
        if jax.process_count() == 1:
            sound = not problem
        else:
            sound = not np.any(multihost_utils.process_allgather(np.asarray(bool(problem))))
        if sound:
            return
        aside = f"{step}{_UNREADABLE}-{time.time_ns()}"
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                (self._folder / str(step)).rename(self._folder / aside)
            self._manager.reload()
        raise CheckpointError(
            f"the checkpoint {self._folder / str(step)} was written but cannot be read back"
            f"{problem and ': ' + problem}; it is now {aside} there, and the previous one is "
            f"unchanged. Check the disk, then run the same command again: it resumes from the "
            f"previous checkpoint"
        )

    def _difference(self, step: int, state: Any, meta: Mapping[str, Any]) -> str:
        """What cannot be read of a checkpoint or is not as it was saved; empty where all is."""
        found: dict[str, int] = {}
        try:
            with one_error():
                stored = stored_leaves.shapes(self._manager.item_metadata(step)["state"].tree)
                if wrong := stored_leaves.mismatches(stored_leaves.shapes(state), stored):
                    return f"{wrong} has a different shape than what was saved"
                for part in read_to_host(self._alias.path / str(step) / "state", state):
                    found |= stored_leaves.checksums_here(part)
            written = json.loads((self._folder / str(step) / "meta" / "metadata").read_text())
            found["meta"] = stored_leaves.meta_checksum(written, without=_CHECKSUMS)
        except Exception as error:  # Orbax passes on whatever its file layers raise
            return self._alias.named(first_line(error))
        wrong = stored_leaves.mismatches(meta[_CHECKSUMS], found)
        return f"{wrong} is not what was saved" if wrong else ""

    def _delete_outdated(self, keep: Collection[int]) -> None:
        """Deletes older ones; first the name, for a kill leaves no half of one under it."""
        older = sorted(self._manager.all_steps())[: -self._max_to_keep]
        outdated = [step for step in older if step not in keep]
        if jax.process_index() == 0:
            for step in outdated:
                with contextlib.suppress(FileNotFoundError):  # as the user has moved it away
                    old = self._folder / str(step)
                    old.rename(old.with_name(f"{step}{_OUTDATED}"))
            for child in self._folder.iterdir():
                if child.name.endswith(_OUTDATED):
                    shutil.rmtree(child, ignore_errors=True)  # what is left goes the next time
        self._manager.reload()

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Makes one `CheckpointError` of whatever fails, and the only thing that is printed."""
        try:
            with one_error():
                yield
        except CheckpointError:
            raise
        except Exception as error:  # Orbax passes on whatever its file layers raise
            raise self._unreadable(step, self._alias.named(first_line(error))) from error

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        older = [other for other in self._manager.all_steps() if other < step]
        damaged = self._folder / str(step)
        away = shlex.join(["mv", str(damaged), f"{damaged}{_UNREADABLE}"])
        if step != self.latest_step():
            remedy = "the run resumes from a newer one; take that (--checkpoint=newest)"
        elif older:
            remedy = f"move it away to resume from checkpoint {max(older)}: {away}"
        else:
            remedy = "there is no older one, so start a new run in another --workdir"
        return CheckpointError(f"the checkpoint {damaged} cannot be read: {reason}; {remedy}")
