"""What stands at the other end of a command: a closed pipe, a full disk, another encoding."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from m3po_jax.cli import command_line, output

ROOT = pathlib.Path(__file__).parents[2]

COMMAND = """
import errno, json, os, signal, sys
from absl import flags
from m3po_jax.cli import command_line

def main():
    {body}

flags.DEFINE_bool("overwrite", False, "")
command_line.run(main, "usage: \\u2581\\u2582")
"""


def call(body, *arguments, out="pipe", **environment):
    """Runs a command whose work is `body`; `out` is where its output goes."""
    places = {"pipe": subprocess.PIPE, "full": open("/dev/full", "w")}  # noqa: SIM115
    with places["full"]:
        return subprocess.run(
            [sys.executable, "-c", COMMAND.format(body=body), *arguments],
            stdout=places[out],
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=ROOT,
            timeout=60,
        )


def tasks(*arguments, head=None, **environment):
    """m3po-tasks in a pipe, of which `head` lines are read."""
    process = subprocess.Popen(
        [sys.executable, "-m", "m3po_jax.cli.tasks", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
    )
    with process:
        lines = [process.stdout.readline() for _ in range(head or 0)]
        if head is None:
            lines = process.stdout.readlines()
        process.stdout.close()
        err = process.stderr.read().decode()
    return process.returncode, lines, err


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("out", ["full", "pipe"])
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 10**6)", "sys.stdout.flush()"])
def test_a_full_disk_at_the_other_end_is_told_and_has_a_code(body, out):
    result = call(body, out=out)
    prints = "print" in body
    assert result.returncode == (command_line.USER_ERROR if out == "full" and prints else 0)
    assert b"Traceback" not in result.stderr
    assert (b"error: cannot write: No space left" in result.stderr) == (out == "full" and prints)


def test_the_usage_is_delivered_too():
    assert call("pass", "--help", out="full").returncode == command_line.USER_ERROR
    assert b"\\u2581" in call("pass", "--help", **ASCII).stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_any_text_can_be_printed_in_any_encoding(encoding):
    for stream in ("stdout", "stderr"):
        body = f"print('a ▁ ü \\\\udcff', file=sys.{stream})"
        result = call(body, PYTHONIOENCODING=encoding)
        assert result.returncode == 0, result.stderr
        assert (result.stdout or result.stderr).startswith(b"a ")


def test_a_disk_that_fails_anywhere_is_told():
    result = call("raise OSError(errno.ENOSPC, 'No space left on device')")
    assert result.returncode == 2 and b"error: cannot write: No space left" in result.stderr
    other = call("raise OSError(errno.ECHILD, 'No child processes')")
    assert other.returncode == 1 and b"Traceback" in other.stderr


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.')",
        "MemoryError('Unable to allocate 745. GiB')",
        "MemoryError()",
    ],
)
def test_too_little_memory_is_told(error):
    result = call(f"raise {error}")
    assert result.returncode == command_line.USER_ERROR
    assert b"Traceback" not in result.stderr
    assert b"error: there is not enough memory" in result.stderr
    assert b"replay.capacity" in result.stderr
    assert b"Traceback" in call("raise RuntimeError('INTERNAL: else')").stderr


def test_an_interrupt_says_what_goes_on(tmp_path):
    # What starts in the background of a script ignores it, and so would this process.
    restored = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    result = call(f"{restored}; os.kill(os.getpid(), signal.SIGINT)")
    assert result.returncode == command_line.INTERRUPTED
    assert b"stopped; the same command resumes" in result.stderr
    again = "atexit.register(os.kill, os.getpid(), 2)"
    twice = call(f"{restored}; import atexit; {again}; os.kill(os.getpid(), 2)")
    assert twice.returncode == -signal.SIGINT and b"Traceback" not in twice.stderr


def test_tasks_are_listed_whole_into_a_pipe():
    code, lines, err = tasks(COLUMNS="80")
    assert (code, err) == (0, "")
    text = b"".join(lines).decode()
    assert "…" not in text and "playground/LeapCubeRotateZAxis " in text
    assert len({len(line) for line in lines[:50]}) == 1  # none wrapped
    code, lines, err = tasks("--suite=dmc", **ASCII)
    assert (code, err, len(lines) > 20) == (0, "", True)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    code, lines, err = tasks(*arguments, head=1)
    assert code == output.BROKEN_PIPE and err == "" and lines[0]
    if arguments:
        json.loads(lines[0])


def test_without_a_home_folder_programs_are_not_kept(monkeypatch, capsys):
    """As in a container whose user has no entry in passwd."""
    for name in ("HOME", "XDG_CACHE_HOME", "M3PO_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no entry"])
    command_line.use_compile_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert "M3PO_COMPILE_CACHE=FOLDER" in capsys.readouterr().err
    monkeypatch.setenv("M3PO_COMPILE_CACHE", "/elsewhere")
    command_line.use_compile_cache()
    assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == "/elsewhere"
