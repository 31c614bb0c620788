"""Starting a suite twice: `python -m experiments.suite_starts`.

Trains a preset at size `tiny` for ten iterations, evaluates one episode of each task and ends; and
once more, with what the first start left in the compile cache. Evaluations are the policy's alone,
and updates are few, for it is the start that is measured. A run is ready when all of its programs
are compiled. Its CPU seconds until then are those of all cores for loading, tracing and compiling.
Needs Linux.
"""

import argparse
import importlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.suite_startup import add_row, circumstances

RESULTS = pathlib.Path(__file__).parent / "results" / "suite_starts.csv"
CONFIGS = pathlib.Path(__file__).parent / "configs"
ITERATIONS = 10
_COMPILED = re.compile(r"Compiled (.*) in (\d+) s\.")


def command(preset: str, workdir: pathlib.Path) -> list[str]:
    """The command line of one start."""
    from m3po_jax.config import from_config_dict
    from m3po_jax.envs import registry

    cfg = importlib.import_module(f"m3po_jax.presets.{preset}").get_config()
    env_cfg = from_config_dict(cfg).env
    each = [
        int(request.options.get("num_envs", env_cfg.num_envs))
        * registry.action_repeat(request, env_cfg)
        for request in registry.parse_tasks(cfg.tasks)
    ]
    steps = cfg.env.unroll_length * sum(each)
    total = ITERATIONS * steps
    settings = {
        "network.size": "tiny",
        "train.total_env_steps": total,
        "train.warmup_env_steps": steps,
        "train.updates_per_transition": 0.02,
        "train.eval_every": total,
        "train.checkpoint_every": total,
        "train.eval_episodes": 1,
        "train.eval_policy": "prior",
    }
    return [
        *(sys.executable, "-m", "m3po_jax.cli.train", f"--config={CONFIGS / preset}.py"),
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]


def start(preset: str, workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, Any]:
    """Runs one start to its end; the numbers of its row."""
    environment = {**os.environ, "M3PO_COMPILE_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.monotonic()
    process = subprocess.Popen(
        command(preset, workdir), env=environment, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    compiled, ready, ready_cpu = {}, 0.0, 0.0
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := _COMPILED.match(line):
            compiled[found[1]] = int(found[2])
            ready, ready_cpu = time.monotonic() - began, _cpu_seconds(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run in {workdir} ended with status {status}")
    return {
        "ready_seconds": round(ready, 1),
        "ready_cpu_seconds": round(ready_cpu, 1),
        "run_seconds": round(time.monotonic() - began, 1),
        "peak_rss_mib": usage.ru_maxrss // 1024,
        "compiled": ", ".join(f"{name} {seconds} s" for name, seconds in compiled.items()),
    }


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process that runs."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Starts one preset twice and adds two rows to the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="dmc25", help="a preset")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="CSV of results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for number in ("first", "second"):
            measured = start(arguments.preset, place / number, place / "cache")
            row = {"preset": arguments.preset, "start": number, **measured, **circumstances()}
            add_row(arguments.out, row)


if __name__ == "__main__":
    main()
