"""Whole runs as processes: stopped, killed, poisoned and damaged ones end as they should.

Each test compares with one run that nothing interrupted, bit for bit.
"""

import csv
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.cli import command_line
from m3po_jax.workdir import best
from m3po_jax.workdir.checkpoint import Checkpointer
from m3po_jax.workdir.folder import read_config
from m3po_jax.workdir.preemption import PREEMPTED

ROOT = pathlib.Path(__file__).parents[2]
TINY = "tests/integration/tiny_config.py"
# numbers of this machine and this hour, not of the run
CLOCKS = {"wall_seconds", "env_steps_per_second"}
NUMERICS = 70
STEPS_PER_ITERATION = 8  # env steps of the tiny config


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """All processes share compiled programs; they run briefly, so little optimisation pays."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tmp_path_factory.mktemp("cache")
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }


def start(environment, command, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"m3po_jax.cli.{command}", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process):
    out, err = process.communicate(timeout=1200)
    return process.returncode, out, err


def train(environment, folder, *flags, config=TINY):
    return start(environment, "train", f"--config={config}", f"--workdir={folder}", *flags)


def wait_for_rows(process, folder, rows):
    """Waits until metrics.csv has so many lines; the process must still run then."""
    file = pathlib.Path(folder) / "metrics.csv"
    while not file.exists() or len(file.read_text().splitlines()) < rows:
        assert process.poll() is None, finish(process)
        time.sleep(0.02)


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def written(folder):
    """What a run has written, without the clocks."""
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows_of(folder)]
    lines = (folder / "eval.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return rows, [{k: v for k, v in record.items() if k not in CLOCKS} for record in records]


def shapes(folder):
    from m3po_jax.training.experiment import make_experiment

    return make_experiment(read_config(folder)).state_shapes()


def saved(folder):
    """The newest checkpoint, by path, as numpy arrays."""
    with Checkpointer(folder) as checkpointer:
        state, meta = checkpointer.restore_latest(shapes(folder))
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return leaves, meta["env_steps"]


def assert_same_end(folder, whole):
    leaves, steps = saved(folder)
    expected, expected_steps = saved(whole)
    assert steps == expected_steps
    assert leaves.keys() == expected.keys()
    for name, value in expected.items():
        assert value.tobytes() == leaves[name].tobytes(), name
    assert written(folder) == written(whole)
    assert kept_best(folder) == kept_best(whole)


def kept_best(folder):
    """The best of all evaluations, whose checkpoint must still be there."""
    records = written(folder)[1]
    step, note = best.chosen_step(folder, "best", STEPS_PER_ITERATION)
    assert step == best.best_step(records, range(31), STEPS_PER_ITERATION), note
    return step


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = finish(train(environment, folder))
    assert code == 0, err
    rows, records = written(folder)
    assert [record["env_steps"] for record in records] == [0, 80, 160, 240]
    assert [int(row["env_steps"]) for row in rows] == list(range(8, 241, 8))
    assert float(rows[-1]["updates"]) > 20
    return folder


def test_a_signal_saves_and_the_same_command_ends_bit_equal(environment, whole, tmp_path):
    first = train(environment, tmp_path)
    wait_for_rows(first, tmp_path, 6)
    # the folder is in use: a second process is refused at once and harms nothing
    code, _, err = finish(train(environment, tmp_path))
    assert code == command_line.USER_ERROR
    assert f"in use by process {first.pid}" in err and "--workdir" in err
    first.send_signal(signal.SIGTERM)
    code, _, err = finish(first)
    assert code == PREEMPTED, err
    assert "SIGTERM: finishing this iteration" in err
    stopped_at = saved(tmp_path)[1]
    assert 40 <= stopped_at < 240
    assert f"Stopped at {stopped_at} env steps" in err
    assert int(rows_of(tmp_path)[-1]["env_steps"]) == stopped_at

    code, out, err = finish(train(environment, tmp_path))
    assert code == 0, err
    assert f"Resuming from the checkpoint at {stopped_at} env steps" in out
    assert_same_end(tmp_path, whole)


def test_a_signal_before_the_first_step_ends_at_once(environment, tmp_path):
    process = train(environment, tmp_path)
    while not (tmp_path / "config.json").exists():
        time.sleep(0.01)
    time.sleep(0.3)  # the handler is installed right after
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _, err = finish(process)
    assert code == PREEMPTED, err
    assert "nothing is lost" in err
    assert time.monotonic() - began < 10.0
    assert not (tmp_path / "metrics.csv").exists()


BASELINES = sorted(ROOT.glob("experiments/configs/baselines/[!_]*.py"))
# thirty iterations, and sizes that fit the little data
SMALL = (
    "--config.tasks=toy/PointReachA",
    "--config.env.num_envs=2",
    "--config.env.unroll_length=4",
    "--config.network.encoder_width=8",
    "--config.network.mlp_width=8",
    "--config.network.latent_size=8",
    "--config.network.num_bins=11",
    "--config.replay.capacity=160",
    "--config.train.eval_episodes=2",
    "--config.env.action_repeat=1",
    "--config.world_model.batch_size=8",
    "--config.policy.minibatches=1",
    "--config.critic.minibatches=1",
    "--config.train.total_env_steps=240",
    "--config.train.warmup_env_steps=24",
    "--config.train.eval_every=80",
    "--config.train.checkpoint_every=40",
)


@pytest.mark.slow
@pytest.mark.parametrize("config", BASELINES, ids=lambda path: path.stem)
def test_a_stopped_baseline_ends_bit_equal(environment, config, tmp_path):
    """Sizes and lengths of a baseline's config are cut; what it switches on or off stays."""
    code, _, err = finish(train(environment, tmp_path / "whole", *SMALL, config=config))
    assert code == 0, err
    process = train(environment, tmp_path / "stopped", *SMALL, config=config)
    wait_for_rows(process, tmp_path / "stopped", 8)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == PREEMPTED, err
    code, _, err = finish(train(environment, tmp_path / "stopped", *SMALL, config=config))
    assert code == 0, err
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def kill_at(process, seconds):
    """Kills after that time, or lets the process end; returns whether it was killed."""
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True


