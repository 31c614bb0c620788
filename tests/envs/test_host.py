"""Tests of physics on the host: rows through callbacks, and what a simulator raises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.envs import base, host, multitask, physics
from m3po_jax.envs import task as task_lib


class Counter:
    """Counts in its one word, adds the action; raises at a count, if one is given."""

    observation_size = 2
    action_size = 1
    episode_length = 10
    can_terminate = False

    def __init__(self, name="counter", *, first=0, raises_at=None, padding=0):
        self.body = host.HostBody(cost=1.0)
        self._first, self._raises_at, self._padding = first, raises_at, padding
        state = 1 + padding
        self._step = host.HostCall(name, state, state + 1, state + 2, self._run)

    def _run(self, rows):
        count = rows[:, 0]
        if self._raises_at is not None and np.any(count == self._raises_at):
            raise ZeroDivisionError("the counter is full")
        out = np.zeros((len(rows), self._step.words_out), np.uint32)
        out[:, 0] = count + 1
        out[:, -2:].view(np.float32)[:] = np.stack(
            [count + 1, rows[:, -1].view(np.float32)], axis=1
        )
        return out

    def _state(self, words, observation, reward):
        return base.EnvState(words, observation, reward, jnp.zeros(()))

    def reset(self, key):
        words = jnp.full(1 + self._padding, self._first, jnp.uint32)
        return self._state(words, jnp.zeros(2), jnp.zeros(()))

    def step(self, state, action):
        row = jnp.concatenate([state.physics, jax.lax.bitcast_convert_type(action, jnp.uint32)])
        words, values = jnp.split(physics.call(self._step, None, row), [1 + self._padding])
        observation = jax.lax.bitcast_convert_type(values, jnp.float32)
        return self._state(words, observation, observation[0])


def _env(*environments, num_envs=3):
    return multitask.MultiTaskEnv(
        [
            task_lib.as_task(
                name=f"task {k}", environment=environment, num_envs=num_envs, action_repeat=1
            )
            for k, environment in enumerate(environments)
        ]
    )


def _play(env, steps=4):
    @jax.jit
    def run():
        state = env.init(jax.random.key(0), stagger=False)
        pool = env.as_pool(state.env_states)
        action = jnp.arange(1.0, env.batch_size + 1.0)[:, None]

        def step(state, _):
            state, timestep = env.step(state, pool, action)
            return state, timestep

        return jax.lax.scan(step, state, None, length=steps)[1]

    return jax.device_get(run())


def test_each_row_gets_its_own_answer():
    env = _env(Counter(), Counter(first=5, padding=7))
    played = _play(env)
    for task, counts in ((0, [1, 2, 3, 4]), (1, [6, 7, 8, 9])):
        reward = played.reward[:, env.task_id == task]
        np.testing.assert_array_equal(reward, np.tile(np.array(counts)[:, None], 3))
    np.testing.assert_array_equal(played.next_observation[0, :, 1], np.arange(1.0, 7.0))


def _callbacks(jaxpr):
    inner = [
        found
        for equation in jaxpr.eqns
        for value in equation.params.values()
        if hasattr(getattr(value, "jaxpr", None), "eqns")
        for found in _callbacks(value.jaxpr)
    ]
    return inner + [e for e in jaxpr.eqns if e.primitive.name == "pure_callback"]


def test_arguments_stay_small_enough_to_be_copied_at_once():
    """Larger ones go to XLA's threads, which several devices' callbacks can keep waiting."""
    env = _env(Counter(), Counter(padding=9_000))
    state = jax.eval_shape(functools.partial(env.init, stagger=False), jax.random.key(0))
    pool = jax.eval_shape(env.as_pool, state.env_states)
    action = jax.ShapeDtypeStruct((env.batch_size, 1), jnp.float32)
    (call,) = _callbacks(jax.make_jaxpr(env.step)(state, pool, action).jaxpr)
    sizes = [x.aval.size * 4 for x in call.invars]
    assert sum(sizes) == 4 * (3 * 2 + 3 * 9_002)
    assert len(sizes) == 2 and max(sizes) <= 100 * 1024
    assert _play(env).valid.all()


def test_what_a_simulator_raises_is_a_fault_and_ends_the_run_with_its_task():
    env = _env(Counter("gentle"), Counter("strict", raises_at=2))
    assert not host.has_failed()
    played = _play(env)
    strict = env.task_id == 1
    np.testing.assert_array_equal(played.valid[:, strict], [[1] * 3, [1] * 3, [0] * 3, [1] * 3])
    assert played.valid[:, ~strict].all()
    assert host.has_failed()
    says = r"^strict: its simulator raised ZeroDivisionError: the counter is full\nTraceback"
    with pytest.raises(host.HostError, match=says):
        host.raise_failure()
    assert not host.has_failed()
    host.raise_failure()


def test_one_environment_alone_is_the_same():
    environment = Counter(first=2)
    state = environment.reset(jax.random.key(0))
    alone = jax.jit(environment.step)(state, jnp.array([0.5]))
    assert float(alone.reward) == 3.0
    many = jax.vmap(environment.step, in_axes=(None, 0))(state, jnp.array([[0.5], [0.25]]))
    np.testing.assert_array_equal(many.observation, [[3.0, 0.5], [3.0, 0.25]])
