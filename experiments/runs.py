"""Runs of an experiment: one process each, side by side, resumable, and one table of their scores.

A run is the train command with a config of `experiments/configs/baselines` and a workdir of its
own, so a run that was stopped resumes where it was; a run that starts from the agent of another is
the finetune command, and waits for it. The table has one row per run, evaluation and task. It is
rewritten after every run; runs that it already holds to their end are not made again, unless one
that is missing starts from them and their workdirs are gone, and their rows stay.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from m3po_jax.config import EnvConfig
from m3po_jax.envs import registry
from m3po_jax.workdir import metrics

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
# What tells one row from another.
KEY = ("agent", "setting", "seed", "env_steps_per_task", "task")
COLUMNS = (
    *KEY,
    *("return_mean", "return_std", "episodes", "normalized", "policy", "total_env_steps"),
    *("updates_per_transition", "num_envs", "action_repeat", "wall_seconds", "kl_max"),
    *("finished", "date", "commit", "jax", "hardware"),
)
Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One training run.

    Attributes:
        agent: A config of `experiments/configs/baselines`.
        setting: What else distinguishes it, as the task set or the number of environments.
        seed: The seed.
        tasks: Registry names.
        overrides: Settings that differ from the config, as `train.total_env_steps`.
        variant: Name of the curve where it is not the agent's.
        start: The run whose agent it starts from, made before it; none: from scratch.
    """

    agent: str
    setting: str
    seed: int
    tasks: tuple[str, ...]
    overrides: tuple[tuple[str, Any], ...] = ()
    variant: str = ""
    start: "PlannedRun | None" = None

    @property
    def curve(self) -> str:
        """The name in the table's column `agent`."""
        return self.variant or self.agent

    @property
    def name(self) -> str:
        """Folder of the run under the experiment's."""
        return f"{self.curve}-{self.setting}-{self.seed}".replace(" ", "_")

    def command(self, workdir: pathlib.Path) -> list[str]:
        """The command line that makes or resumes the run; `start` is next to `workdir`."""
        config = f"experiments/configs/baselines/{self.agent}.py:{','.join(self.tasks)}"
        program = ["m3po_jax.cli.train"]
        if self.start is not None:
            program = ["m3po_jax.cli.finetune", f"--from={workdir.with_name(self.start.name)}"]
        return [
            *(sys.executable, "-m", *program, f"--config={config}"),
            *(f"--workdir={workdir}", f"--config.seed={self.seed}"),
            *(f"--config.{name}={value}" for name, value in self.overrides),
        ]


