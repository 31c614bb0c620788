"""The recipe of docs/howto/sweeps.md: a trial that falls behind is ended, a good one counts."""

import sys
import types

import pytest

import m3po_jax
from tests.docs.test_pages import blocks

LIMIT = 60  # lines


class Pruned(Exception):
    pass


class Trial:
    """Proposes the middle of each range, and prunes below 0.5 once past 6,000 env steps."""

    number = 7

    def __init__(self):
        self.asked, self.reported = {}, []

    def suggest_float(self, name, low, high, *, log=False):
        self.asked[name] = (low * high) ** 0.5 if log else (low + high) / 2.0
        return self.asked[name]

    def report(self, value, step):
        self.reported.append((step, value))

    def should_prune(self):
        return any(step > 6_000 and value < 0.5 for step, value in self.reported)


def recipe(monkeypatch, scores):
    """The recipe's functions, with training that gives these scores every 6,000 steps."""
    optuna = types.ModuleType("optuna")
    optuna.TrialPruned = Pruned
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    seen = []

    def train(config, workdir, *, sinks, quiet):
        seen.append((config, workdir))
        sinks[0].start_after(0)
        for index, score in enumerate(scores):
            sinks[0].write({"env_steps": 6_000 * index})
            record = {"env_steps": 6_000 * index, "normalized_mean": score}
            sinks[0].write_evaluation(record)
        sinks[0].close()
        return record

    monkeypatch.setattr(m3po_jax, "train_and_evaluate", train)
    (block,) = blocks("howto/sweeps.md", "python")
    assert len(block.strip().splitlines()) < LIMIT
    namespace = {"__name__": "sweep"}
    exec(compile(block, "sweep.py", "exec"), namespace)
    return namespace["objective"], seen


def test_a_trial_returns_its_last_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objective, seen = recipe(monkeypatch, [0.1, 0.3, None, 0.9])
    trial = Trial()
    monkeypatch.setattr(trial, "should_prune", lambda: False)
    assert objective(trial) == 0.9
    assert trial.reported == [(0, 0.1), (6_000, 0.3), (18_000, 0.9)]
    ((config, workdir),) = seen
    assert workdir == tmp_path / "runs" / "sweep" / "7"
    assert config.policy.kl_target == trial.asked["kl_target"]
    assert config.world_model.learning_rate == trial.asked["learning_rate"]


def test_a_trial_that_falls_behind_is_pruned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objective, _ = recipe(monkeypatch, [0.1, 0.3, 0.4, 0.9])
    trial = Trial()
    with pytest.raises(Pruned):
        objective(trial)
    assert [step for step, _ in trial.reported] == [0, 6_000, 12_000]
    # The folder is free again, and the next trial starts.
    with m3po_jax.open_workdir(tmp_path / "runs" / "sweep" / "7", read(tmp_path)):
        pass


def read(tmp_path):
    from m3po_jax.workdir.folder import read_config

    return read_config(tmp_path / "runs" / "sweep" / "7")


def test_without_optuna_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    (block,) = blocks("howto/sweeps.md", "python")
    with pytest.raises(SystemExit, match="needs Optuna.*pip install optuna"):
        exec(compile(block, "sweep.py", "exec"), {"__name__": "sweep"})
