"""The command: what its record holds, and what it refuses."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from experiments import floors
from experiments.configs.baselines import ppo
from m3po_jax.benchmark import clock, measure, table
from m3po_jax.config import ConfigError, from_config_dict
from tests.integration import tiny_config

REPETITIONS = 2
ROOT = pathlib.Path(__file__).parents[2]
TINY = "--config=tests/integration/tiny_config.py"


def ppo_config():
    config = ppo.get_config("toy/PointReachA")
    config.env.num_envs, config.env.unroll_length = 2, 8
    config.network.mlp_width, config.network.num_bins = 8, 11
    config.policy.epochs = config.critic.epochs = 1
    config.policy.minibatches = config.critic.minibatches = 1
    return config


TIMES = {"calls", "seconds", "seconds_min"}
FLOORS = {"flops", "bytes", "floor_seconds", "over_floor"}


def check(record, parts, counted):
    """The record's keys, and numbers that are finite and positive."""
    assert {"device", "config", "whole_step_seconds", "parts"} <= set(record)
    assert {"env_steps_per_second", "compile_seconds", "peak_bytes"} <= set(record)
    assert set(record["parts"]) == parts
    assert set(record["compile_seconds"]) == {"start_state", "whole_step", *parts}
    measured = {**record["parts"], "whole_step": record["whole_step"]}
    for name, part in measured.items():
        assert set(part) == (TIMES | FLOORS if counted else TIMES)
        for key, value in part.items():
            assert math.isfinite(value) and value >= 0.0, (name, key)
            assert value > 0.0 or (name, key) == ("replay_write", "flops"), (name, key)
        if counted:
            ratio = part["seconds"] / part["floor_seconds"]
            assert part["over_floor"] == pytest.approx(ratio)
    for key in ("whole_step_seconds", "env_steps_per_second", "peak_bytes", "whole_over_parts"):
        assert math.isfinite(record[key]) and record[key] > 0.0, key
    assert all(rate > 0.0 for rate in record["rates"].values())
    assert all(len(x) == REPETITIONS for x in record["seconds_of_repetitions"].values())
    written = json.loads(json.dumps(record))
    assert {**written, "config": 0} == {**record, "config": 0}
    assert from_config_dict(record["config"]).tasks == record["config"]["tasks"]
    steps = record["env_steps_per_second"] * record["whole_step_seconds"]
    assert steps == pytest.approx(record["env_steps_per_step"])
    text = table.table(record)
    assert all(name in text for name in (*parts, "whole step", "GFLOP/s", "compile seconds"))
    assert ("over floor" in text) == counted


@pytest.mark.parametrize("count", [None, floors.count], ids=["times", "floors"])
def test_the_parts_of_an_agent_without_a_model(count):
    config = from_config_dict(ppo_config())
    record = measure.benchmark(config, repetitions=REPETITIONS, clock="wall", count=count)
    check(record, {"environments", "policy", "fresh_update"}, count is not None)


@pytest.mark.slow
def test_the_parts_of_the_whole_agent():
    config = from_config_dict(tiny_config.get_config())
    record = measure.benchmark(config, repetitions=REPETITIONS, clock="wall", count=floors.count)
    check(
        record,
        {"environments", "planning", "fresh_update", "replay_write", "replay_sample"}
        | {"world_model_update", "policy_update"},
        True,
    )
    # 2 environments for 4 steps, and an update for every fourth transition.
    assert record["env_steps_per_step"] == 8
    assert record["updates_per_step"] == record["parts"]["policy_update"]["calls"] == 2
    assert record["parts"]["planning"]["calls"] == 4


def test_programs_are_timed_in_turn():
    called = []

    def program(name):
        return lambda: called.append(name)

    seconds = clock.seconds_in_turn(
        {name: program(name) for name in "ab"}, repetitions=3, clock="wall"
    )
    assert all(len(x) == 3 and min(x) > 0.0 for x in seconds.values())
    changes = [a for a, b in zip(called, [*called[1:], ""], strict=True) if a != b]
    # Warm-up of a, then of b, and three rounds.
    assert changes == ["a", "b"] * 4


def test_the_clock_of_one_core_is_refused_on_several(monkeypatch):
    monkeypatch.setattr(clock, "cores", lambda: 4)
    with pytest.raises(ConfigError, match="taskset -c 0"):
        clock.check_clock("cpu")
    monkeypatch.setattr(clock, "cores", lambda: 1)
    clock.check_clock("cpu")
    with pytest.raises(ConfigError, match="wall, cpu"):
        clock.check_clock("sun")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([TINY, "--json=setup.py/a.json"], ["setup.py/a.json", "folder"]),
        ([TINY, "--repetitions=0"], ["repetitions", "positive"]),
        ([TINY, "--clock=sun"], ["clock", "wall|cpu"]),
        ([TINY, "--config.planner.horizon=99"], ["planner.horizon", "99"]),
        ([], ["--config is required"]),
    ],
)
def test_mistakes_are_refused_before_anything_is_compiled(arguments, words):
    command = [sys.executable, "-m", "m3po_jax.cli.benchmark", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == 2, result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
