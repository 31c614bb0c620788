"""What a run says while it runs: a live display on a terminal, plain lines elsewhere."""

import contextlib
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

import rich.console
import rich.live
import rich.progress_bar
import rich.table
import rich.text

from m3po_jax.workdir import long_work, streams
from m3po_jax.workdir.metrics import RATE, STEP
from m3po_jax.workdir.speed import Speed

_RETURN = "rollout/episode_return/"
_BONUS = "exploration/bonus"
_FAULTS = "rollout/faults"
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-~=+*#"
_SPARK_WIDTH = 24
_MAX_TASK_LINES = 12


class History:
    """A curve of any length in a bounded number of points, each the mean of as many values."""

    def __init__(self, width: int = _SPARK_WIDTH):
        """Holds up to `width` points."""
        self._width = width
        self._points: list[float] = []
        self._stride = 1
        self._waiting: list[float] = []

    def add(self, value: float) -> None:
        """Appends a finite value."""
        self._waiting.append(value)
        if len(self._waiting) < self._stride:
            return
        self._points.append(sum(self._waiting) / self._stride)
        self._waiting = []
        if len(self._points) == 2 * self._width:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(a + b) / 2.0 for a, b in pairs]
            self._stride *= 2

    def sparkline(self, bars: str = _BARS) -> str:
        """The curve from its lowest to its highest point as a line of bars, the lowest first."""
        shown = self._points
        if len(shown) > self._width:
            pairs = (shown[i : i + 2] for i in range(0, len(shown), 2))
            shown = [sum(pair) / len(pair) for pair in pairs]
        if not shown:
            return ""
        low, high = min(shown), max(shown)
        scale = (len(bars) - 1) / (high - low) if high > low else 0.0
        return "".join(bars[round((x - low) * scale)] for x in shown)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to `Progress`, as when it is piped to `head`; the default ends the process."""
        raise


class Progress:
    """Shows the progress of a run, from rows of metrics.csv only.

    It computes nothing on the device and waits for nothing. An output that fails does not end a
    run: it is dropped, silently if nobody can be told, as with a closed terminal or a full disk.
    The speed is that of the last minute of training, in which compiling, evaluations and saving do
    not count. What is left counts them by their share so far, and waits for the end of the warm-up,
    whose steps learn nothing and cost less.
    """

    def __init__(
        self,
        total_env_steps: int,
        *,
        warmup_env_steps: int = 0,
        kl_bound: float | None = None,
        quiet: bool = False,
        min_interval_s: float | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], int] | None = None,
    ):
        """Prepares the display; nothing is shown before the first call.

        Args:
            total_env_steps: End of the run.
            warmup_env_steps: Of these, before the first update.
            kl_bound: Bound of the trust region, shown with the measured KL.
            quiet: Shows nothing at all.
            min_interval_s: Least seconds between two lines, by default 5, or 0.2 on a terminal.
            stream: Where to print, by default stdout.
            clock: Seconds.
            memory: Bytes in use.
        """
        self._total, self._warmup = total_env_steps, warmup_env_steps
        self._kl_bound = kl_bound
        self._clock = clock
        self._memory = memory or memory_in_use
        self._last_shown = -float("inf")
        self._speed = Speed()
        self._returns: dict[str, float] = {}
        self._histories: dict[str, History] = {}
        # soft_wrap: a line stays one line in a log file, however long
        self._console = _Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._min_interval_s = min_interval_s or (0.2 if self._is_live else 5.0)
        self._live: rich.live.Live | None = None
        self._silent = quiet

    def say(self, text: str) -> None:
        """Prints a line at once, above the display if there is one."""
        self._output(lambda: self._console.print(text, markup=False))

    @contextlib.contextmanager
    def working(
        self, what: str, pieces: Mapping[str, float | None]
    ) -> Iterator[Callable[[str], None]]:
        """Shows work that takes long, with the seconds so far, while the block runs.

        Args:
            what: The work, as `Compiling`.
            pieces: Seconds that each piece took the last time, None where that is not known.

        Yields:
            What to call with the name of a piece that is done, from any thread.
        """
        work = long_work.LongWork(what, pieces, clock=self._clock)
        with long_work.shown(work, self._console, self._output, live=self._is_live):
            yield lambda name: self.say(work.done(name))

    def update(self, row: Mapping[str, float]) -> None:
        """Notes a row of metrics.csv and shows it, unless the last one was shown just before."""
        now, env_steps = self._clock(), int(row[STEP])
        self._speed.note(now, env_steps, row[RATE], learns=env_steps > self._warmup)
        for name, value in row.items():
            if not name.startswith(_RETURN):
                continue
            task = name.removeprefix(_RETURN)
            self._returns.setdefault(task, math.nan)
            if math.isfinite(value):
                self._returns[task] = value
                self._histories.setdefault(task, History()).add(value)
        if now - self._last_shown < self._min_interval_s and env_steps < self._total:
            return
        self._last_shown = now
        self._output(lambda: self._show(now, env_steps, row))

    def close(self) -> None:
        """Leaves the last state of the display standing; nothing more is drawn over it."""
        live, self._live = self._live, None
        if live is not None:
            self._output(live.stop)

    def __enter__(self) -> "Progress":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the display."""
        self.close()

    def _output(self, show: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            show()
        except Exception as error:  # whatever a terminal or an encoding can be the cause of
            self._silent = True
            if not isinstance(error, OSError) and not self._console.file.closed:
                kind = type(error).__name__
                streams.say(f"the display ends here ({kind}: {error}); the run continues")
            if self._console.file is sys.stdout:
                streams.discard(sys.stdout)

    def _show(self, now: float, env_steps: int, row: Mapping[str, float]) -> None:
        facts = [*self._pace(env_steps), *self._state(row)]
        if not self._is_live:
            position = f"{env_steps:,}/{self._total:,} env steps  {self._share(env_steps):4.0%}"
            scores = ", ".join(f"{name} {_score(x)}" for name, x in self._returns.items())
            parts = [position, *facts, *([f"return: {scores}"] if scores else [])]
            self._console.print("  ".join(parts), markup=False)
            return
        if self._live is None:
            self._live = rich.live.Live(console=self._console, auto_refresh=False)
            self._live.start()
            # A second signal ends the process at once: no hidden cursor may be left behind.
            self._console.show_cursor(True)
        self._live.update(self._display(env_steps, facts), refresh=True)

    def _share(self, env_steps: int) -> float:
        """Of the budget that is spent; the last iteration may pass its end."""
        return min(1.0, env_steps / self._total)

    def _pace(self, env_steps: int) -> list[str]:
        rate = self._speed.rate
        if not rate:
            return []
        facts = [f"{rate:,.0f} steps/s"]
        if env_steps > self._warmup:
            left = max(self._total - env_steps, 0) / rate * self._speed.stretch
            facts.append(f"{_duration(left)} left")
        return facts

    def _state(self, row: Mapping[str, float]) -> list[str]:
        facts = []
        kl = row.get("policy/kl", math.nan)
        if math.isfinite(kl):
            bound = "" if self._kl_bound is None else f" of {self._kl_bound:.3g}"
            facts.append(f"KL {kl:.3f}, at most {row['policy/kl_max']:.3f}{bound}")
        bonuses = [x for name, x in row.items() if name.startswith(_BONUS) and math.isfinite(x)]
        if bonuses:
            facts.append(f"bonus {sum(bonuses) / len(bonuses):.2f}")
        faults = sum(x for name, x in row.items() if name.startswith(_FAULTS))
        if faults:
            facts.append(f"{faults:.0f} faults")
        return [*facts, f"memory {self._memory() / 2**30:.1f} GiB"]

    def _display(self, env_steps: int, facts: Sequence[str]) -> rich.console.Group:
        share = self._share(env_steps)
        head = rich.table.Table.grid(padding=(0, 1))
        head.add_row(
            rich.progress_bar.ProgressBar(total=1.0, completed=share, width=20),
            f"[bold]{share:.0%}[/bold] {env_steps:,}/{self._total:,} env steps",
        )
        tasks = rich.table.Table.grid(padding=(0, 2))
        bars = _BARS if self._console.encoding.startswith("utf") else _ASCII_BARS
        space = max(1, min(_MAX_TASK_LINES, self._console.height - 6))
        for name, value in list(self._returns.items())[:space]:
            line = self._histories[name].sparkline(bars) if name in self._histories else ""
            tasks.add_row(
                rich.text.Text(f"  {name}"),
                rich.text.Text(_score(value), justify="right"),
                rich.text.Text(line, style="cyan"),
            )
        hidden = len(self._returns) - space
        more = [rich.text.Text(f"  and {hidden} more tasks")] if hidden > 0 else []
        return rich.console.Group(head, rich.text.Text("  ".join(facts)), tasks, *more)


def memory_in_use() -> int:
    """Bytes in use on the first device, or of this process where the device is the CPU."""
    import jax  # here, so that commands refuse a mistake before this slow import

    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_in_use" in statistics:
        return int(statistics["bytes_in_use"])
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the largest so far, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {seconds:02d}s"