@pytest.mark.slow
@pytest.mark.parametrize("kills", [int(os.environ.get("M3PO_TEST_KILLS", "20"))])
def test_killed_anywhere_it_ends_bit_equal(environment, whole, tmp_path, kills):
    """SIGKILL at random moments, half of them while a checkpoint is being written."""
    moments = random.Random(0)
    done = 0
    for _ in range(3 * kills):
        process = train(environment, tmp_path)
        if moments.random() < 0.5:
            wait_for_writing(process, tmp_path)
            delay = 0.05 * moments.random()
        else:
            wait_for_change(process, tmp_path)
            delay = 1.0 * moments.random()
        done += kill_at(process, delay)
        if done == kills:
            break
        if process.returncode == 0:
            shutil.rmtree(tmp_path / "checkpoints")
            for name in ("metrics.csv", "eval.jsonl", "config.json"):
                (tmp_path / name).unlink()
    assert done == kills
    code, _, err = finish(train(environment, tmp_path))
    assert code == 0, err
    assert_same_end(tmp_path, whole)


def wait_for_writing(process, folder):
    """Waits until Orbax has an unfinished checkpoint in the folder."""
    while process.poll() is None:
        if list((folder / "checkpoints").glob("*tmp*")):
            return
        time.sleep(0.001)


def wait_for_change(process, folder):
    """Waits until the process writes metrics."""
    file = folder / "metrics.csv"
    before = file.stat().st_mtime_ns if file.exists() else 0
    while process.poll() is None:
        if file.exists() and file.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


def test_a_damaged_checkpoint_is_never_passed_over(environment, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    steps = sorted(int(child.name) for child in (folder / "checkpoints").iterdir())
    newest = folder / "checkpoints" / str(steps[-1])
    for file in (newest / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:20])
    code, _, err = finish(train(environment, folder))
    assert code == command_line.USER_ERROR
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert str(newest) in err and f"resume from checkpoint {steps[-2]}" in err
    # the user follows the advice
    shutil.rmtree(newest)
    code, out, err = finish(train(environment, folder))
    assert code == 0, err
    assert f"Resuming from the checkpoint at {steps[-2] * 8} env steps" in out
    assert_same_end(folder, whole)


def test_lost_checkpoints_are_no_new_start(environment, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "metrics.csv").read_bytes()
    code, _, err = finish(train(environment, folder))
    assert code == command_line.USER_ERROR
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert "no checkpoint" in err and "another --workdir" in err
    assert (folder / "metrics.csv").read_bytes() == before


@pytest.fixture
def poisoned(whole, tmp_path):
    """Folder of a run that stopped half-way and in whose replay every reward is NaN."""
    source = tmp_path / "source"
    shutil.copytree(whole, source)
    steps = sorted(int(child.name) for child in (source / "checkpoints").iterdir())
    shutil.rmtree(source / "checkpoints" / str(steps[-1]))
    with Checkpointer(source) as checkpointer:
        state, meta = checkpointer.restore_latest(shapes(whole))
    data = {**state.replay.data, "reward": jnp.full_like(state.replay.data["reward"], jnp.nan)}
    state = state.replace(replay=state.replay.replace(data=data))
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(whole / "config.json", folder)
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(int(state.iteration), state, meta)
    return folder


def test_poisoned_data_stop_the_run_with_a_bundle_that_replays(environment, poisoned):
    folder = poisoned
    flags = ["--config.train.max_skipped_updates=2"]
    code, _, err = finish(train(environment, folder, *flags))
    assert code == NUMERICS, err
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert "world_model" in err and "3 iterations in a row" in err
    assert f"replay_fault {folder / 'fault'}" in err
    rows = rows_of(folder)
    assert len(rows) == 2  # the one that stopped the run is in the bundle
    assert all(float(row["world_model/skipped"]) > 0 for row in rows)
    assert all(float(row["policy/skipped"]) == 0 for row in rows)

    code, out, err = finish(start(environment, "replay_fault", str(folder / "fault")))
    assert code == 0, err
    assert "not finite in the start state: replay/data/reward" in out
    assert "first assertion that fails: world model, replayed steps: " in out
    assert "are not finite: reward (" in out
    assert "updates skipped in: world_model\n" in out


def test_debug_ends_at_the_first_assertion_that_fails(environment, poisoned):
    code, _, err = finish(train(environment, poisoned, "--debug"))
    assert code == NUMERICS, err
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert "world model, replayed steps:" in err and "values are not finite: reward (" in err
    code, out, err = finish(start(environment, "replay_fault", str(poisoned / "fault")))
    assert code == 0, err
    assert "not finite in the start state: replay/data/reward" in out
