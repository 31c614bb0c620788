"""Tests of the toy tasks' optima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.envs import base, toy
from m3po_jax.envs.catalog import CATALOG


def _rollout(environment, policy, *, num_envs=64, key=None):
    """Returns first observations, returns, greatest action and number of terminations."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_envs)
    start = jax.vmap(environment.reset)(keys)

    def step(carry, t):
        state, alive = carry
        action = policy(state.observation, t)
        state = jax.vmap(environment.step)(state, action)
        out = alive * state.reward, jnp.max(jnp.abs(action))
        return (state, alive * (1.0 - state.termination)), out

    (_, alive), (rewards, largest) = jax.lax.scan(
        step, (start, jnp.ones(num_envs)), jnp.arange(environment.episode_length)
    )
    return start.observation, rewards.sum(0), largest.max(), num_envs - alive.sum()


def _random_policy(action_size):
    def policy(observation, t):
        shape = (observation.shape[0], action_size)
        return jax.random.uniform(jax.random.key(t), shape, minval=-1.0, maxval=1.0)

    return policy


@pytest.mark.parametrize("name", CATALOG["toy"])
def test_toy_tasks_implement_the_protocol(name):
    environment = toy.make(name)
    assert isinstance(environment, base.Environment)
    state = environment.reset(jax.random.key(0))
    step = environment.step(state, jnp.zeros((environment.action_size,), jnp.float32))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, step)
    assert state.observation.shape == (environment.observation_size,)
    assert {x.dtype for x in jax.tree.leaves((state, step))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", CATALOG["toy"])
def test_toy_tasks_bound_actions_by_themselves(name):
    environment = toy.make(name)
    state = environment.reset(jax.random.key(1))
    limit, beyond = (
        environment.step(state, jnp.full((environment.action_size,), value)) for value in (1.0, 3.0)
    )
    np.testing.assert_array_equal(limit.observation, beyond.observation)


def test_riccati_return_is_what_its_gains_earn():
    environment = toy.LinearQuadratic()
    length = environment.episode_length
    gains = jnp.stack([environment.riccati(length - t)[1] for t in range(length)])
    starts, returns, largest, _ = _rollout(environment, lambda x, t: -x @ gains[t].T)
    assert largest < 1.0  # else the clip of the actions would void the Riccati solution
    np.testing.assert_allclose(returns, environment.optimal_return(starts), atol=1e-5)


def test_riccati_one_step_by_hand():
    # With one step to go the best action is 0 and the cost is x^T Q x = 0.2 * (1 + 4).
    environment = toy.LinearQuadratic()
    value = environment.optimal_return(jnp.array([1.0, 3.0, 2.0]), num_steps=1)
    np.testing.assert_allclose(value, -1.0, rtol=1e-6)


def test_stationary_gain_beats_zero_and_random_actions():
    environment = toy.LinearQuadratic()
    starts, returns, *_ = _rollout(environment, lambda x, t: environment.optimal_action(x))
    best = environment.optimal_return(starts).mean()
    assert best * 1.001 < returns.mean() <= best + 1e-5
    _, idle, *_ = _rollout(environment, lambda x, t: jnp.zeros((x.shape[0], 2)))
    _, wild, *_ = _rollout(environment, _random_policy(2))
    assert wild.mean() < idle.mean() < 3.0 * best


@pytest.mark.parametrize("name", ["PointReachA", "PointReachB"])
def test_point_reach_closed_form_is_what_the_optimal_policy_earns(name):
    environment = toy.make(name)
    starts, returns, *_ = _rollout(environment, lambda p, t: environment.optimal_action(p))
    np.testing.assert_allclose(returns, environment.optimal_return(starts), rtol=1e-5)
    _, wild, *_ = _rollout(environment, _random_policy(2))
    assert wild.mean() < 0.4 * returns.mean()


def test_point_reach_tasks_need_the_task_identity():
    # The policy of one task does badly in the other, and the two look alike.
    a, b = toy.make("PointReachA"), toy.make("PointReachB")
    key = jax.random.key(3)
    np.testing.assert_array_equal(a.reset(key).observation, b.reset(key).observation)
    _, own, *_ = _rollout(b, lambda p, t: b.optimal_action(p))
    _, other, *_ = _rollout(b, lambda p, t: a.optimal_action(p))
    assert other.mean() < 0.5 * own.mean()


def test_pole_is_held_by_the_helper_and_falls_otherwise():
    environment = toy.TerminatingPole()
    _, returns, _, falls = _rollout(environment, lambda o, t: environment.stabilizing_action(o))
    assert falls == 0
    np.testing.assert_allclose(returns, environment.optimal_return())
    _, returns, _, falls = _rollout(environment, _random_policy(1))
    assert falls == 64
    assert returns.mean() < 0.5 * environment.optimal_return()


def test_pole_pays_for_steps_that_do_not_terminate():
    environment = toy.TerminatingPole()
    state = environment.reset(jax.random.key(0)).replace(physics=jnp.array([0.9, 0.0]))
    up, fallen = (environment.step(state, jnp.array([a])) for a in (-1.0, 1.0))
    # velocity 0.1 * (3.6 -+ 4), angle 0.896 and 0.976, and from 0.97 on with full force 1.05.
    np.testing.assert_allclose(
        [up.observation[0], fallen.observation[0]], [0.896, 0.976], rtol=1e-5
    )
    assert (up.reward, up.termination) == (fallen.reward, fallen.termination) == (1.0, 0.0)
    fallen = environment.step(state.replace(physics=jnp.array([0.97, 0.0])), jnp.array([1.0]))
    assert (fallen.reward, fallen.termination) == (0.0, 1.0)


def test_unknown_toy_task_is_an_error():
    with pytest.raises(KeyError):
        toy.make("PointReachC")
