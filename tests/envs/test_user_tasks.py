"""Tasks that users bring by their dotted path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs as brax_envs

from m3po_jax import config
from m3po_jax.envs import adapting, base, registry, toy

HERE = "tests.envs.test_user_tasks"


class Reach3:
    """Our own protocol."""

    observation_size, action_size, episode_length, can_terminate = 2, 1, 12, False

    def reset(self, key):
        return self._state(jax.random.normal(key, (2,)))

    def step(self, state, action):
        return self._state(state.observation + action)

    def _state(self, x):
        zero = jnp.zeros((), jnp.float32)
        return base.EnvState(
            physics=(), observation=x, reward=jnp.exp(-jnp.sum(x**2)), termination=zero
        )


class BraxStyle(brax_envs.Env):
    """Brax's interface, with a dictionary as observation, and `done` after a step to the right."""

    action_size, backend = 1, "none"
    observation_size = {"state": 2, "camera": 3}

    def reset(self, rng):
        return self._state(jax.random.uniform(rng, (2,)), jnp.zeros(()), {"speed": jnp.zeros(())})

    def step(self, state, action):
        x = state.obs["state"] + action
        state.metrics.update(speed=action[0])
        return self._state(x, (action[0] > 0.5).astype(jnp.float32), state.metrics)

    def _state(self, x, done, metrics):
        obs = {"state": x, "camera": jnp.concatenate([x, x[:1]])}
        return brax_envs.State(None, obs, x[0], done, dict(metrics), {})


class BraxStyleGoal(BraxStyle):
    """The same with a goal, named as in Playground's manipulation tasks."""

    def _state(self, x, done, metrics):
        state = super()._state(x, done, metrics)
        return state.replace(metrics={**state.metrics, "reward/success": 2.0 * (x[0] > 1.0)})


def half_an_environment():
    return object()


def needs_an_argument(size):
    return size


not_callable = 3


def test_our_protocol_by_dotted_path():
    tasks = (f"{HERE}:Reach3?num_envs=3&action_repeat=4", "toy/PointReachA")
    env = registry.make(tasks, config.EnvConfig())
    assert env.specs[0].name == f"{HERE}:Reach3"
    assert env.num_envs == (3, 8)
    state = env.init(jax.random.key(0), stagger=False)
    new, timestep = env.step(state, env.draw_resets(jax.random.key(1)), jnp.ones((11, 2)))
    # Four repeats of a step by 1 in both dims.
    np.testing.assert_allclose(
        timestep.next_observation[:3], state.observation[:3] + 4.0, rtol=1e-6
    )
    assert np.all(new.episode_step == 1)


@pytest.mark.parametrize(("key", "size"), [("state", 2), ("camera", 3)])
def test_a_brax_style_environment_with_a_dictionary(key, size):
    request = registry.parse_task(f"{HERE}:BraxStyle?observation={key}")
    environment = registry.make_env(request)
    assert environment.observation_size == size and environment.can_terminate
    step = jax.jit(environment.step)
    start = jax.jit(environment.reset)(jax.random.key(0))
    state = step(start, jnp.array([0.25]))
    # The library gets its whole observation back, whichever part the agent sees.
    np.testing.assert_allclose(state.observation, start.observation + 0.25, rtol=1e-6)
    assert state.termination == 0.0
    assert step(state, jnp.array([1.0])).termination == 1.0
    assert not any(x.weak_type for x in jax.tree.leaves(state))


def test_success_of_a_library_is_in_its_metrics():
    goal, plain = (
        registry.make_env(registry.parse_task(f"{HERE}:{name}?observation=state"))
        for name in ("BraxStyleGoal", "BraxStyle")
    )
    start = goal.reset(jax.random.key(0))
    assert start.success == 0.0
    assert not isinstance(plain.reset(jax.random.key(0)), base.GoalState)
    states = [goal.step(start, jnp.array([action])) for action in (0.0, 1.0)]
    assert [state.success for state in states] == [0.0, 1.0]
    assert states[0].success.dtype == jnp.float32


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("BraxStyle", ["there are several: camera, state", "?observation=camera"]),
        ("BraxStyle?observation=stat", ["no observation 'stat'", "camera, state"]),
        ("Reach3?observation=state", ["has one observation"]),
        ("Reach4", ["has no class or function of that name", "did you mean Reach3"]),
        ("not_callable", ["has no class or function"]),
        ("half_an_environment", ["made a object", "lacks observation_size", "envs/base.py"]),
        ("needs_an_argument", ["called without arguments", "size"]),
    ],
)
def test_what_is_wrong_is_said(target, words):
    with pytest.raises(ValueError) as error:
        registry.make_env(registry.parse_task(f"{HERE}:{target}"))
    for word in words:
        assert word in str(error.value)


def test_an_observation_that_is_not_flat_is_refused():
    with pytest.raises(ValueError, match=r"not one flat array but \(3, 4\)"):
        adapting.ObservationPart("x", jax.ShapeDtypeStruct((3, 4), jnp.float32), None)


def test_toy_tasks_are_user_tasks_too():
    environment = registry.make_env(registry.parse_task("m3po_jax.envs.toy:LinearQuadratic"))
    assert isinstance(environment, toy.LinearQuadratic)
