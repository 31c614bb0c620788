import pathlib
import re
import types

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from m3po_jax.deploy.agent import AgentError
from m3po_jax.deploy.gymnasium_driver import Driver, play

REACH = "toy/PointReachA"


class Counter(gymnasium.Env):
    """Episodes of `length` steps that pay their number, with actions between 10 and 20."""

    def __init__(self, length=3, size=2, low=10.0):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(low, 20.0, (2,), np.float32)
        self._length = length
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._count = 0
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.actions.append(action)
        self._count += 1
        observation = np.full(self.observation_space.shape, 0.1 * self._count, np.float32)
        return observation, float(self._count), self._count == self._length, False, {}


def vector(*environments, mode=AutoresetMode.NEXT_STEP):
    return SyncVectorEnv([lambda env=env: env for env in environments], autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_returns_of_whole_episodes(agent, mode):
    envs = vector(Counter(2), Counter(4), mode=mode)
    returns = play(agent, REACH, envs, episodes=4, policy="prior")
    # 1 + 2 and 1 + 2 + 3 + 4: neither the reset step nor the next episode counts
    np.testing.assert_array_equal(returns, [3.0, 3.0, 10.0, 10.0])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_each_episode_begins_with_a_new_plan(agent, mode, monkeypatch):
    cold = []
    plan = type(agent).plan

    def spy(self, observation, task, plan_mean, **arguments):
        cold.append([bool((observation[0] == 0.0).all()), not np.asarray(plan_mean[0]).any()])
        return plan(self, observation, task, plan_mean, **arguments)

    monkeypatch.setattr(type(agent), "plan", spy)
    play(agent, REACH, vector(Counter(3), mode=mode), episodes=2, policy="planner")
    first, empty = zip(*cold, strict=True)
    assert sum(first) >= 2
    assert first == empty


def test_the_loop_of_the_how_to_begins_each_episode_once():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "howto" / "gymnasium.md").read_text()
    loop = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[-1]
    seen = []

    class Told:
        """Notes which observations are first ones, and which it was told are."""

        def __init__(self, agent, task, envs, *, policy):
            self._begins = np.ones(2, bool)

        def __call__(self, observation):
            seen.append([(observation == 0.0).all(1), self._begins])
            self._begins = np.zeros(2, bool)
            return np.full((2, 2), 10.0, np.float32)

        def begin(self, where):
            self._begins = self._begins | where

    names = {"np": np, "agent": None, "m3po": types.SimpleNamespace(Driver=Told)}
    exec(loop, {**names, "envs": vector(Counter(2), Counter(4))})
    first, told = np.swapaxes(seen, 0, 1)
    np.testing.assert_array_equal(first, told)
    assert first.sum(0).min() > 2


def test_actions_are_scaled_to_the_bounds(agent):
    env = Counter()
    driver = Driver(agent, REACH, vector(env), policy="prior")
    observation = np.array([[0.3, -0.2]], np.float32)
    action = agent.act(observation, REACH, policy="prior")
    np.testing.assert_allclose(driver(observation), 15.0 + 5.0 * action, atol=1e-5)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Counter(size=3), r"needs observations in a Box of shape \(2,\)"),
        (Counter(low=-np.inf), "have no bounds"),
        (gymnasium.make("CartPole-v1"), "needs observations in a Box"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(agent, env, message):
    with pytest.raises(AgentError, match=message):
        Driver(agent, REACH, vector(env))


def test_numbers_that_do_not_fit_are_refused(agent):
    with pytest.raises(AgentError, match="3 episodes are not a multiple of 2 environments"):
        play(agent, REACH, vector(Counter(), Counter()), episodes=3)
    with pytest.raises(AgentError, match="reset themselves"):
        play(agent, REACH, vector(Counter(), mode=AutoresetMode.DISABLED), episodes=1)
