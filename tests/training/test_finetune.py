"""A run that starts from another: its first checkpoint, its first scores, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.training import finetune, finetune_config
from m3po_jax.training.checkpoint import Checkpointer
from m3po_jax.training.experiment import make_experiment
from m3po_jax.training.workdir import open_workdir, read_config
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
    config = from_config_dict(tree)
    config = finetune_config.adapted_config(config, read_config(source[0]), embedding="mean")
    folder = tmp_path_factory.mktemp("new")
    with open_workdir(folder, config) as run:
        finetune.begin(config, run.path, source[0], embedding="mean", replay=True)
    return folder, config


def test_the_first_checkpoint_is_a_start_that_training_goes_on_from(source, begun):
    folder, config = begun
    new = make_experiment(config)
    with Checkpointer(folder) as checkpointer:
        assert checkpointer.latest_step() == 0
        state, meta = checkpointer.restore_latest(new.state_shapes())
    assert meta["env_steps"] == 0 and meta["from"] == str(source[0])
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


def test_a_run_that_has_begun_is_left_as_it_is(source, begun):
    folder, config = begun
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    finetune.begin(config, folder, source[0], embedding="mean", replay=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_source_without_a_model_is_refused(source):
    config = read_config(source[0])
    network = dataclasses.replace(config.network, encoder="observation")
    with pytest.raises(finetune_config.ConfigError, match="only an agent with a world model"):
        finetune_config.adapted_config(
            config, dataclasses.replace(config, network=network), embedding="mean"
        )
