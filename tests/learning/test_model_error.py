"""Errors by horizon on a model and data whose errors can be told beforehand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import Config, EnvConfig, NetworkConfig, ReplayConfig
from m3po_jax.learning import model_error, state
from m3po_jax.replay import buffer
from m3po_jax.training import sharding
from m3po_jax.training.experiment import make_experiment
from m3po_jax.types import Trajectory

LENGTH, NUM_ENVS = 40, 3
NETWORK = NetworkConfig(encoder_width=8, mlp_width=8, latent_size=8, embedding_size=4, num_bins=11)


@pytest.fixture(scope="module")
def experiment():
    return make_experiment(
        Config(
            tasks=("toy/PointReachA", "toy/TerminatingPole?num_envs=2"),
            env=EnvConfig(num_envs=NUM_ENVS),
            network=NETWORK,
            replay=ReplayConfig(capacity=LENGTH * 5),
        )
    )


@pytest.fixture(scope="module")
def agent(experiment):
    """At its start every reward head predicts 0, so its error is the reward itself."""
    return state.init_agent(experiment.networks, experiment.optimizers, jax.random.key(0))


def replay_of(experiment, reward, truncation=None):
    """A replay of constant observations with these rewards `[T]` in all environments."""
    env = experiment.env
    lead = (LENGTH, env.batch_size)
    column = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32)[:, None], lead)  # noqa: E731
    zeros = jnp.zeros(lead)
    trajectory = Trajectory(
        observation=jnp.ones((*lead, env.observation_size)),
        pre_tanh_action=jnp.zeros((*lead, env.action_size)),
        reward=column(reward),
        termination=zeros,
        truncation=zeros if truncation is None else column(truncation),
        valid=jnp.ones(lead),
        next_observation=jnp.ones((*lead, env.observation_size)),
        task_id=jnp.zeros(lead, jnp.int32),
        behaviour_mean=jnp.zeros((*lead, env.action_size)),
        behaviour_std=jnp.ones((*lead, env.action_size)),
    )
    empty = buffer.init(trajectory, batch_size=env.batch_size, capacity_per_env=LENGTH)
    return buffer.add(empty, trajectory)


@pytest.fixture(scope="module")
def program(experiment):
    return sharding.shard_model_errors(experiment.mesh, experiment)


def test_a_model_that_predicts_nothing_errs_by_the_reward(experiment, agent, program):
    errors = program(agent, replay_of(experiment, np.full(LENGTH, 3.0)), jax.random.key(1))
    shape = (model_error.MAX_HORIZON, 2)
    assert errors.reward.shape == errors.latent.shape == shape
    np.testing.assert_allclose(errors.reward, np.full(shape, 3.0), rtol=1e-4)
    # constant rewards and observations: holding the last one is right
    np.testing.assert_allclose(errors.reward_persistence, np.zeros(shape), atol=1e-6)
    np.testing.assert_allclose(errors.latent_persistence, np.zeros(shape), atol=1e-6)
    assert np.all(errors.latent > 1e-4)  # an untrained model moves away


def test_persistence_errs_by_the_slope_times_the_horizon(experiment, agent, program):
    errors = program(agent, replay_of(experiment, 0.5 * np.arange(LENGTH)), jax.random.key(2))
    ahead = np.arange(1, model_error.MAX_HORIZON + 1)
    np.testing.assert_allclose(errors.reward_persistence[:, 0], 0.5 * ahead, rtol=1e-5)


def test_nothing_is_measured_past_the_end_of_an_episode(experiment, agent, program):
    """Episodes of 6 steps: the step that persistence holds and at most 5 ahead."""
    truncation = np.arange(1, LENGTH + 1) % 6 == 0
    errors = program(agent, replay_of(experiment, np.ones(LENGTH), truncation), jax.random.key(3))
    record = model_error.as_record(jax.device_get(errors), ("a", "b"))
    assert set(record) == {"a", "b"}
    for values in record["b"].values():
        assert None not in values[:5]
        assert set(values[5:]) == {None}
    assert "NaN" not in json.dumps(record)


def test_a_replay_that_holds_too_little_gives_nothing(experiment, agent, program):
    held = replay_of(experiment, np.ones(LENGTH)).replace(size=jnp.asarray(4, jnp.int32))
    assert np.all(np.isnan(program(agent, held, jax.random.key(4)).reward))
