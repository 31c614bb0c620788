"""Work that takes long before a run begins: what it is, and how long it has taken so far."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import rich.console
import rich.live
import rich.text

_LIVE_INTERVAL_S = 1.0
_LINE_INTERVAL_S = 30.0


class LongWork:
    """Pieces of work that go on at the same time, of which each is crossed off when it is done."""

    def __init__(
        self,
        what: str,
        pieces: Mapping[str, float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins to count.

        Args:
            what: The work, as `Compiling`.
            pieces: Seconds that each piece took the last time, None where that is not known.
            clock: Seconds.
        """
        self._what, self._clock, self._began = what, clock, clock()
        self._open = {name: _with_last(name, seconds) for name, seconds in pieces.items()}
        self._lock = threading.Lock()

    def done(self, name: str) -> str:
        """Crosses a piece off and returns what to say of it; any thread may call."""
        with self._lock:
            del self._open[name]
        return f"{self._what} {name} took {self._seconds():.0f} s."

    def start_text(self) -> str:
        """What begins."""
        return f"{self._what} {self._still()} ..."

    def text(self) -> str:
        """What is left, and the seconds so far."""
        return f"{self._what} for {self._seconds():.0f} s: {self._still()}"

    def _seconds(self) -> float:
        return self._clock() - self._began

    def _still(self) -> str:
        with self._lock:
            return ", ".join(self._open.values())


@contextlib.contextmanager
def shown(
    work: LongWork,
    console: rich.console.Console,
    output: Callable[[Callable[[], None]], None],
    *,
    live: bool,
    interval_s: float | None = None,
) -> Iterator[None]:
    """Shows the work while the block runs: one line that counts on a terminal, or plain lines.

    Args:
        work: The work.
        console: Where to.
        output: Calls what it is given, and bears its failures.
        live: Whether the console can draw over a line.
        interval_s: Seconds between two counts, by default 1, or 30 in plain lines.
    """
    display = rich.live.Live(console=console, auto_refresh=False, transient=True)

    def count() -> None:
        if live:
            display.update(rich.text.Text(work.text()), refresh=True)
        else:
            console.print(work.text(), markup=False)

    def keep_counting() -> None:
        while not finished.wait(every):
            output(count)

    def start() -> None:
        console.print(work.start_text(), markup=False)
        if live:
            display.start()
            # A second signal ends the process at once: no hidden cursor may be left behind.
            console.show_cursor(True)

    every = interval_s or (_LIVE_INTERVAL_S if live else _LINE_INTERVAL_S)
    finished = threading.Event()
    output(start)
    counting = threading.Thread(target=keep_counting, daemon=True)
    counting.start()
    try:
        yield
    finally:
        finished.set()
        counting.join()
        output(display.stop)


def _with_last(name: str, seconds: float | None) -> str:
    return name if seconds is None else f"{name} ({seconds:.0f} s the last time)"