def main(experiment: str, description: str, runs: Sequence[PlannedRun]) -> list[Row]:
    """Makes the runs that the table lacks; returns the whole table.

    Args:
        experiment: Name of the table in `experiments/results` and of the folder of workdirs.
        description: For `--help`.
        runs: In the order in which they matter.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cores", type=int, nargs="*", default=sorted(os.sched_getaffinity(0)),
        help="one single-threaded process on each of these cores; none: only the figure",
    )  # fmt: skip
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no run after these"
    )
    parser.add_argument("--workdirs", type=pathlib.Path, default=ROOT / "runs" / experiment)
    arguments = parser.parse_args()
    table = RESULTS / f"{experiment}.csv"
    wanted = [run for run in runs if arguments.only in run.name]
    execute(wanted, table, arguments.workdirs, arguments.cores, arguments.minutes)
    return read_table(table)


def execute(
    runs: Sequence[PlannedRun],
    table: pathlib.Path,
    workdirs: pathlib.Path,
    cores: Sequence[int],
    minutes: float = float("inf"),
) -> None:
    """Makes the runs that `table` does not hold to their end, one process per core at a time."""
    rows = {key_of(row): row for row in read_table(table)}
    done = {run_of(row) for row in rows.values() if row["finished"] == "yes"}
    missing = [run for run in runs if (run.curve, run.setting, str(run.seed)) not in done]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are in {table}", flush=True)
    if not (missing and cores):
        return
    began = time.monotonic()
    problems = []
    for run, problem in _made(with_starts(missing, workdirs), workdirs, cores, minutes):
        if problem is not None:
            problems.append(f"{run.name}: {problem}")
            continue
        rows |= {key_of(row): row for row in rows_of(run, workdirs / run.name)}
        write_table(table, rows.values())
        print(f"{run.name} is in {table}, {time.monotonic() - began:.0f} s", flush=True)
    print("\n".join(problems), flush=True)


def _made(
    runs: Sequence[PlannedRun], workdirs: pathlib.Path, cores: Sequence[int], minutes: float
) -> Iterator[tuple[PlannedRun, str | None]]:
    """Makes runs; yields each as it ends, with what went wrong."""
    began = time.monotonic()
    waiting, free = list(runs), list(cores)
    # A run that fails stays here and holds up those that start from it.
    unmade = set(runs)
    running: dict[concurrent.futures.Future[str | None], tuple[PlannedRun, int]] = {}
    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        while True:
            late = time.monotonic() - began > 60.0 * minutes
            ready = [run for run in waiting if run.start not in unmade and not late]
            for run in ready[: len(free)]:
                waiting.remove(run)
                core = free.pop(0)
                print(f"{run.name} on core {core} ...", flush=True)
                running[pool.submit(_train, run, workdirs / run.name, core)] = run, core
            if not running:
                break
            ended = concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done
            for future in ended:
                run, core = running.pop(future)
                free.append(core)
                problem = future.result()
                if problem is None:
                    unmade.remove(run)
                yield run, problem
    reason = "the time is up" if late else "the run that it starts from is not made"
    yield from ((run, f"not started, {reason}") for run in waiting)


def with_starts(missing: Sequence[PlannedRun], workdirs: pathlib.Path) -> list[PlannedRun]:
    """The missing runs, and before each the run it starts from unless that lies there, finished.

    Args:
        missing: In the order in which they matter.
        workdirs: Folder of the workdirs.
    """
    todo: dict[PlannedRun, None] = {}
    for run in missing:
        start = run.start
        if start and (start in missing or not _lies_finished(workdirs / start.name)):
            todo[start] = None
        todo[run] = None
    return list(todo)


def _train(run: PlannedRun, workdir: pathlib.Path, core: int) -> str | None:
    """Makes one run; returns what went wrong."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    log = workdir.with_name(f"{workdir.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        result = subprocess.run(
            ["taskset", "-c", str(core), *run.command(workdir)],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    if result.returncode == 0:
        return None
    tail = log.read_text(errors="replace").splitlines()[-5:]
    return "\n".join([f"ended with exit code {result.returncode}, see {log}:", *tail])


def rows_of(run: PlannedRun, workdir: pathlib.Path) -> list[Row]:
    """The run's evaluations as rows of the table."""
    settings = json.loads((workdir / "config.json").read_text())
    config = settings["config"]
    evaluations = metrics.read_evaluations(workdir)
    finished = _lies_finished(workdir)
    largest_kl = _largest_kl(workdir)
    env_cfg = EnvConfig(**config["env"])
    requests = {request.name: request for request in registry.parse_tasks(run.tasks)}
    rows = []
    for record in evaluations:
        for task, result in record["tasks"].items():
            values = {
                "agent": run.curve,
                "setting": run.setting,
                "seed": run.seed,
                "env_steps_per_task": round(record["env_steps_per_task"]),
                "task": task,
                **{name: result[name] for name in ("return_mean", "return_std", "episodes")},
                "normalized": result["normalized"],
                "policy": record["policy"],
                "total_env_steps": config["train"]["total_env_steps"],
                "updates_per_transition": config["train"]["updates_per_transition"],
                "num_envs": config["env"]["num_envs"],
                "action_repeat": registry.action_repeat(requests[task], env_cfg),
                "wall_seconds": record["wall_seconds"],
                "kl_max": largest_kl,
                "finished": "yes" if finished else "no",
                "date": datetime.date.today().isoformat(),
                "commit": settings["commit"],
                "jax": settings["versions"]["jax"],
                "hardware": f"1 core of {platform.machine()}",
            }
            rows.append({name: _text(values[name]) for name in COLUMNS})
    return rows


def _largest_kl(workdir: pathlib.Path) -> float:
    """The largest KL of a policy update in the run so far; NaN before the first."""
    values = metrics.read_metrics(workdir).get("policy/kl_max", [])
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _lies_finished(workdir: pathlib.Path) -> bool:
    """Whether a workdir holds a run to its end."""
    evaluations = metrics.read_evaluations(workdir)
    if not evaluations:
        return False
    config = json.loads((workdir / "config.json").read_text())["config"]
    return bool(evaluations[-1]["env_steps"] >= config["train"]["total_env_steps"])


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """What tells one row from another."""
    return tuple(row[name] for name in KEY)


def run_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    """The run that a row belongs to."""
    return row["agent"], row["setting"], row["seed"]


def read_table(path: pathlib.Path) -> list[Row]:
    """Rows written so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """Replaces the table at once, so that a stop never leaves half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=_order))
    draft.replace(path)


def _order(row: Mapping[str, str]) -> tuple[str, str, int, str, int]:
    names = (row["setting"], row["agent"], int(row["seed"]))
    return (*names, row["task"], int(row["env_steps_per_task"]))
