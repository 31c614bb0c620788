"""Orbax: one error for what fails, and no more of a state on the host than needed."""

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# What is read at a time, unless one leaf is larger.
_GROUP_BYTES = 256 << 20


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Lets reads and writes that Orbax starts within end before its event loop does, in silence.

    Orbax gives up at the first error and closes its event loop on the other ones, each of which
    then prints a traceback of its own; on this loop they end first. Its threads log theirs as well,
    those of a write that has failed until the process ends.
    """
    policy, log = asyncio.get_event_loop_policy(), logging.getLogger("absl")
    level = log.level
    asyncio.set_event_loop_policy(_FinishingPolicy())
    log.setLevel(logging.CRITICAL)
    try:
        yield
        log.setLevel(level)
    finally:
        asyncio.set_event_loop_policy(policy)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def read_to_host(folder: pathlib.Path, state: Any) -> Iterator[Any]:
    """Reads a state that was saved, some leaves at a time, in this process alone.

    Args:
        folder: Where its leaves lie.
        state: Pytree like the one that was saved.

    Yields:
        The pytree with numpy arrays for some leaves and `...` for the others, until each has come;
        typed keys come as the words that they hold.
    """
    leaves, structure = jax.tree.flatten(state)
    to_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), state)
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"alone{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        for group in _groups(leaves):
            item = [
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if i in group else ocp.PLACEHOLDER
                for i, leaf in enumerate(leaves)
            ]
            arguments = ocp.args.PyTreeRestore(
                jax.tree.unflatten(structure, item), restore_args=to_host
            )
            yield reader.restore(folder, args=arguments)


def _groups(leaves: Sequence[Any]) -> Iterator[set[int]]:
    """Indices of leaves, in groups of about so many bytes."""
    group: set[int] = set()
    size = 0
    for index, leaf in enumerate(leaves):
        if group and size + leaf.nbytes > _GROUP_BYTES:
            yield group
            group, size = set(), 0
        group.add(index)
        size += leaf.nbytes
    if group:
        yield group


class _FinishingLoop(asyncio.SelectorEventLoop):
    """Ends its tasks before it closes, and leaves their errors to the one that is raised."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        pass  # a task that failed beside the first one

    def close(self) -> None:
        while not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _FinishingPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _FinishingLoop()
