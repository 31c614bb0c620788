import io
import itertools
import math
import os
import pty
import re
import threading
import time

import pytest
import rich.console

from m3po_jax.workdir import long_work, progress
from m3po_jax.workdir.progress import History, Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def row(env_steps, returns, *, rate=100.0, **others):
    named = {f"rollout/episode_return/{task}": value for task, value in returns.items()}
    return {"env_steps": env_steps, "env_steps_per_second": rate, **named, **others}


def make(total, stream, **settings):
    return Progress(total, stream=stream, memory=lambda: 3 * 2**29, **settings)


def test_a_line_says_position_speed_rest_and_returns():
    clock, stream = Clock(), io.StringIO()
    shown = make(10_000, stream, min_interval_s=5.0, clock=clock, kl_bound=0.075)
    shown.update(row(1_000, {"dmc/A": math.nan}))
    clock.now += 10.0
    learning = {"policy/kl": 0.02, "policy/kl_max": 0.0712}
    bonus = {"exploration/bonus/dmc/A": 0.5, "exploration/bonus/toy/B": 1.0}
    shown.update(row(2_000, {"dmc/A": 12.34, "toy/B[x]": 5.0}, **learning, **bonus))
    clock.now += 10.0
    shown.update(row(3_000, {"dmc/A": math.nan, "toy/B[x]": 6.0}))
    assert stream.getvalue().splitlines() == [
        "1,000/10,000 env steps   10%  memory 1.5 GiB  return: dmc/A -",
        "2,000/10,000 env steps   20%  100 steps/s  1m 20s left  KL 0.020, at most 0.071 of 0.075  "
        "bonus 0.75  memory 1.5 GiB  return: dmc/A 12.3, toy/B[x] 5.0",
        "3,000/10,000 env steps   30%  100 steps/s  1m 10s left  memory 1.5 GiB  "
        "return: dmc/A 12.3, toy/B[x] 6.0",
    ]


def test_it_keeps_its_interval_but_shows_the_end():
    clock, stream = Clock(), io.StringIO()
    shown = make(100, stream, min_interval_s=5.0, clock=clock)
    for step in range(1, 101):
        clock.now += 0.1
        shown.update(row(step, {}))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3  # at 0.1 s, 5.1 s, and the end
    assert lines[-1].startswith("100/100 env steps  100%")


def test_the_speed_is_that_of_the_last_minute():
    clock, stream = Clock(), io.StringIO()
    shown = make(10**6, stream, min_interval_s=0.001, clock=clock)
    steps = 0
    for rate in [1000] * 60 + [10] * 120:  # fast random steps, then slow learning ones
        clock.now += 1.0
        steps += rate
        shown.update(row(steps, {}, rate=rate))
    assert "  10 steps/s  " in stream.getvalue().splitlines()[-1]


def minutes_left(lines):
    found = [re.search(r"(?:(\d+)h )?(\d+)m (?:(\d+)s )?left", line) for line in lines]
    return [60 * int(f[1] or 0) + int(f[2]) + int(f[3] or 0) / 60 for f in found if f]


def test_what_is_left_does_not_jump_at_evaluations():
    """A step a second, and an evaluation of two minutes after every 1,000: 1.12 s a step in all."""
    clock, stream = Clock(), io.StringIO()
    shown = make(10_000, stream, min_interval_s=0.001, clock=clock)
    for step in range(1, 10_001):
        clock.now += 121.0 if step % 1000 == 1 and step > 1 else 1.0
        shown.update(row(step, {}, rate=1.0))
    lines = stream.getvalue().splitlines()
    left = minutes_left(lines)
    assert len(left) == 9_999
    for before, after in itertools.pairwise(left):
        assert after < 1.13 * before + 0.1
    assert left[5_499] == pytest.approx(4_500 * 1.1 / 60, rel=0.02)
    assert "  1 steps/s  " in lines[-1]


def test_what_is_left_is_told_once_learning_has_begun():
    clock, stream = Clock(), io.StringIO()
    shown = make(2_000, stream, min_interval_s=0.001, clock=clock, warmup_env_steps=1_000)
    for step in range(100, 2_001, 100):
        rate = 1000.0 if step <= 1_000 else 10.0
        clock.now += 100.0 / rate
        shown.update(row(step, {}, rate=rate))
    lines = stream.getvalue().splitlines()
    assert not any("left" in line for line in lines[:10])
    assert "  1,000 steps/s  " in lines[9] and "  10 steps/s  1m 30s left" in lines[10]


