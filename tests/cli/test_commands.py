"""The commands around a stand-in for the training loop, so that nothing is compiled."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from m3po_jax.workdir.folder import read_config
from m3po_jax.workload import task_load
from tests.report.fake_runs import make_run

ROOT = pathlib.Path(__file__).parents[2]

STAND_IN = """
import dataclasses, json, os, sys, types
import m3po_jax.training
from m3po_jax.config import UserError
from m3po_jax.workdir.preemption import Preempted

assert "jax" not in sys.modules

class NumericsError(UserError):
    exit_code = 70

def train_and_evaluate(config, workdir, *, stop, sinks, quiet, debug):
    assert not stop()
    if os.environ.get("FAULT") == "numerics":
        raise NumericsError("losses of policy were not finite")
    if os.environ.get("FAULT") == "preempted":
        raise Preempted("Stopped at 5 env steps")
    if os.environ.get("FAULT") == "user":
        raise UserError("the disk is full")
    if os.environ.get("FAULT") == "interrupt":
        raise KeyboardInterrupt
    checkpoints = workdir / "checkpoints" / "5"
    checkpoints.mkdir(parents=True, exist_ok=True)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    got = {"config": dataclasses.asdict(config), "workdir": str(workdir), "cache": cache,
           "sinks": [type(sink).__name__ for sink in sinks], "quiet": quiet,
           "places": [dataclasses.asdict(s._place) for s in sinks if hasattr(s, "_place")]}
    print(json.dumps(got))
    return {}

def evaluate_workdir(config, workdir, *, held_out, episodes, policy, seed, step):
    task = {"return_mean": 812.25, "return_std": 3.0, "length_mean": 250.0,
            "episodes": episodes, "normalized": 0.81225}
    return {"env_steps": 7, "tasks": {config.tasks[0]: task}, "normalized_mean": 0.81225,
            "policy": policy, "seed": seed, "step": step}

for name, function in (("loop", train_and_evaluate), ("evaluator", evaluate_workdir)):
    module = types.ModuleType(f"m3po_jax.training.{name}")
    setattr(module, function.__name__, function)
    sys.modules[module.__name__] = module
    setattr(m3po_jax.training, name, module)
