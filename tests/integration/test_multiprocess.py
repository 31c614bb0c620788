"""Whole runs over several devices and processes: how they end, and how they go on."""

import contextlib
import csv
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from m3po_jax.training import processes
from m3po_jax.workdir.preemption import PREEMPTED

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
TINY = "tests/integration/tiny_config.py"
# 8 environments of 4 steps: 32 env steps an iteration.
FLAGS = ("--config.env.num_envs=8", "--config.replay.capacity=640")


def start(folder, *flags, devices, cache):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    command = [sys.executable, "-m", "m3po_jax.cli.train", f"--config={TINY}"]
    return subprocess.Popen(
        [*command, f"--workdir={folder}", *FLAGS, *flags],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_many(folder, *flags, cache, number=2):
    """Processes of one run, with four devices in all."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    where = ("--distributed", f"--coordinator=localhost:{port}", f"--num_processes={number}")
    return [
        start(folder, *where, f"--process_id={i}", *flags, devices=4 // number, cache=cache)
        for i in range(number)
    ]


def finish(process, timeout=1200):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def wait_for_rows(process, folder, rows):
    while not (folder / "metrics.csv").exists() or len(rows_of(folder)) < rows:
        assert process.poll() is None, finish(process)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def endless():
    return "--config.train.total_env_steps=1000000"


def test_a_killed_process_ends_the_other_and_the_run_goes_on(tmp_path, cache, endless):
    first, second = start_many(tmp_path, endless, cache=cache)
    wait_for_rows(first, tmp_path, 6)
    second.kill()
    second.wait()
    killed = time.monotonic()
    code, out, err = finish(first, timeout=3 * processes.HEARTBEAT_TIMEOUT_S)
    assert time.monotonic() - killed < 2 * processes.HEARTBEAT_TIMEOUT_S
    assert code != 0 and "Traceback" not in err
    assert "another one has ended" in err and "same command" in err
    assert "4 devices" in out
    saved = max(int(child.name) for child in (tmp_path / "checkpoints").iterdir())
    assert saved > 0

    both = start_many(tmp_path, endless, cache=cache)
    before = len(rows_of(tmp_path))
    wait_for_rows(both[0], tmp_path, before + 3)
    # A signal to the process that does not lead stops both after the same iteration.
    both[1].send_signal(signal.SIGTERM)
    for index, process in enumerate(both):
        code, out, err = finish(process)
        assert code == PREEMPTED, err
        assert "Stopped at" in err
        assert ("Resuming from the checkpoint" in out) == (index == 0)
        # One process writes; the library that connects them says that it did.
        said = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert bool(said) == (index == 0), said
    rows = rows_of(tmp_path)
    assert [int(row["iteration"]) for row in rows] == list(range(1, len(rows) + 1))
    newest = max(int(child.name) for child in (tmp_path / "checkpoints").iterdir())
    assert newest == int(rows[-1]["iteration"])

    # One process with one device goes on with what two wrote.
    alone = start(tmp_path, endless, devices=1, cache=cache)
    wait_for_rows(alone, tmp_path, len(rows) + 2)
    alone.send_signal(signal.SIGTERM)
    code, out, err = finish(alone)
    assert code == PREEMPTED, err
    assert "Resuming from the checkpoint" in out


def test_four_processes_end_when_the_first_of_them_is_killed(tmp_path, cache, endless):
    first, *others = start_many(tmp_path, endless, cache=cache, number=4)
    wait_for_rows(first, tmp_path, 6)
    first.kill()
    first.wait()
    killed = time.monotonic()
    for process in others:
        code, _, err = finish(process, timeout=3 * processes.HEARTBEAT_TIMEOUT_S)
        assert time.monotonic() - killed < 2 * processes.HEARTBEAT_TIMEOUT_S
        assert code != 0 and "Traceback" not in err
        assert "another" in err, err
    again = start_many(tmp_path, endless, cache=cache, number=4)
    wait_for_rows(again[0], tmp_path, len(rows_of(tmp_path)) + 3)
    again[0].send_signal(signal.SIGTERM)
    ends = [finish(process) for process in again]
    assert [code for code, _, _ in ends] == [PREEMPTED] * 4, ends
    assert "Resuming from the checkpoint" in ends[0][1]


def test_a_run_of_four_devices_goes_on_on_one_and_on_eight(tmp_path, cache):
    base, short, long = tmp_path / "four", "--config.train.total_env_steps=256", 384
    copies = "--config.train.fsdp_devices="
    code, out, err = finish(start(base, short, f"{copies}2", devices=4, cache=cache))
    assert code == 0, err
    assert "on 4 devices" in out
    runs = {}
    for devices, fsdp in ((1, 1), (8, 4)):
        folder = tmp_path / f"on{devices}"
        shutil.copytree(base, folder)
        more = f"--config.train.total_env_steps={long}"
        code, out, err = finish(
            start(folder, more, f"{copies}{fsdp}", devices=devices, cache=cache)
        )
        assert code == 0, err
        assert "Resuming from the checkpoint at 256 env steps" in out
        runs[devices] = rows_of(folder)
    assert len(runs[1]) == len(runs[8]) == long // 32
    clocks = {"wall_seconds", "env_steps_per_second"}
    for row, other in zip(runs[1], runs[8], strict=True):
        for name in row.keys() - clocks:
            np.testing.assert_allclose(
                float(row[name]), float(other[name]), rtol=0.05, atol=1e-3, err_msg=name
            )


def test_a_simulator_on_two_devices_by_task(tmp_path, cache):
    tasks = ("toy/PointReachA", "brax/inverted_pendulum")
    flags = [
        *(f"--config.tasks={name}" for name in tasks),
        "--config.train.task_placement=by_task",
        "--config.train.warmup_env_steps=64",
        "--config.train.total_env_steps=256",
    ]
    code, out, err = finish(start(tmp_path, *flags, devices=2, cache=cache))
    assert code == 0, err
    assert "on 2 devices" in out
    assert "task placement by_task: the most expensive device has" in out
    assert "device 0" in out and "the cost: brax/inverted_pendulum" in out
    last = rows_of(tmp_path)[-1]
    assert all(np.isfinite(float(last[f"rollout/reward/{name}"])) for name in tasks)


def test_processes_that_do_not_come_together_say_so(tmp_path, cache):
    folder = tmp_path / "run"
    code, _, err = finish(start(folder, "--distributed", devices=1, cache=cache))
    assert code == 2
    assert "--coordinator=HOST:PORT" in err and "Traceback" not in err
    assert not folder.exists()
