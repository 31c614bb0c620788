"""Whole runs with physics on the host: stopped, killed and failing ones, on one device and two."""

import re
import signal

import pytest

from m3po_jax.workdir.preemption import PREEMPTED
from tests.integration import test_interruptions as runs

CONFIG = "tests/integration/host_config.py"
RAISED = 70
environment = runs.environment
SHORT = ("--config.train.total_env_steps=400", "--config.train.eval_every=200")


def train(environment, folder, num_devices, *flags):
    emulated = f" --xla_force_host_platform_device_count={num_devices}"
    here = {**environment, "XLA_FLAGS": environment["XLA_FLAGS"] + emulated}
    return runs.train(here, folder, *SHORT, *flags, config=CONFIG)


@pytest.mark.parametrize("num_devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_and_killed_it_ends_bit_equal(environment, num_devices, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    code, out, err = runs.finish(train(environment, whole, num_devices))
    assert code == 0, err
    without_times = re.sub(r" \(\d+ s the last time\)", "", out)
    assert "Compiling collecting, learning, the evaluation" in without_times
    rows, _ = runs.written(whole)
    assert sum(float(row["rollout/episodes/tests.integration.host_tasks:Falling"]) for row in rows)

    process = train(environment, folder, num_devices)
    runs.wait_for_rows(process, folder, 4)
    process.send_signal(signal.SIGTERM)
    code, _, err = runs.finish(process)
    assert code == PREEMPTED, err
    process = train(environment, folder, num_devices)
    runs.wait_for_rows(process, folder, len(runs.rows_of(folder)) + 4)
    process.kill()
    process.communicate()
    code, out, err = runs.finish(train(environment, folder, num_devices))
    assert code == 0, err
    assert "Resuming from the checkpoint" in out
    runs.assert_same_end(folder, whole)


def test_what_a_simulator_raises_is_shown_with_its_task_and_the_run_is_saved(environment, tmp_path):
    task = "--config.tasks=tests.integration.host_tasks:Raising"
    # The evaluation at step 0 would raise first.
    flags = (task, "--config.train.eval_every=0")
    for _ in range(2):
        code, _, err = runs.finish(train(environment, tmp_path, 2, *flags))
        assert code == RAISED, err
        assert "error: tests/Falling: its simulator raised ValueError: falls faster" in err
        assert err.count("error: ") == 1 and "in _run" in err
        (saved,) = re.findall(r"All before it is saved, at (\d+) env steps", err)
        assert runs.saved(tmp_path)[1] == int(saved) > 0