from m3po_jax.cli import COMMAND
COMMAND.run()
"""


def call(command, *arguments, **environment):
    kept = {key: value for key, value in os.environ.items() if "COMPIL" not in key}
    return subprocess.run(
        [sys.executable, "-c", STAND_IN.replace("COMMAND", command), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        timeout=60,
    )


def train(workdir, *arguments, **environment):
    flags = ["--config=toy", f"--workdir={workdir}"]
    return call("train", *flags, *arguments, **environment)


def test_the_loop_gets_the_config_and_the_workdir(tmp_path):
    result = train(
        tmp_path / "a run",
        "--config.train.total_env_steps=50000",
        "--config.planner.temperature=1",
        "--noconfig.planner.collect",
        "--config.exploration.scale=0",
        "--config.tasks=toy/PointReachB",
        "--config.tasks=toy/PointReachA?num_envs=4",
    )
    assert result.returncode == 0, result.stderr
    got = json.loads(result.stdout)
    assert got["workdir"] == str(tmp_path / "a run")
    assert got["config"]["train"]["total_env_steps"] == 50_000
    assert got["config"]["planner"]["temperature"] == 1.0
    assert got["config"]["planner"]["collect"] is False
    assert got["config"]["tasks"] == ["toy/PointReachB", "toy/PointReachA?num_envs=4"]
    assert json.loads((tmp_path / "a run/config.json").read_text())["config"] == got["config"]


def test_what_is_said_and_logged(tmp_path):
    plain = json.loads(train(tmp_path).stdout)
    assert (plain["quiet"], plain["sinks"]) == (False, ["TensorBoard"])
    assert plain["config"]["train"]["log_every"] == 1
    flags = ["--quiet", "--notensorboard", "--log_every=5", "--config.train.log_every=2"]
    other = json.loads(train(tmp_path, *flags).stdout)
    assert (other["quiet"], other["sinks"]) == (True, [])
    assert other["config"]["train"]["log_every"] == 5
    refused = train(tmp_path, "--log_every=0")
    assert (refused.returncode, "log_every" in refused.stderr) == (2, True)


def test_flags_say_where_in_wandb(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "wandb.py").write_text("")
    path = f"{there}:{ROOT}"
    flags = ["--wandb", "--wandb_entity=us", "--wandb_group=seeds", "--wandb_tags=a,b"]
    result = train(tmp_path / "run", *flags, PYTHONPATH=path, WANDB_PROJECT="")
    (place,) = json.loads(result.stdout)["places"]
    assert place == {"project": "m3po_jax", "entity": "us", "group": "seeds", "tags": ["a", "b"]}
    named = [*flags, "--wandb_project=mine"]
    for arguments, project in ((flags, "theirs"), (named, "mine")):
        result = train(tmp_path / "run", *arguments, PYTHONPATH=path, WANDB_PROJECT="theirs")
        assert json.loads(result.stdout)["places"][0]["project"] == project
    alone = train(tmp_path / "other", "--wandb_tags=a")
    assert alone.returncode == 2
    assert alone.stderr == "error: --wandb_tags has an effect only with --wandb; add it\n"
    assert not (tmp_path / "other").exists()


def test_a_missing_wandb_is_named_before_anything_is_made(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # find_spec finds nothing where a module is known to be None
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['wandb'] = None\n")
    result = train(tmp_path / "run", "--wandb", PYTHONPATH=f"{hidden}:{ROOT}")
    assert result.returncode == 2
    assert "pip install 'm3po_jax[wandb]'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_resume_refuse_and_overwrite(tmp_path):
    assert train(tmp_path).returncode == 0
    assert train(tmp_path).returncode == 0
    refused = train(tmp_path, "--config.seed=1")
    assert refused.returncode == 2
    assert "seed: 0 there, 1 asked for" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert train(tmp_path, "--config.seed=1", "--overwrite").returncode == 0
    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 1


def test_the_compile_cache_is_on_unless_switched_off(tmp_path):
    def cache(**environment):
        return json.loads(train(tmp_path, **environment).stdout)["cache"]

    assert cache(XDG_CACHE_HOME="/somewhere") == "/somewhere/m3po_jax/xla"
    assert cache(XDG_CACHE_HOME="", HOME="/home/me") == "/home/me/.cache/m3po_jax/xla"
    assert cache(M3PO_COMPILE_CACHE="/elsewhere") == "/elsewhere"
    assert cache(M3PO_COMPILE_CACHE="off") is None
    assert cache(M3PO_COMPILE_CACHE="/a", JAX_COMPILATION_CACHE_DIR="/b") == "/b"


def test_a_users_error_is_a_message_and_an_interrupt_has_its_code(tmp_path):
    full = train(tmp_path, FAULT="user")
    assert (full.returncode, full.stderr) == (2, "error: the disk is full\n")
    stopped = train(tmp_path, FAULT="interrupt")
    assert stopped.returncode == 130
    assert "resumes from the last checkpoint" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_evaluate_prints_a_table_or_json(tmp_path):
    assert train(tmp_path).returncode == 0
    table = call("evaluate", f"--workdir={tmp_path}")
    assert table.returncode == 0, table.stderr
    assert "toy/PointReachA" in table.stdout
    assert "812.2" in table.stdout
    flags = ["--json", "--episodes=3", "--policy=prior", "--seed=9"]
    record = json.loads(call("evaluate", f"--workdir={tmp_path}", *flags).stdout)
    assert record["tasks"]["toy/PointReachA"]["episodes"] == 3
    assert (record["policy"], record["seed"], record["step"]) == ("prior", 9, None)


def test_evaluate_takes_the_best_checkpoint_if_asked(tmp_path):
    assert train(tmp_path).returncode == 0
    steps = task_load(read_config(tmp_path)).env_steps
    refused = call("evaluate", f"--workdir={tmp_path}", "--checkpoint=best")
    assert (refused.returncode, "no checkpoint that was evaluated" in refused.stderr) == (2, True)
    tasks = {"toy/PointReachA": {"return_mean": 1.0}}
    (tmp_path / "eval.jsonl").write_text(json.dumps({"env_steps": 5 * steps, "tasks": tasks}))
    result = call("evaluate", f"--workdir={tmp_path}", "--checkpoint=best", "--json", "--save")
    assert json.loads(result.stdout)["step"] == 5
    assert result.stderr == f"The best checkpoint is the one at {5 * steps:,} env steps.\n"
    assert json.loads((tmp_path / "saved_eval.jsonl").read_text())["checkpoint"] == "best"


def test_evaluate_keeps_what_it_is_told_to_keep(tmp_path):
    assert train(tmp_path).returncode == 0
    assert call("evaluate", f"--workdir={tmp_path}").returncode == 0
    assert not (tmp_path / "saved_eval.jsonl").exists()
    flags = ["--policy=planner", "--policy=random", "--save", "--seed=4"]
    result = call("evaluate", f"--workdir={tmp_path}", *flags)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^(\w+):$", result.stdout, re.MULTILINE) == ["planner", "random"]
    saved = [json.loads(line) for line in (tmp_path / "saved_eval.jsonl").read_text().splitlines()]
    assert [(r["policy"], r["seed"], r["env_steps"]) for r in saved] == [
        ("planner", 4, 7),
        ("random", 4, 7),
    ]
    assert train(tmp_path, "--overwrite").returncode == 0
    assert not (tmp_path / "saved_eval.jsonl").exists()


def test_report_takes_folders_with_and_without_a_name(tmp_path):
    made = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a s0", "a s1"))]
    out = tmp_path / "my report"
    result = call("report", str(made[0]), f"--out={out}", str(made[1]))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"wrote {out}/report.html\n"
    assert "seed 1" not in result.stderr
    text = (out / "report.html").read_text()
    assert text.count("a s0") and text.count("a s1")
    missing = call("report", f"--workdir={made[0]}", "--workdir", str(tmp_path / "none"))
    assert missing.returncode == 2
    assert missing.stderr == (
        f"error: {tmp_path}/none holds no run (no config.json); train one there first\n"
    )
    nothing = call("report")
    assert (nothing.returncode, nothing.stderr.split(";")[0]) == (2, "error: --workdir is required")


def test_evaluate_needs_a_checkpoint(tmp_path):
    assert train(tmp_path).returncode == 0
    (tmp_path / "checkpoints" / "5").rmdir()
    result = call("evaluate", f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert "no checkpoint yet" in result.stderr


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("user", 2, "error: the disk is full\n"),
        ("numerics", 70, "error: losses of policy were not finite\n"),
        ("preempted", 75, "Stopped at 5 env steps\n"),
    ],
)
def test_exit_codes_and_messages(tmp_path, fault, code, message):
    result = train(tmp_path, FAULT=fault)
    assert (result.returncode, result.stderr) == (code, message)
    assert f"| {code} |" in (ROOT / "docs" / "reliability.md").read_text()
