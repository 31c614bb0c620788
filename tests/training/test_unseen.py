"""Tests of agents on variations that training never saw, and of a whole run of a family."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import ConfigError, from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.envs import held_out, registry
from m3po_jax.training import loop, stored_agent, unseen
from m3po_jax.training.evaluator import evaluate_workdir
from m3po_jax.workdir.folder import open_workdir, read_config
from m3po_jax.workdir.metrics import read_metrics
from m3po_jax.workdir.preemption import Preempted
from tests.integration import tiny_config
from tests.integration.saved_run import save_run

NAME = "dmc/PendulumSwingup"
FAMILY = (
    f"{NAME}?family=length:0.7..1.3,gear:0.7..1.5&size=3&impl=c&episode_length=16&action_repeat=2"
)
TASKS = ("toy/PointReachA?episode_length=8", f"{FAMILY}&context=given")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    experiment, state = save_run(folder, tiny_config.get_config(), TASKS)
    return folder, experiment, state


def test_held_out_variations_are_played_and_shown_in_two_lines(saved):
    folder, experiment, _ = saved
    config = read_config(folder)
    record = evaluate_workdir(config, folder, episodes=1, policy="prior", held_out=True)
    inside, beyond = f"{NAME} (held out, inside)", f"{NAME} (held out, beyond)"
    assert list(record["tasks"]) == [inside, beyond] and record["held_out"]
    names = held_out.config_of(config).variations
    assert [*record["tasks"][inside]["variations"]] == list(names[:3])
    assert [*record["tasks"][beyond]["variations"]] == list(names[3:])
    assert record["tasks"][beyond]["episodes"] == 3
    assert not set(names) & {spec.name for spec in experiment.env.specs}


def test_an_evaluation_has_one_record_for_the_family_with_each_variation(saved):
    folder, experiment, _ = saved
    record = evaluate_workdir(read_config(folder), folder, episodes=2, policy="prior")
    assert list(record["tasks"]) == ["toy/PointReachA", NAME]
    family = record["tasks"][NAME]
    assert family["episodes"] == 6
    assert list(family["variations"]) == [spec.name for spec in experiment.env.specs[1:]]
    means = list(family["variations"].values())
    assert family["return_mean"] == pytest.approx(np.mean(means), abs=1e-6)
    assert family["return_spread"] == pytest.approx(np.std(means), abs=1e-6)
    assert "variations" not in record["tasks"]["toy/PointReachA"]


def test_a_stored_agent_has_the_tasks_and_the_layout_of_the_run(saved):
    folder, experiment, state = saved
    agent = stored_agent.restore_agent(folder)
    assert agent.specs == experiment.env.specs
    assert agent.layout == experiment.env.layout
    task_id = jnp.arange(4)
    np.testing.assert_allclose(
        agent.networks.embed(agent.state.params.world_model, task_id),
        experiment.networks.embed(state.agent.params.world_model, task_id),
    )


def test_an_unseen_variation_gets_the_means_of_its_family(saved):
    _, experiment, state = saved
    specs = experiment.env.specs
    new = [dataclasses.replace(specs[2], name="new"), specs[0]]
    means = np.arange(4.0, dtype=np.float32)
    statistics = state.agent.statistics
    scale = statistics.plan_scale.replace(mean=jnp.asarray(means))
    agent = state.agent.replace(statistics=statistics.replace(plan_scale=scale))
    table = jnp.array([[9.0, 0, 0, 0], [3.0, 0, 4, 0], [0, 0.5, 0, 0], [0, 0.1, 0, 0]])
    model = agent.params.world_model
    model = {**model, "embedding": {**model["embedding"], "table": table}}
    agent = agent.replace(params=agent.params.replace(world_model=model))
    found = unseen.agent_for(agent, specs, tuple(new))
    np.testing.assert_allclose(found.statistics.plan_scale.mean, [2.0, 0.0])
    embedding = found.params.world_model["embedding"]
    # of embeddings as they act, with norms of at most 1
    np.testing.assert_allclose(
        embedding["table"], [[0.2, 0.2, 0.8 / 3, 0], [1, 0, 0, 0]], rtol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, embedding["context"], model["embedding"]["context"])


def test_without_a_family_or_a_model_nothing_is_held_out(saved):
    folder, _, _ = saved
    config = read_config(folder)
    with pytest.raises(ConfigError, match="needs a run with a family"):
        held_out.config_of(dataclasses.replace(config, tasks=TASKS[:1], variations=()))
    blind = dataclasses.replace(config.network, encoder="observation")
    with pytest.raises(ConfigError, match="--held_out needs a world model"):
        held_out.config_of(dataclasses.replace(config, network=blind))


@pytest.mark.slow
def test_a_run_of_a_family_that_was_stopped_ends_bit_equal(tmp_path):
    tree = tiny_config.get_config()
    tree.tasks = (TASKS[0], FAMILY)
    tree.replay.capacity = 640
    tree.train.total_env_steps = 640
    tree.train.warmup_env_steps = 64
    config = registry.settled(from_config_dict(tree), None)
    validate(config)

    def train(name, stop_after):
        asked = iter(range(stop_after))
        with open_workdir(tmp_path / name, config):
            return loop.train_and_evaluate(
                config, tmp_path / name, stop=lambda: next(asked, None) is None, quiet=True
            )

    whole = train("whole", 1000)
    with pytest.raises(Preempted):
        train("stopped", 3)
    resumed = train("stopped", 1000)
    for record in (whole, resumed):
        record.pop("wall_seconds")
    assert json.dumps(resumed) == json.dumps(whole)
    ours, theirs = (read_metrics(tmp_path / name) for name in ("whole", "stopped"))
    assert f"rollout/episode_return_spread/{NAME}" in ours
    for column in ours:
        if column not in ("wall_seconds", "env_steps_per_second"):
            np.testing.assert_array_equal(ours[column], theirs[column], err_msg=column)
    assert len(json.loads((tmp_path / "whole" / "config.json").read_text())["config"]["variations"])
