"""A recorded episode is the one that the agent plays, with beliefs that the model holds."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from m3po_jax.config import ConfigError, from_config_dict
from m3po_jax.envs import registry
from m3po_jax.learning import state
from m3po_jax.training import recording
from m3po_jax.training.experiment import make_experiment
from tests.integration.tiny_config import get_config

TASKS = ("toy/LinearQuadratic", "toy/TerminatingPole?action_repeat=2")


class Seen:
    """A toy environment with a picture: its observation."""

    def __init__(self, environment):
        self._environment = environment
        self.seconds_per_step = 0.1

    def pose(self, state):
        return state.observation

    def __getattr__(self, name):
        return getattr(self._environment, name)


@pytest.fixture(scope="module")
def config():
    settings = get_config()
    settings.tasks = TASKS
    return from_config_dict(settings)


@pytest.fixture(scope="module")
def restored(config):
    """An agent at its start, in place of a saved one."""
    make = registry.make_env
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "make_env", lambda *request: Seen(make(*request)))
        experiment = make_experiment(config)
    agent = state.init_agent(experiment.networks, experiment.optimizers, jax.random.key(3))
    return experiment, types.SimpleNamespace(agent=agent), {}


@pytest.fixture
def play(config, restored, monkeypatch):
    monkeypatch.setattr(recording, "restore_run", lambda *_, **__: restored)

    def run(task, policy, seed=0):
        return recording.record_episode(config, "run", task=task, policy=policy, seed=seed)

    return run


def test_an_episode_is_recorded_whole(play):
    made = play("toy/LinearQuadratic", "planner")
    assert made.reward.shape == (50,)
    assert made.poses.shape == (50, 3)
    assert made.imagined.shape == (50, 2)
    assert made.seconds_per_step == pytest.approx(0.1)
    assert not made.terminated
    # the reward is that of the pose before the step and some action cost
    state_cost = 0.2 * (made.poses[:, 0] ** 2 + made.poses[:, 2] ** 2)
    assert np.all(made.reward <= -state_cost + 1e-5)
    # reward and value heads predict 0 before any update
    np.testing.assert_allclose(made.imagined, 0.0, atol=1e-3)
    np.testing.assert_allclose(made.predicted, 0.0, atol=1e-3)


def test_an_episode_ends_where_the_task_ends_it(play):
    made = play("toy/TerminatingPole", "prior")
    assert 1 <= len(made.reward) < 25
    assert made.terminated
    assert made.seconds_per_step == pytest.approx(0.2)
    assert len(made.poses) == len(made.imagined) == len(made.predicted) == len(made.reward)
    again = play("toy/TerminatingPole", "prior")
    np.testing.assert_array_equal(made.poses, again.poses)
    other = play("toy/TerminatingPole", "prior", seed=1)
    assert not np.array_equal(made.poses[0], other.poses[0])


def test_what_cannot_be_played_is_refused(config, play):
    with pytest.raises(ConfigError, match="no task 'toy/PointReachA'"):
        play("toy/PointReachA", "prior")
    blind = dataclasses.replace(
        config, network=dataclasses.replace(config.network, encoder="observation")
    )
    with pytest.raises(ConfigError, match="no world model"):
        recording.record_episode(blind, "run", task="toy/LinearQuadratic", policy="planner", seed=0)
