"""What the advantages of imagined samples may depend on, and how large noise among them gets."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config as config_lib
from m3po_jax.learning import policy_update
from m3po_jax.ops import statistics
from m3po_jax.world_model.imagine import Imagined
from m3po_jax.world_model.latent import TaskContext

NETWORKS = types.SimpleNamespace(
    action_size=1,
    world_model=types.SimpleNamespace(num_tasks=1, has_termination=True),
    policy=lambda params, z, e, mask: (jnp.zeros((*z.shape[:-1], 1)), jnp.ones((*z.shape[:-1], 1))),
)
AGENT = types.SimpleNamespace(
    params=types.SimpleNamespace(world_model=None, policy=None),
    statistics=types.SimpleNamespace(reward=statistics.init_running_range(1)),
)


def parts_of(discount=0.99, **policy):
    """What an iteration of one task is made of, with settings of the policy."""
    config = config_lib.Config(policy=config_lib.PolicyConfig(**policy))
    env = types.SimpleNamespace(discount=np.array([discount], np.float32))
    return types.SimpleNamespace(
        env=env, networks=NETWORKS, config=config, axis_name=(), num_tasks=1
    )


def context_of(shape):
    return TaskContext(jnp.zeros((*shape, 1)), jnp.ones((*shape, 1)))


class Worthless:
    """A model whose states are all worth nothing."""

    def two_heads(self, key):
        return self

    def state_value(self, z, context):
        return jnp.zeros(z.shape[:-1])


def imagined_samples(monkeypatch, reward, continuation):
    """Weights and advantages `[B, H]` of imagined rewards and continuations `[H, B]`."""
    horizon, batch = reward.shape
    z, u = jnp.zeros((horizon, batch, 2)), jnp.zeros((horizon, batch, 1))
    imagined = Imagined(z, z, u, u, u + 1.0, jnp.asarray(reward), jnp.asarray(continuation))
    monkeypatch.setattr(policy_update, "target_model", lambda *args: Worthless())
    monkeypatch.setattr(policy_update, "task_context", lambda *args: context_of((batch,)))
    monkeypatch.setattr(policy_update, "imagine", lambda *args: imagined)
    parts = parts_of(0.9, imagined_horizon=horizon)
    tasks, key = np.zeros(batch, np.int32), jax.random.key(0)
    data = policy_update.imagined_policy_data(AGENT, z[0], tasks, key, parts=parts)
    return np.asarray(data.weight).reshape(batch, -1), np.asarray(data.advantage).reshape(batch, -1)


REWARD = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def test_what_is_imagined_behind_an_end_moves_no_other_advantage(monkeypatch):
    continuation = np.ones_like(REWARD)
    continuation[0, :3] = 1e-4  # three of six end at their first step, all but for certain
    wild = REWARD.copy()
    wild[1:, :3] = 5.0
    _, plain = imagined_samples(monkeypatch, REWARD, continuation)
    weight, advantage = imagined_samples(monkeypatch, wild, continuation)
    np.testing.assert_allclose(weight[:3], [[1.0, 1e-4, 1e-4]] * 3)
    real = weight > 0.5
    np.testing.assert_allclose(advantage[real], plain[real], atol=0.05)
    assert np.average(advantage, weights=weight) == pytest.approx(0.0, abs=1e-5)
    assert np.average(advantage**2, weights=weight) == pytest.approx(1.0, rel=1e-3)


def test_what_can_not_be_reached_has_no_advantage(monkeypatch):
    continuation = np.ones_like(REWARD)
    continuation[0, :3] = 0.0
    wild = REWARD.copy()
    wild[1:, :3] = 1e3
    _, plain = imagined_samples(monkeypatch, REWARD, continuation)
    weight, advantage = imagined_samples(monkeypatch, wild, continuation)
    np.testing.assert_array_equal(advantage, plain)
    assert not advantage[weight == 0.0].any()


def test_without_an_end_all_imagined_samples_count_alike(monkeypatch):
    weight, advantage = imagined_samples(monkeypatch, REWARD, np.ones_like(REWARD))
    np.testing.assert_array_equal(weight, 1.0)
    assert advantage.mean() == pytest.approx(0.0, abs=1e-6)
    assert advantage.std() == pytest.approx(1.0, rel=1e-4)


def test_advantages_far_below_the_range_of_rewards_stay_small():
    """Noise is not blown up to deviation 1, and a change of the rewards' unit changes nothing."""
    parts = parts_of()
    noise = np.array([-1.0, 1.0], np.float32)
    zeros, ones = np.zeros(2, int), np.ones(2, np.float32)

    def normalized(advantage, best):
        args = (np.array([0.0, best], np.float32), zeros, ones)
        reward = statistics.update_running_range(statistics.init_running_range(1), *args)
        agent = types.SimpleNamespace(statistics=types.SimpleNamespace(reward=reward))
        return policy_update._normalized_advantage(agent, advantage, zeros, ones, parts=parts)

    # Divided by max(1, 0.005 * 2), max(0.001, 0.005 * 2) and max(100, 0.005 * 200).
    np.testing.assert_allclose(normalized(noise, 2.0), noise, rtol=1e-4)
    np.testing.assert_allclose(normalized(0.001 * noise, 2.0), 0.1 * noise, rtol=1e-3)
    np.testing.assert_allclose(normalized(100.0 * noise, 200.0), noise, rtol=1e-4)