def test_an_iteration_beyond_the_budget_is_all_of_it():
    stream = io.StringIO()
    make(100, stream).update(row(128, {}))
    assert stream.getvalue().startswith("128/100 env steps  100%  ")


def test_lines_are_plain_and_whole_in_a_file():
    stream = io.StringIO()
    shown = make(100, stream)
    shown.say("memory [red]not markup[/red] " + "x" * 300)
    shown.update(row(100, {f"task{i}": 1.0 for i in range(40)}))
    shown.close()
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()
    assert "[red]not markup[/red]" in stream.getvalue()


def test_quiet_says_nothing():
    stream = io.StringIO()
    with make(100, stream, quiet=True) as shown:
        shown.say("hello")
        shown.update(row(100, {"a": 1.0}))
    assert stream.getvalue() == ""


class Gone(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, _):
        raise BrokenPipeError(32, "Broken pipe")


def test_an_output_that_is_gone_ends_no_run():
    closed = io.StringIO()
    closed.close()
    for stream in (Gone(), closed):
        with make(100, stream) as shown:
            shown.say("hello")
            shown.update(row(100, {"a": 1.0}))


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 30 lines, and a function that reads what was written to it."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    mark = b"<end>"
    leader, follower = pty.openpty()
    stream = os.fdopen(follower, "w", encoding="utf-8")

    def read():
        # What was written arrives piece by piece: read on up to a mark.
        stream.write(mark.decode())
        stream.flush()
        text = b""
        while not text.endswith(mark):
            text += os.read(leader, 10**6)
        return text.removesuffix(mark).decode()

    yield stream, read
    stream.close()
    os.close(leader)


def test_a_terminal_gets_one_display_that_is_drawn_over(terminal):
    stream, read = terminal
    clock = Clock()
    with make(1_000, stream, clock=clock, kl_bound=0.075) as shown:
        shown.say("Compiling ...")
        for step in range(100, 1_001, 100):
            clock.now += 1.0
            kl = {"policy/kl": 0.02, "policy/kl_max": 0.07}
            shown.update(row(step, {"dmc/A": step / 10.0, "dmc/B": math.nan}, **kl))
        shown.say("above")
    text = read()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    last = plain[plain.rindex("1,000/1,000") :]
    assert "100 steps/s" in last
    assert "KL 0.020, at most 0.070 of 0.075" in last
    assert re.search(r"dmc/A +100\.0 +▁▂▃▃▄▅▆▆▇█|dmc/A +100\.0 +▁[▁-█]{8}█", last)
    assert re.search(r"dmc/B +-", last)
    assert "\x1b[1A" in text  # the cursor goes back up: lines are drawn over
    assert plain.index("Compiling") < plain.index("100/1,000")
    assert "above" in plain
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_the_cursor_is_shown_all_the_time(terminal):
    """A second signal ends the process without any clean-up."""
    stream, read = terminal
    shown = make(100, stream)
    shown.update(row(10, {"a": 1.0}))
    text = read()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    shown.close()


def test_many_tasks_do_not_fill_the_terminal(terminal):
    stream, read = terminal
    with make(100, stream) as shown:
        shown.update(row(100, {f"task{i}": 1.0 for i in range(40)}))
    text = read()
    assert "task11" in text and "task12" not in text
    assert "and 28 more tasks" in text


def test_a_history_is_bounded_and_keeps_its_shape():
    history = History(width=8)
    assert history.sparkline() == ""
    for value in range(3):
        history.add(float(value))
    assert history.sparkline() == "▁▅█" or history.sparkline() == "▁▄█"
    for value in range(3, 1000):
        history.add(float(value))
    line = history.sparkline()
    assert len(line) <= 8
    assert list(line) == sorted(line)
    assert (line[0], line[-1]) == ("▁", "█")
    flat = History()
    flat.add(2.0)
    flat.add(2.0)
    assert flat.sparkline() == "▁▁"


