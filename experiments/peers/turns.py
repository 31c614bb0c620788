"""Two processes that time their programs in turn. Needs nothing but Python: peers import it too.

The driver starts one worker for each implementation and alternates between them, A, B, A, B,
..., so that other load on the machine affects both equally. A worker compiles and warms up, says
what it has, and then times one program for each line that it reads.
"""

import contextlib
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# Counted is what the process computes, not what passes: others may use the machine too. With more
# than one core, or an accelerator, that would not be the time that a user waits.
ONE_CORE = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1
clock = time.process_time if ONE_CORE else time.perf_counter


def serve(programs: Mapping[str, Callable[[], Any]], block: Callable[[Any], Any]) -> None:
    """Times a program for each name that comes in, until the input ends.

    Args:
        programs: Functions that start a computation and return its result.
        block: Waits for a result, as `jax.block_until_ready`.
    """
    for program in programs.values():
        block(program())
        block(program())
    _say({"ready": sorted(programs)})
    for line in sys.stdin:
        name, calls = line.split()
        begin = clock()
        for _ in range(int(calls)):
            block(programs[name]())
        _say({"seconds": (clock() - begin) / int(calls)})


@contextlib.contextmanager
def worker(command: Sequence[str], path: object) -> Iterator[Callable[[str, int], float]]:
    """Starts a worker; gives a function from a program's name and calls to seconds per call.

    Args:
        command: How to start it.
        path: Its PYTHONPATH.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
    )
    assert process.stdin is not None and process.stdout is not None

    def answer(key: str) -> Any:
        for line in process.stdout or ():
            if line.startswith("{"):
                return json.loads(line)[key]
        raise SystemExit(f"{command[0]} {command[1]} ended; its messages stand above")

    def ask(name: str, calls: int = 1) -> float:
        assert process.stdin is not None
        process.stdin.write(f"{name} {calls}\n")
        process.stdin.flush()
        return float(answer("seconds"))

    try:
        answer("ready")
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def compare(
    ours: Callable[[str, int], float],
    theirs: Callable[[str, int], float],
    pairs: Sequence[tuple[str, str]],
    *,
    rounds: int,
    calls: int,
) -> list[dict[str, Any]]:
    """Rows with the medians of both and the median of their ratio, round by round."""
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {pair: [] for pair in pairs}
    for _ in range(rounds):
        for pair in pairs:
            seconds[pair].append((ours(pair[0], calls), theirs(pair[1], calls)))
    rows = []
    for (our_name, their_name), both in seconds.items():
        ratios = sorted(b / a for a, b in both)
        rows.append(
            {
                "ours": our_name,
                "theirs": their_name,
                "our_seconds": f"{statistics.median(a for a, _ in both):.5f}",
                "their_seconds": f"{statistics.median(b for _, b in both):.5f}",
                "times_faster": f"{statistics.median(ratios):.2f}",
                "times_faster_min": f"{ratios[0]:.2f}",
                "times_faster_max": f"{ratios[-1]:.2f}",
                "rounds": rounds,
                "clock": "cpu, one core" if ONE_CORE else "wall",
            }
        )
    return rows


def write(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as CSV and prints them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


def available(what: str, python: pathlib.Path | None, module: str, folder: pathlib.Path) -> bool:
    """Whether this Python imports the peer's module; says why not."""
    if python is None or not python.exists():
        print(f"{what} is skipped: no Python for it ({python}); --help says how to get one")
        return False
    test = subprocess.run(
        [str(python), "-c", f"import {module}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    if test.returncode != 0:
        print(f"{what} is skipped: {test.stderr.strip().splitlines()[-1]}")
    return test.returncode == 0


def _say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message), flush=True)
