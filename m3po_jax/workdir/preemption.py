"""Stopping on SIGTERM and SIGINT without losing work.

Imports no JAX, so that the handler stands before the slow imports.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from m3po_jax.workdir.streams import say

# EX_TEMPFAIL of sysexits.h: nothing is wrong, call the same command again.
PREEMPTED = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """Training stopped because it was asked to; everything up to there is saved."""


class SignalStop:
    """Says to the training loop whether a signal has come; see `stop_on_signals`."""

    def __init__(self) -> None:
        """No signal has come yet, and nobody has asked."""
        self._asked = False
        self._requested = threading.Event()

    def __call__(self) -> bool:
        """Whether to stop. From the first call on, a signal waits for the next call."""
        self._asked = True
        return self._requested.is_set()

    def handle(self, name: str) -> None:
        """Notes a signal; ends the process if it is the second or if nothing is at stake yet."""
        if self._requested.is_set():
            leave(f"{name} again: stopping at once; the last checkpoint is intact")
        if not self._asked:
            leave(f"{name}: stopping before the first step; nothing is lost")
        self._requested.set()
        say(f"{name}: finishing this iteration and saving (a second signal stops at once)")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and SIGINT into a request to stop while the block runs.

    A thread waits for the signals, because Python's own handlers wait until a compilation or a
    compiled step returns, which can take minutes. Before the loop first asks (imports,
    compilation) a signal ends the process at once; a second one always does. Both end it with
    the code `PREEMPTED`. A checkpoint that is being written then stays unfinished, and is
    ignored, in favour of the one before.

    Yields:
        The callable to hand to the loop as `stop`. Outside the main thread, where Python allows
        no handlers, it is never true.
    """
    stop = SignalStop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while numbers := reader.recv(16):
            for number in numbers:
                if number in _SIGNALS:
                    stop.handle(signal.Signals(number).name)

    # The wakeup descriptor hears a signal only if it has a Python handler.
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    old_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()


def leave(text: str) -> NoReturn:
    """Prints the text to stderr and ends the process at once with the code `PREEMPTED`."""
    say(text)
    os._exit(PREEMPTED)
