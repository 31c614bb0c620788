"""A run that starts from another: its first checkpoint, its first scores, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from m3po_jax.config import ConfigError, from_config_dict
from m3po_jax.finetuning import begin
from m3po_jax.finetuning.compatibility import Origin, adapted_config, startable_config
from m3po_jax.training.experiment import make_experiment
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError
from m3po_jax.workdir.folder import open_workdir, read_config
from tests.integration.saved_run import save_run
from tests.integration.tiny_config import get_config

NEW = ("toy/TerminatingPole", "toy/PointReachA")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    experiment, state = save_run(folder, get_config(), ("toy/PointReachA", "toy/PointReachB"))
    return folder, experiment, state


@pytest.fixture(scope="module")
def begun(source, tmp_path_factory):
    """Folder of a new run with its first checkpoint, and its settings."""
    tree = get_config()
    tree.tasks = NEW
    folder, origin = tmp_path_factory.mktemp("new"), Origin(source[0], replay=True)
    config = startable_config(from_config_dict(tree), folder, origin, overwrite=False)
    with open_workdir(folder, config, origin=origin.as_record()) as run:
        lines = begin.begin(config, run.path, origin)
    assert lines == [
        "toy/TerminatingPole starts from the mean embedding of toy/PointReachA, toy/PointReachB"
    ]
    return folder, config


def test_the_first_checkpoint_is_a_start_that_training_goes_on_from(source, begun):
    folder, config = begun
    new = make_experiment(config)
    with Checkpointer(folder) as checkpointer:
        assert checkpointer.latest_step() == 0
        state, meta = checkpointer.restore_latest(new.state_shapes())
    origin = {"from": str(source[0]), "embedding": "mean", "replay": "old"}
    assert meta["env_steps"] == 0 and meta["origin"] == origin
    assert [task["name"] for task in meta["tasks"]] == list(NEW)
    assert int(state.iteration) == 0
    jax.tree.map(
        np.testing.assert_array_equal,
        state.agent.params.world_model["dynamics_norm"],
        source[2].agent.params.world_model["dynamics_norm"],
    )


def test_the_first_line_of_scores_is_before_any_learning(begun):
    folder, config = begun
    (line,) = (folder / "eval.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["env_steps"] == 0 and set(record["tasks"]) == set(NEW)
    assert record["tasks"]["toy/PointReachA"]["episodes"] == config.train.eval_episodes
    assert record["embedding_sources"] == {
        "toy/TerminatingPole": ["toy/PointReachA", "toy/PointReachB"],
        "toy/PointReachA": ["toy/PointReachA"],
    }


def test_a_run_that_has_begun_is_left_as_it_is(source, begun):
    folder, config = begun
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert begin.begin(config, folder, Origin(source[0], replay=True)) is None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_that_has_begun_needs_the_old_one_no_longer(begun, tmp_path):
    folder, config = begun
    asked = from_config_dict(get_config())
    found = startable_config(asked, folder, Origin(tmp_path / "gone"), overwrite=False)
    assert found.network.embedding_size == config.network.embedding_size


@pytest.mark.parametrize("lost", ["metrics.csv", "eval.jsonl"])
def test_a_run_that_lost_its_checkpoints_is_not_started_again(begun, source, tmp_path, lost):
    text = {"metrics.csv": "env_steps\n8\n", "eval.jsonl": '{"env_steps": 8}\n'}[lost]
    (tmp_path / lost).write_text(text)
    with pytest.raises(CheckpointError, match="metrics of a run but no checkpoint"):
        begin.begin(begun[1], tmp_path, Origin(source[0]))
    assert (tmp_path / lost).read_text() == text


def test_an_old_run_is_never_the_new_one(source):
    config = read_config(source[0])
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is the run to start from, which is not modified"):
            startable_config(
                config, source[0] / ".." / source[0].name, Origin(source[0]), overwrite=overwrite
            )


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        ("?num_envs=4", "", r"has num_envs = 4 and had 2; give it \?num_envs=2"),
        ("", "?action_repeat=2", r"has action_repeat = 1 and had 2; give it \?action_repeat=2"),
        (
            "?distractors=3",
            "",
            "has distractors = 3 and had None; name the task without distractors",
        ),
    ],
)
def test_steps_of_another_task_of_the_same_name_are_refused_at_once(now, before, words):
    configs = []
    for options in (now, before):
        tree = get_config()
        tree.tasks = ("toy/TerminatingPole", f"toy/PointReachA{options}")
        configs.append(from_config_dict(tree))
    adapted_config(*configs, Origin("old"))
    with pytest.raises(ConfigError, match=f"--replay=old: toy/PointReachA {words}"):
        adapted_config(*configs, Origin("old", replay=True))


def test_a_source_without_a_model_is_refused(source):
    config = read_config(source[0])
    network = dataclasses.replace(config.network, encoder="observation")
    with pytest.raises(ConfigError, match="only an agent with a world model"):
        adapted_config(config, dataclasses.replace(config, network=network), Origin(source[0]))