def test_memory_is_that_of_this_process():
    before = progress.memory_in_use()
    held = b"x" * 300_000_000
    assert progress.memory_in_use() - before > 200_000_000
    assert len(held) == 300_000_000
    assert 50_000_000 < before < 50_000_000_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0m 00s"), (59.6, "1m 00s"), (3599, "59m 59s"), (7265, "2h 01m")]
)
def test_durations(seconds, text):
    assert progress._duration(seconds) == text


class Latin(io.TextIOWrapper):
    """A terminal's stream in an encoding without bars."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="latin-1", write_through=True)

    def isatty(self):
        return True


def test_a_terminal_of_another_encoding_ends_no_run(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, clock = Latin(), Clock()
    with make(1_000, stream, clock=clock) as shown:
        for step in range(100, 1_001, 100):
            clock.now += 1.0
            shown.update(row(step, {"dmc/A": step / 10.0}))
    text = stream.buffer.getvalue().decode("latin-1")
    assert re.search(r"dmc/A  100\.0  \S*_\.--~=\+\+\*#", text) and "1,000/1,000" in text
    with make(100, stream) as shown:
        shown.say("▁")
        shown.update(row(100, {"a": 1.0}))
    assert "the display ends here (UnicodeEncodeError" in capsys.readouterr().err


def test_whatever_a_display_does_ends_no_run(capsys):
    def fails():
        raise ZeroDivisionError("no statistics")

    with Progress(100, stream=io.StringIO(), memory=fails) as shown:
        shown.update(row(50, {"a": 1.0}))
        shown.update(row(100, {"a": 1.0}))
    text = "the display ends here (ZeroDivisionError: no statistics); the run continues\n"
    assert capsys.readouterr().err == text


def wait_for(read, text):
    """Reads until the text was printed."""
    while text not in read():
        time.sleep(0.01)


def test_long_work_counts_its_seconds_in_lines():
    clock, stream = Clock(), io.StringIO()
    pieces = {"the step": 92.4, "[the rest]": None}
    work = long_work.LongWork("Compiling", pieces, clock=clock)
    console = rich.console.Console(file=stream, highlight=False, soft_wrap=True)
    with long_work.shown(work, console, lambda show: show(), live=False, interval_s=0.01):
        clock.now += 31.0
        wait_for(stream.getvalue, "for 31 s: the step (92 s the last time), [the rest]\n")
        assert work.done("the step") == "Compiling the step took 31 s."
        clock.now += 31.0
        wait_for(stream.getvalue, "Compiling for 62 s: [the rest]\n")
    first = stream.getvalue().splitlines()[0]
    assert first == "Compiling the step (92 s the last time), [the rest] ..."
    length = len(stream.getvalue())
    time.sleep(0.05)
    assert len(stream.getvalue()) == length, "it counts on after the end"


def test_a_terminal_counts_in_one_line_that_goes_away(terminal, monkeypatch):
    monkeypatch.setattr(long_work, "_LIVE_INTERVAL_S", 0.01)
    stream, read = terminal
    clock, texts = Clock(), []
    make_text = long_work.LongWork.text
    monkeypatch.setattr(
        long_work.LongWork, "text", lambda work: texts.append(make_text(work)) or texts[-1]
    )
    with make(100, stream, clock=clock) as shown:
        with shown.working("Compiling", {"it": 5.0}) as done:
            for second in (1, 2):
                clock.now += 1.0
                while f"Compiling for {second} s: it (5 s the last time)" not in texts:
                    time.sleep(0.01)
            done("it")
        counted = read()
        shown.update(row(10, {"a": 1.0}))
    assert "Compiling for 2 s: it (5 s the last time)" in counted
    assert "Compiling it took 2 s." in counted
    assert "\x1b[2K" in counted.rpartition("took 2 s.")[2], "the line that counts stays"
    assert counted.rindex("\x1b[?25h") > counted.rindex("\x1b[?25l"), "the cursor stays hidden"
    assert "10/100" in read()


def test_work_that_fails_ends_the_count():
    stream = io.StringIO()
    shown = make(100, stream)
    threads = threading.active_count()
    with pytest.raises(ValueError, match="not this"), shown.working("Compiling", {"it": None}):
        raise ValueError("not this")
    assert threading.active_count() == threads


def test_quiet_work_says_nothing():
    stream = io.StringIO()
    with make(100, stream, quiet=True).working("Compiling", {"it": None}) as done:
        done("it")
    assert stream.getvalue() == ""
