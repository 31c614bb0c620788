"""The table of an experiment's runs: what is made, resumed, kept and left alone."""

import csv
import dataclasses
import json
import pathlib
import sys
import threading

import pytest

from experiments import ablation, distractors, parallelism, runs, sample_efficiency, transfer
from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate

RUN = runs.PlannedRun("m3po", "two", 3, ("toy/PointReachA", "toy/PointReachB"))


def write_workdir(folder: pathlib.Path, steps, total=200, commit="abc"):
    """What a run of two tasks leaves behind after evaluations at `steps` env steps."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "train": {"total_env_steps": total, "updates_per_transition": 1.0},
        "env": {"num_envs": 4, "action_repeat": 2},
    }
    settings = {"config": config, "commit": commit, "versions": {"jax": "0.0"}}
    (folder / "config.json").write_text(json.dumps(settings))
    result = {"return_mean": 12.5, "return_std": 1.0, "episodes": 8, "normalized": 0.25}
    lines = [
        json.dumps(
            {
                "env_steps": step,
                "env_steps_per_task": step / 2,
                "wall_seconds": 1.5,
                "policy": "planner",
                "tasks": {task: result for task in RUN.tasks},
            }
        )
        for step in steps
    ]
    (folder / "eval.jsonl").write_text("\n".join(lines) + "\n")


def test_rows_hold_every_evaluation_and_task(tmp_path):
    write_workdir(tmp_path, [100, 200])
    rows = runs.rows_of(RUN, tmp_path)
    assert [(row["env_steps_per_task"], row["task"]) for row in rows] == [
        ("50", "toy/PointReachA"),
        ("50", "toy/PointReachB"),
        ("100", "toy/PointReachA"),
        ("100", "toy/PointReachB"),
    ]
    assert {row["finished"] for row in rows} == {"yes"}
    assert rows[0]["return_mean"] == "12.5" and rows[0]["normalized"] == "0.25"
    assert list(rows[0]) == list(runs.COLUMNS)
    assert rows[0]["kl_max"] == "nan"
    lines = ("env_steps,iteration,policy/kl_max", "8,1,nan", "16,2,0.05", "24,3,0.02", "32,4,nan")
    (tmp_path / "metrics.csv").write_text("".join(f"{line}\n" for line in lines))
    assert {row["kl_max"] for row in runs.rows_of(RUN, tmp_path)} == {"0.05"}
    write_workdir(tmp_path, [100])
    assert {row["finished"] for row in runs.rows_of(RUN, tmp_path)} == {"no"}


@pytest.fixture
def fake_training(monkeypatch, tmp_path):
    """Replaces the training process by one that writes a workdir at once; lists the calls."""
    calls = []

    def train(run, workdir, core):
        calls.append((run.name, core))
        if run.seed == 13:
            return "ended with exit code 1"
        write_workdir(workdir, [100, 200])
        return None

    monkeypatch.setattr(runs, "_train", train)
    return calls


def test_only_missing_runs_are_made_and_old_rows_stay(fake_training, tmp_path, capsys):
    table = tmp_path / "table.csv"
    other = runs.PlannedRun("ppo", "two", 3, RUN.tasks)
    runs.execute([RUN], table, tmp_path / "a", cores=[0])
    # On another machine, without the workdir of the first run.
    runs.execute([RUN, other], table, tmp_path / "b", cores=[0, 1])
    assert [name for name, _ in fake_training] == ["m3po-two-3", "ppo-two-3"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {runs.run_of(row) for row in rows} == {("m3po", "two", "3"), ("ppo", "two", "3")}
    assert len(rows) == 8
    assert "2 of 2 runs" not in capsys.readouterr().out
    runs.execute([RUN, other], table, tmp_path / "b", cores=[0])
    assert len(fake_training) == 2
    assert "2 of 2 runs are in" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_the_others_go_on(fake_training, tmp_path, capsys):
    table = tmp_path / "table.csv"
    bad = runs.PlannedRun("m3po", "two", 13, RUN.tasks)
    runs.execute([bad, RUN], table, tmp_path, cores=[0])
    assert {row["seed"] for row in runs.read_table(table)} == {"3"}
    assert "m3po-two-13: ended with exit code 1" in capsys.readouterr().out


def test_an_unfinished_run_is_taken_up_again(fake_training, tmp_path):
    table = tmp_path / "table.csv"
    write_workdir(tmp_path / "partial", [100])
    runs.write_table(table, runs.rows_of(RUN, tmp_path / "partial"))
    runs.execute([RUN], table, tmp_path, cores=[0])
    assert [name for name, _ in fake_training] == ["m3po-two-3"]
    assert {row["finished"] for row in runs.read_table(table)} == {"yes"}


def test_the_command_is_a_training_command():
    run = runs.PlannedRun(
        "tdmpc2", "x", 4, ("toy/PointReachA",), (("train.log_every", 3),), "tdmpc2 b"
    )
    command = run.command(pathlib.Path("/w"))
    assert command[:3] == [sys.executable, "-m", "m3po_jax.cli.train"]
    assert command[3:] == [
        "--config=experiments/configs/baselines/tdmpc2.py:toy/PointReachA",
        "--workdir=/w",
        "--config.seed=4",
        "--config.train.log_every=3",
    ]
    assert run.name == "tdmpc2_b-x-4"


def test_a_run_from_another_is_the_finetune_command():
    run = dataclasses.replace(RUN, variant="finetuned", start=RUN)
    command = run.command(pathlib.Path("/w/finetuned-two-3"))
    assert command[:4] == [
        *(sys.executable, "-m", "m3po_jax.cli.finetune"),
        "--from=/w/m3po-two-3",
    ]
    assert command[4:] == RUN.command(pathlib.Path("/w/finetuned-two-3"))[3:]


def test_a_run_waits_for_the_one_it_starts_from(fake_training, tmp_path, monkeypatch):
    ended, fake = [], runs._train
    other_began = threading.Event()

    def slow(run, workdir, core):
        if run == RUN:
            assert other_began.wait(20.0)  # a free core takes the next run that waits for none
        other_began.set()
        result = fake(run, workdir, core)
        ended.append(run.name)
        return result

    monkeypatch.setattr(runs, "_train", slow)
    after = dataclasses.replace(RUN, variant="finetuned", start=RUN)
    other = dataclasses.replace(RUN, variant="other")
    runs.execute([after, RUN, other], tmp_path / "table.csv", tmp_path, cores=[0, 1])
    assert sorted(ended) == ["finetuned-two-3", "m3po-two-3", "other-two-3"]
    assert ended.index("m3po-two-3") < ended.index("finetuned-two-3")


def test_a_run_from_one_that_failed_is_not_started(fake_training, tmp_path, capsys):
    bad = runs.PlannedRun("m3po", "two", 13, RUN.tasks)
    after = dataclasses.replace(RUN, start=bad)
    runs.execute([bad, after], tmp_path / "table.csv", tmp_path, cores=[0, 1])
    assert [name for name, _ in fake_training] == ["m3po-two-13"]
    assert "m3po-two-3: not started, the run that it starts from" in capsys.readouterr().out


def test_a_start_is_made_again_only_where_its_workdir_is_gone(fake_training, tmp_path):
    table = tmp_path / "table.csv"
    first, second = (
        dataclasses.replace(RUN, seed=seed, variant="finetuned", start=RUN) for seed in (0, 1)
    )
    runs.execute([first], table, tmp_path / "a", cores=[0])
    runs.execute([RUN, first, second], table, tmp_path / "a", cores=[0])
    names = ["m3po-two-3", "finetuned-two-0", "finetuned-two-1"]
    assert [name for name, _ in fake_training] == names
    third = dataclasses.replace(first, seed=2)
    write_workdir(tmp_path / "b" / RUN.name, [100])
    runs.execute([RUN, first, second, third], table, tmp_path / "b", cores=[0])
    assert [name for name, _ in fake_training[3:]] == ["m3po-two-3", "finetuned-two-2"]


def test_no_run_is_started_when_the_time_is_up(fake_training, tmp_path, capsys):
    runs.execute([RUN], tmp_path / "table.csv", tmp_path, cores=[0], minutes=0.0)
    assert not fake_training
    assert "m3po-two-3: not started, the time is up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "count"),
    [(sample_efficiency, 52), (parallelism, 36), (ablation, 27), (distractors, 18), (transfer, 36)],
)
def test_every_run_of_the_experiments_is_valid(module, count):
    import importlib

    assert len({run.name for run in module.RUNS}) == len(module.RUNS) == count
    for run in module.RUNS:
        config = importlib.import_module(f"experiments.configs.baselines.{run.agent}").get_config(
            ",".join(run.tasks)
        )
        for key, value in run.overrides:
            part, _, name = key.partition(".")
            config[part][name] = value
        validate(from_config_dict(config))
