"""Tests of Gymnasium environments as tasks: equal to Gymnasium's own, exact snapshots, refusals."""

import collections

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import ConfigError
from m3po_jax.envs import gym_adapter, gym_simulator, host, multitask, registry
from m3po_jax.envs import task as task_lib

IDS = (
    *("Pendulum-v1", "MountainCarContinuous-v0"),
    *("InvertedPendulum-v5", "Hopper-v5", "HalfCheetah-v5", "Ant-v5"),
)


class Drift(gymnasium.Env):
    """Draws in every step, and terminates beyond a bound."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 3.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = 0.0, 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += float(action[0]) + 0.01 * self.np_random.normal()
        self.steps += 1
        return np.array([self.x], np.float32), self.x, self.x > 8.0, False, {}


class Late(Drift):
    """Acts with a delay, by a queue that no snapshot holds."""

    def reset(self, *, seed=None, options=None):
        self.queue = collections.deque([0.0, 0.0])
        return super().reset(seed=seed)

    def step(self, action):
        self.queue.append(float(action[0]))
        return super().step(np.array([self.queue.popleft()]))


class Raising(Drift):
    """Raises beyond a bound."""

    def step(self, action):
        if self.x > 5.0:
            raise RuntimeError("it broke")
        return super().step(action)


class Cutting(Drift):
    """Truncates by itself beyond a bound, and terminates beyond the next."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.x > 5.0, info


class Picture(Drift):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Unbounded(Drift):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


@pytest.fixture(autouse=True, scope="module")
def registered():
    kinds = (Drift, Late, Raising, Cutting, Picture, Unbounded)
    for kind in kinds:
        gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=50)
    yield
    for kind in kinds:
        del gymnasium.registry[f"{kind.__name__}-v0"]


@pytest.mark.parametrize("env_id", [*IDS, "Drift-v0"])
def test_it_goes_as_gymnasiums_own(env_id):
    """Two simulators take turns and each goes on from the other's snapshots."""
    turns = [gym_simulator.GymSimulator(f"gym/{env_id}", env_id) for _ in range(2)]
    theirs = gymnasium.make(env_id)
    taken, seen = turns[0].reset(7)
    first, _ = theirs.reset(seed=7)
    np.testing.assert_array_equal(seen, first.astype(np.float32))
    generator = np.random.default_rng(0)
    low, high = theirs.action_space.low, theirs.action_space.high
    for step in range(40):
        action = generator.uniform(-1.0, 1.0, turns[0].action_size).astype(np.float32)
        scaled = low + (action.astype(float) + 1.0) * 0.5 * (high.astype(float) - low)
        observation, reward, terminated, _, _ = theirs.step(scaled.astype(low.dtype))
        taken, values = turns[step % 2].step(taken, action)
        np.testing.assert_array_equal(values[:-3], observation.astype(np.float32))
        np.testing.assert_array_equal(values[-3:], np.array([reward, terminated, 0], np.float32))
        if terminated:
            break


def _play(environment, steps, action=1.0):
    one = task_lib.as_task(name="task", environment=environment, num_envs=2, action_repeat=1)
    env = multitask.MultiTaskEnv([one])

    @jax.jit
    def run():
        pool = env.draw_resets(jax.random.key(1))
        state = env.init(jax.random.key(0), stagger=False)
        actions = jnp.array([[action], [-0.5]])
        return jax.lax.scan(
            lambda state, _: env.step(state, pool, actions), state, None, length=steps
        )[1]

    return jax.device_get(run())


def test_actions_are_scaled_and_a_termination_is_no_truncation():
    environment = gym_adapter.GymEnvironment("Drift-v0")
    assert environment.episode_length == 50
    played = _play(environment, 52)
    assert not host.has_failed()
    # 3 a step from 0 passes 8 in the third; -0.5 is 0, which drifts to the time limit.
    np.testing.assert_array_equal(np.flatnonzero(played.termination[:, 0])[:2], [2, 5])
    assert played.truncation[:, 0].sum() == 0.0
    np.testing.assert_array_equal(np.flatnonzero(played.truncation[:, 1]), [49])
    assert played.termination[:, 1].sum() == 0.0
    assert np.abs(played.next_observation[:2, 0, 0] - [3.0, 6.0]).max() < 0.2
    again = _play(gym_adapter.GymEnvironment("Drift-v0"), 52)
    np.testing.assert_array_equal(played.next_observation, again.next_observation)


def test_an_action_that_is_no_number_is_a_fault():
    played = _play(gym_adapter.GymEnvironment("Drift-v0"), 2, action=np.nan)
    np.testing.assert_array_equal(played.valid, [[0.0, 1.0]] * 2)
    assert not host.has_failed()


@pytest.mark.parametrize(
    ("env_id", "says"),
    [
        ("Nope-v3", "Gymnasium cannot make it: .*`Nope` doesn't exist"),
        ("CartPole-v1", r"its actions are Discrete\(2\)"),
        ("Picture-v0", r"its observation is Box\(0, 255, \(8, 8, 3\).*no images"),
        ("Raising-v0", "its first steps raised RuntimeError: it broke"),
        ("Unbounded-v0", "its actions have no bounds"),
        ("Late-v0", "its state cannot be taken and put back exactly .step [0-9]+ of an episode"),
    ],
)
def test_what_does_not_do_is_refused_with_its_reason(env_id, says):
    with pytest.raises(ConfigError, match=rf"^gym/{env_id}: {says}"):
        gym_adapter.GymEnvironment(env_id)


def test_what_a_step_raises_comes_with_the_task():
    environment = gym_adapter.GymEnvironment("Raising-v0", trial_steps=1)
    played = _play(environment, 4)
    assert not played.valid[:, 0].all()
    says = "^gym/Raising-v0: its simulator raised RuntimeError: it broke"
    with pytest.raises(host.HostError, match=says):
        host.raise_failure()


def test_an_environment_that_truncates_by_itself_does_not_terminate():
    played = _play(gym_adapter.GymEnvironment("Cutting-v0"), 5)
    assert not host.has_failed() and played.valid.all()
    # 3 a step from 0 passes 5 in the second; the episode then begins anew.
    np.testing.assert_array_equal(played.truncation[:, 0], [0, 1, 0, 1, 0])
    assert not played.termination.any() and not played.truncation[:, 1].any()
    assert np.abs(played.next_observation[:, 0, 0] - [3, 6, 3, 6, 3]).max() < 0.2


def test_an_end_by_both_is_a_termination():
    simulator = gym_simulator.GymSimulator("gym/Cutting-v0", "Cutting-v0")
    taken, _ = simulator.reset(0)
    ends = []
    for _ in range(3):
        taken, values = simulator.step(taken, np.ones(1, np.float32))
        ends.append(tuple(values[-2:]))
    assert ends == [(0, 0), (0, 1), (1, 0)]


def test_a_snapshot_of_another_model_is_refused():
    hopper = gym_simulator.GymSimulator("gym/Hopper-v5", "Hopper-v5")
    taken, _ = hopper.reset(0)
    taken[0] += 1
    with pytest.raises(ValueError, match="of another model or other attributes"):
        hopper.step(taken, np.zeros(3, np.float32))


def test_names():
    request = registry.parse_task("gym/Pendulum-v1?num_envs=3")
    assert (request.name, request.options["num_envs"]) == ("gym/Pendulum-v1", 3)
    assert registry.parse_task("gym/module:Mine-v0").name == "gym/module:Mine-v0"
    with pytest.raises(ValueError, match="has no option 'impl'"):
        registry.parse_task("gym/Pendulum-v1?impl=c")
    assert registry.make_env(request).episode_length == 200
