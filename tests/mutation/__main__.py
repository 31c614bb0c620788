"""Plants each error of the committed list, runs the tests that concern it, and counts survivors.

    python -m tests.mutation              # all, one process on each core
    python -m tests.mutation --only gae   # those whose function or source holds a word

Exits with 0 if at least 95 % of the mutants are killed. The tests run in copies of the checkout,
which stays as it is. A mutant counts as killed only by a test that fails or by running out of time,
and only where the same tests pass without it.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time

from tests.mutation.mutants import MUTANTS
from tests.mutation.planting import Mutant, MutantError, find, plant

ROOT = pathlib.Path(__file__).parents[2]
ENOUGH = 0.95
# Of the time that the same tests take without the error, and at least a minute more: planted
# errors can loop, and change programs that the compile cache holds.
_TIMES, _MORE_S = 4.0, 60.0
# What is planted is compiled anew and hardly runs: quickly rather than well.
_XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_NOT_RUN = (3, 4, 5)  # pytest's exit codes: internal error, wrong arguments, no test


def main() -> int:
    """Runs the check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a word of the mutants to run")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if arguments.only in str(mutant)]
    try:
        for mutant in chosen:
            find(mutant, ROOT / "m3po_jax")
    except MutantError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    with Copies(arguments.processes) as copies:
        killed, survivors = run_all(chosen, copies)
    equivalent = [mutant for mutant in chosen if mutant.equivalent]
    for mutant in equivalent:
        print(f"equivalent {mutant} ({mutant.equivalent})")
    total = len(killed) + len(survivors)
    share = len(killed) / total if total else 0.0
    minutes = (time.monotonic() - started) / 60.0
    print(
        f"{len(killed)} of {total} killed ({share:.0%}), {len(survivors)} survived, "
        f"{len(equivalent)} equivalent; {minutes:.0f} min on {arguments.processes} processes"
    )
    return 0 if total and share >= ENOUGH else 1


class Copies:
    """Copies of the checkout, one for each process, and the core that each of them may use."""

    def __init__(self, number: int):
        self._folder = tempfile.TemporaryDirectory(prefix="m3po_mutation_")
        self._free: queue.Queue[tuple[pathlib.Path, int]] = queue.Queue()
        self.number = number
        cores = sorted(os.sched_getaffinity(0))
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for index in range(number):
            copy = pathlib.Path(self._folder.name) / str(index)
            for name in names:
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, copy / name)
            self._free.put((copy, cores[index % len(cores)]))

    def __enter__(self) -> "Copies":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def test(self, mutant: Mutant | None, tests: tuple[str, ...], limit: float) -> tuple[int, str]:
        """Exit code of pytest with a mutant planted, and its last lines; -1 out of time."""
        copy, core = self._free.get()
        try:
            if mutant is None:
                return _pytest(copy, core, tests, limit)
            path, text = plant(mutant, copy / "m3po_jax")
            sound = path.read_text(encoding="utf-8")
            path.write_text(text, encoding="utf-8")
            try:
                return _pytest(copy, core, tests, limit)
            finally:
                path.write_text(sound, encoding="utf-8")
        finally:
            self._free.put((copy, core))


def _pytest(copy: pathlib.Path, core: int, tests: tuple[str, ...], limit: float) -> tuple[int, str]:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {"XLA_FLAGS": _XLA_FLAGS, **os.environ, "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(
            [*command, *(f"tests/{name}" for name in tests)],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    except subprocess.TimeoutExpired:
        return -1, "out of time"
    return done.returncode, done.stdout[-2000:] + done.stderr[-2000:]


def run_all(mutants: list[Mutant], copies: Copies) -> tuple[list[Mutant], list[Mutant]]:
    """Runs all that are not equivalent; prints each as it ends. Returns killed and survivors."""
    by_tests = collections.defaultdict(list)
    for mutant in mutants:
        if not mutant.equivalent:
            by_tests[mutant.tests].append(mutant)
    killed: list[Mutant] = []
    survivors: list[Mutant] = []

    def run_group(tests: tuple[str, ...]) -> None:
        limit = _limit(copies, tests)
        for mutant in by_tests[tests]:
            code, output = copies.test(mutant, tests, limit)
            if code in _NOT_RUN:
                raise MutantError(f"{mutant}: pytest ended with {code}:\n{output}")
            (survivors if code == 0 else killed).append(mutant)
            print(f"{'SURVIVED' if code == 0 else 'killed'} {mutant}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(copies.number) as pool:
        largest_first = sorted(by_tests, key=lambda tests: -len(by_tests[tests]))
        list(pool.map(run_group, largest_first))
    return killed, survivors


def _limit(copies: Copies, tests: tuple[str, ...]) -> float:
    """Runs tests without an error; returns how long they may take with one."""
    started = time.monotonic()
    code, output = copies.test(None, tests, 1800.0)
    if code != 0:
        raise MutantError(f"without an error {', '.join(tests)} must pass:\n{output}")
    return _TIMES * (time.monotonic() - started) + _MORE_S


if __name__ == "__main__":
    sys.exit(main())
