"""Mistakes in users' tasks, found by their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config
from m3po_jax.envs import base, contract, toy


class Sound:
    """A point; its mistakes are what the tests change of it."""

    observation_size, action_size, episode_length, can_terminate = 2, 1, 12, False

    def reset(self, key):
        return self._state(jax.random.normal(key, (2,)))

    def step(self, state, action):
        return self._state(state.physics + 0.1 * action)

    def _state(self, x):
        zero = jnp.zeros((), jnp.float32)
        return base.EnvState(physics=x, observation=x, reward=x[0], termination=zero)


def _with(**changes):
    """A task whose states have other fields, as functions of its point."""

    class Task(Sound):
        def _state(self, x):
            return super()._state(x).replace(**{k: change(x) for k, change in changes.items()})

    return Task()


def _facts(**facts):
    return type("Task", (Sound,), facts)()


def _stepping(step):
    return type("Task", (Sound,), {"step": step})()


def _raises(self, state, action):
    if state.physics[0] > 0:
        return state
    return self.reset(jax.random.key(0))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (_facts(observation_size=5), r"observation from reset has shape \[2\] and observation_si"),
        (_facts(observation_size=1), r"it must be of shape \[1\]"),
        (_facts(observation_size=(2,)), r"observation_size must be a whole number .* got \(2,\)"),
        (_facts(action_size=0), "action_size must be .* got 0; a task without actions"),
        (_facts(episode_length=0), "episode_length must be a whole number from 1, got 0"),
        (_facts(episode_length=1e3), "episode_length must be a whole number from 1, got 1000.0"),
        (_facts(can_terminate="no"), "can_terminate must be True or False, got 'no'"),
        (_with(observation=lambda x: {"a": x}), "observation from reset is a dict; give one array"),
        (_with(observation=lambda x: x[None]), r"observation from reset has shape \[1, 2\]"),
        (_with(observation=lambda x: x + 1j), "observation from reset has dtype complex64"),
        (_with(reward=lambda x: x[:1]), r"reward from reset has shape \[1\]; it must be a scalar"),
        (_with(termination=lambda x: x * 0), r"termination from reset has shape \[2\]"),
        (_with(termination=lambda x: x[0] > 9), "can_terminate = False, but .* from reset"),
        (
            _stepping(lambda self, s, a: self._state(s.physics).replace(termination=a[0] * 0)),
            "can_terminate = False, but the termination from step is not the constant 0",
        ),
        (
            _stepping(lambda self, s, a: s.replace(termination=jnp.ones(()))),
            "can_terminate = False, but the termination from step",
        ),
        (_stepping(lambda self, s, a: (s, 0.0)), "step returns tuple; return .*EnvState"),
        (
            _stepping(lambda self, s, a: base.GoalState(**vars(s), success=s.reward)),
            "reset returns EnvState and step GoalState",
        ),
        (
            _stepping(lambda self, s, a: s.replace(physics={"x": s.physics})),
            "step raised ValueError: the structure of the state changed",
        ),
        (
            _stepping(lambda self, s, a: s.replace(truncation=s.reward)),
            "structure of the state changed: it adds .truncation",
        ),
        (
            _stepping(lambda self, s, a: s.replace(physics=s.physics[:1])),
            r"shape of .physics changed from \[2\] to \[1\]",
        ),
        (
            _stepping(lambda self, s, a: s.replace(physics=s.physics + 0j)),
            "dtype of .physics changed from float32 to complex64",
        ),
        (_stepping(_raises), r"step raised TracerBoolConversionError at test_contract.py:\d+: Att"),
    ],
)
def test_a_mistake_is_refused_with_the_name_of_the_task(task, words):
    with pytest.raises(config.ConfigError, match=f"^task a:b.*{words}"):
        contract.checked("a:b", task)


def _helped(self, state, action):
    @jax.jit
    def advance(state):
        return state.replace(physics=state.physics + 1.0, termination=jnp.zeros_like(state.reward))

    return advance(state)


@pytest.mark.parametrize(
    "task",
    [
        Sound(),
        toy.PointReach(1.0),
        _facts(episode_length=np.int64(12)),
        _facts(can_terminate=True),
        _stepping(_helped),  # the constant comes out of a function of its own
        _stepping(lambda self, s, a: s.replace(reward=a[0])),  # and here from the state before
    ],
)
def test_a_sound_task_is_left_as_it_is(task):
    assert contract.checked("a:b", task) is task


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float16", "bfloat16", "bool"])
def test_other_numbers_are_cast_and_lose_nothing(dtype):
    task = _with(
        observation=lambda x: jnp.round(x).astype(dtype),
        reward=lambda x: x[0].astype(dtype),
        termination=lambda x: False,
        physics=lambda x: {"x": x, "count": 0},
    )
    type(task).step = lambda self, s, a: self._state(s.physics["x"] + a)
    environment = contract.checked("a:b", task)
    first = environment.reset(jax.random.key(3))
    after = environment.step(first, jnp.array([0.5]))
    for state in (first, after):
        for leaf in (state.observation, state.reward, state.termination):
            assert leaf.dtype == jnp.float32 and not leaf.weak_type
        expected = jnp.round(state.physics["x"]).astype(dtype).astype(jnp.float32)
        np.testing.assert_array_equal(state.observation, expected)
        assert state.physics["x"].dtype == jnp.float32
        assert state.physics["count"].dtype == jnp.int32 and not state.physics["count"].weak_type
    assert environment.observation_size == 2 and not environment.can_terminate
    assert isinstance(environment, base.Environment)


def test_a_cast_task_runs_in_a_scan():
    task = contract.checked("a:b", _with(observation=lambda x: (x > 0).astype(jnp.uint8)))
    start = task.reset(jax.random.key(0))
    last, _ = jax.lax.scan(lambda s, a: (task.step(s, a), None), start, jnp.ones((3, 1)))
    np.testing.assert_allclose(last.physics, start.physics + 0.3, rtol=1e-6)
