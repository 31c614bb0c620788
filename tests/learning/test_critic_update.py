"""What a fault of the physics may reach of what the fresh rollout teaches, by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config as config_lib
from m3po_jax.learning import critic_update
from m3po_jax.learning.values import continues
from m3po_jax.types import Trajectory
from m3po_jax.world_model.latent import TaskContext

GAMMA = jnp.full(1, 0.99)


def column(*values):
    return np.array(values, np.float32)[:, None]


def trajectory(*, valid, termination=None, truncation=None):
    """One environment that pays 1 for each valid step; its faults are truncations."""
    zeros = np.zeros_like(valid)
    state, action = np.zeros((*valid.shape, 2), np.float32), np.zeros((*valid.shape, 1), np.float32)
    return Trajectory(
        observation=state,
        pre_tanh_action=action,
        reward=valid,
        termination=zeros if termination is None else termination,
        truncation=1.0 - valid if truncation is None else truncation,
        valid=valid,
        next_observation=state,
        task_id=np.zeros(valid.shape, np.int32),
        behaviour_mean=action,
        behaviour_std=action + 1.0,
    )


@pytest.fixture
def worth_100(monkeypatch):
    """Every state is worth 100: with rewards of 1 and gamma 0.99 nothing is to be learned."""

    def encode(networks, agent, trajectory):
        shape = trajectory.valid.shape
        context = TaskContext(jnp.zeros((*shape, 1)), jnp.ones((*shape, 1)))
        return context, trajectory.observation, trajectory.next_observation

    value = lambda networks, agent, z, e: jnp.full(z.shape[:-1], 100.0)  # noqa: E731
    monkeypatch.setattr(critic_update, "encode_trajectory", encode)
    monkeypatch.setattr(critic_update, "model_free_value", value)


def test_the_next_row_counts_within_an_episode_and_without_a_fault():
    steps = trajectory(
        valid=column(1, 1, 1, 0, 1, 0),
        termination=column(1, 0, 0, 0, 0, 0),
        truncation=column(0, 0, 0, 1, 0, 1),
    )
    np.testing.assert_array_equal(continues(steps), column(0, 1, 0, 0, 0, 0))


def test_without_a_fault_only_the_end_of_an_episode_stops_a_return():
    truncation = column(0, 1, 0, 0)
    steps = trajectory(valid=np.ones((4, 1), np.float32), truncation=truncation)
    np.testing.assert_array_equal(continues(steps), 1.0 - truncation)


def parts_of(config):
    """What an iteration without networks is made of."""
    return types.SimpleNamespace(networks=None, config=config, axis_name=(), num_tasks=1)


def test_a_fault_leaks_into_no_return(worth_100, monkeypatch):
    monkeypatch.setattr(critic_update, "fit", lambda *args, **kwargs: (None, {}))
    config = config_lib.Config(critic=config_lib.CriticConfig(lambda_=0.95))
    steps = trajectory(valid=column(1, 0, 1))
    _, metrics = critic_update.critic_update(None, steps, GAMMA, None, parts=parts_of(config))
    # Both valid steps: 1 + 0.99 * 100. The fault pays nothing and leads nowhere: 0.99 * 100.
    assert float(metrics["critic/target"]) == pytest.approx(100.0, abs=1e-3)
