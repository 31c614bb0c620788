"""Checkpoints: a thin wrapper over Orbax that never restarts in silence."""

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from m3po_jax.config import UserError
from m3po_jax.workdir import stored_leaves
from m3po_jax.workdir.folder import CHECKPOINT_FOLDER

State = TypeVar("State")

# In the meta of every checkpoint: checksums of each leaf and of the rest of the meta.
_CHECKSUMS = "checksums"


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; the text names it and says what to do."""


def lost_checkpoints(workdir: str | os.PathLike[str]) -> CheckpointError:
    """What to raise for a run that has metrics, and of which no checkpoint is left."""
    return CheckpointError(
        f"{workdir} holds metrics of a run but no checkpoint, which every run has from its start: "
        "put the folder checkpoints back, or start anew with --overwrite"
    )


class Checkpointer:
    """Saves and restores the whole training state in `WORKDIR/checkpoints/STEP`.

    A checkpoint is written beside and renamed into place, so a kill leaves the older ones whole.
    Writing blocks: the training step donates its state, and a write that goes on in the background
    could read buffers that were given away.

    Orbax stores array data without checksums, so a flipped bit could come back as another number:
    every leaf has its checksum in the meta, which restoring compares.

    Several processes write their own parts of each leaf. What they write does not depend on how the
    state is spread, so any number of devices and processes can restore it.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, max_to_keep: int = 2):
        """Opens the folder, which is made when missing; keeps the newest `max_to_keep`."""
        self._folder = pathlib.Path(workdir).absolute() / CHECKPOINT_FOLDER
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, enable_async_checkpointing=False
        )
        # named here, so that a new process can read metadata before it restores
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, item_handlers=handlers
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot use the checkpoint folder {self._folder}: {error}; make it writable, or "
                "give another --workdir"
            ) from error

    def latest_step(self) -> int | None:
        """Returns the step of the newest finished checkpoint, None where there is none."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Saves a checkpoint; does nothing where that step is saved already.

        Args:
            step: Number of the checkpoint, growing.
            state: Any pytree of arrays, typed PRNG keys included.
            meta: What else to know, as JSON.

        Raises:
            CheckpointError: It could not be written, as on a full disk.
        """
        if step in self._manager.all_steps():
            return
        state = jax.tree.map(stored_leaves.without_empty, state)
        try:
            meta = {**meta, _CHECKSUMS: stored_leaves.checksums(state, meta)}
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            )
            saved = self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # Orbax passes on whatever its file layers raise
            raise CheckpointError(
                f"cannot write the checkpoint {self._folder / str(step)}: {_first_line(error)}; "
                "see that the disk has room and the folder can be written, then run the same "
                "command again: it goes on from the checkpoint before"
            ) from error
        if not saved:
            raise CheckpointError(f"Orbax declined to write checkpoint {self._folder / str(step)}")

    def restore_latest(self, abstract_state: State) -> tuple[State, dict[str, Any]] | None:
        """Restores the newest checkpoint.

        Args:
            abstract_state: The state's pytree, of arrays or of `jax.ShapeDtypeStruct`. A leaf
                goes where its sharding says, without one to the first device.

        Returns:
            State and meta, or None where no checkpoint was ever saved.

        Raises:
            CheckpointError: The newest checkpoint is damaged or holds another state. An older one
                is not taken in its place unless the user removes the newest.
        """
        step = self.latest_step()
        if step is None:
            return None
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
            # Damaged metadata make Orbax give back the bare words of a key, of which all are right.
            wrong = wrong or stored_leaves.mismatches(
                stored_leaves.dtypes(abstract), stored_leaves.dtypes(state)
            )
        if wrong:
            raise self._unreadable(step, f"{wrong} is not what was saved")
        return jax.tree.map(stored_leaves.with_empty, abstract_state, state), meta

    def latest_meta(self) -> dict[str, Any] | None:
        """Returns the meta of the newest checkpoint, None where no checkpoint was ever saved.

        Raises:
            CheckpointError: It cannot be read.
        """
        step = self.latest_step()
        if step is None:
            return None
        arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
        with self._reading(step):
            return dict(self._manager.restore(step, args=arguments)["meta"])

    def restore_part(self, name: str, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Restores some of one field of the newest checkpoint's state, and reads no other array.

        Args:
            name: The field, as `agent`.
            abstract: Pytrees of its parts by their names, as for `restore_latest`.

        Returns:
            The parts, on the first device where `abstract` has no sharding.

        Raises:
            CheckpointError: There is no checkpoint, it is damaged, or a part differs.
        """
        meta, step = self.latest_meta(), self.latest_step()
        if meta is None or step is None:
            raise CheckpointError(f"{self._folder} holds no checkpoint")
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
                part = reader.restore(self._folder / str(step) / "state", args=arguments)
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
                f"the checkpoint {self._folder / str(step)} holds another state than this "
                f"config or version makes: {stored_leaves.differences(stored, asked)}; go on with "
                "the version that wrote it, or start anew with --overwrite"
            )

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Makes one `CheckpointError` of whatever fails within, and the only thing that is printed.

        Orbax gives up at the first error and closes its event loop on the other reads, each of
        which then prints a traceback of its own; on this loop they end first.
        """
        policy = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(_FinishingPolicy())
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # Orbax passes on whatever its file layers raise
            raise self._unreadable(step, _first_line(error)) from error
        finally:
            asyncio.set_event_loop_policy(policy)

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        older = [other for other in self._manager.all_steps() if other != step]
        remedy = (
            f"remove that folder to go on from checkpoint {max(older)}"
            if older
            else "there is no older one, so start anew with --overwrite"
        )
        return CheckpointError(
            f"the checkpoint {self._folder / str(step)} cannot be read: {reason}; {remedy}"
        )


class _FinishingLoop(asyncio.SelectorEventLoop):
    """Ends its tasks before it closes."""

    def close(self) -> None:
        while not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _FinishingPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _FinishingLoop()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
