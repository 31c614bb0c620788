"""What an evaluation says of tasks with and without a goal, and of episodes that faults cut."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.envs import base
from m3po_jax.learning.state import init_agent
from m3po_jax.training import scores
from m3po_jax.training.evaluator import _EVALUATION_STREAM, Evaluator
from m3po_jax.training.experiment import make_experiment
from tests.integration.tiny_config import get_config

EPISODES = 16


class FromTheRight:
    """Succeeds at the first step if it starts right of zero."""

    observation_size, action_size, episode_length, can_terminate = 2, 1, 4, False

    def reset(self, key):
        x = jax.random.normal(key, ())
        return self._state(jnp.stack([x, 0.0]))

    def step(self, state, action):
        return self._state(state.physics + jnp.array([0.0, 1.0]))

    def _state(self, x):
        zero = jnp.zeros((), jnp.float32)
        success = jnp.float32(self.succeeds(x))
        return base.GoalState(
            physics=x, observation=x, reward=zero, termination=zero, success=success
        )

    def succeeds(self, x):
        return (x[0] > 0.0) & (x[1] == 1.0)


class AtTheEnd(FromTheRight):
    """Succeeds at the last step, after which the environment is reset."""

    episode_length = 9

    def succeeds(self, x):
        return x[1] == 9.0


class Never(FromTheRight):
    """Has a goal that is not met; in its first state alone, which is no step."""

    def succeeds(self, x):
        return x[1] == 0.0


class Cost:
    """Costs 1 a step, for 9 steps."""

    observation_size, action_size, episode_length, can_terminate = 2, 1, 9, False

    def reset(self, key):
        return self._state(jnp.stack([jax.random.normal(key, ()), 0.0]))

    def step(self, state, action):
        x = state.physics + jnp.array([0.0, 1.0])
        return self._state(x).replace(reward=-jnp.ones(()))

    def _state(self, x):
        zero = jnp.zeros((), jnp.float32)
        return base.EnvState(physics=x, observation=x, reward=zero, termination=zero)


class BlowsUp(Cost):
    """After two steps its physics breaks down."""

    def _state(self, x):
        return super()._state(x).replace(observation=jnp.where(x[1] >= 2.0, jnp.nan, x))


class BadStart(Cost):
    """Its first state is no number left of zero."""

    def _state(self, x):
        bad = (x[1] == 0.0) & (x[0] <= 0.0)
        return super()._state(x).replace(observation=jnp.where(bad, jnp.inf, x))


@pytest.fixture(scope="module")
def evaluated():
    """The scores, and the first observations of each episode `[B, O]`."""
    tree = get_config()
    kinds = (FromTheRight, AtTheEnd, Never, Cost, BlowsUp, BadStart)
    names = [f"{__name__}:{kind.__name__}" for kind in kinds]
    tree.tasks = (*names, "toy/PointReachA")
    tree.train.num_devices = 1
    experiment = make_experiment(from_config_dict(tree))
    agent = init_agent(experiment.networks, experiment.optimizers, jax.random.key(0))
    result = Evaluator(experiment, episodes=EPISODES)(agent, policy="random", seed=5)
    key = jax.random.fold_in(jax.random.key(5), _EVALUATION_STREAM)
    start = experiment.env.resized(EPISODES).init(jax.random.split(key)[0], stagger=False)
    return result, start.observation


def test_success_is_the_share_of_episodes_with_it(evaluated):
    result, start = evaluated
    x = start[:, 0].reshape(EPISODES, 7)[:, 0]  # one episode of each of the seven tasks in turn
    share = result["tasks"][f"{__name__}:FromTheRight"]["success_rate"]
    # Episodes that follow the first while longer tasks go on start elsewhere, and do not count.
    assert share == np.mean(x > 0.0) and 0.0 < share < 1.0
    # Over the three tasks with a goal.
    assert result["success_mean"] == pytest.approx((share + 1.0 + 0.0) / 3.0)


def test_success_at_the_last_step_counts_and_a_start_is_no_step(evaluated):
    tasks = evaluated[0]["tasks"]
    assert tasks[f"{__name__}:AtTheEnd"]["success_rate"] == 1.0
    assert tasks[f"{__name__}:Never"]["success_rate"] == 0.0


def test_success_in_the_last_step_is_told_apart(evaluated):
    result, _ = evaluated
    rates = {name: task["success_rate_last"] for name, task in result["tasks"].items()}
    # Met in the first of four steps, in the last of nine, never; and no goal.
    assert list(rates.values()) == [0.0, 1.0, 0.0, *[None] * 4]
    assert result["success_mean_last"] == pytest.approx(1.0 / 3.0)


def test_a_task_without_a_goal_has_no_success(evaluated):
    assert evaluated[0]["tasks"]["toy/PointReachA"]["success_rate"] is None


def test_an_episode_that_a_fault_cuts_enters_no_mean(evaluated):
    result, start = evaluated
    sound, broken, bad_start = (
        result["tasks"][f"{__name__}:{name}"] for name in ("Cost", "BlowsUp", "BadStart")
    )
    whole = {"return_mean": -9.0, "return_std": 0.0, "length_mean": 9.0}
    assert sound | whole == sound and (sound["episodes"], sound["faults"]) == (EPISODES, 0)
    none = dict.fromkeys(whole)
    assert broken | none == broken and (broken["episodes"], broken["faults"]) == (0, EPISODES)
    # A bad start shows as zeros, and the episodes from the other starts are as ever.
    zeros = int(np.sum(np.asarray(start)[:, 0].reshape(EPISODES, 7)[:, 5] == 0.0))
    assert 0 < zeros < EPISODES
    assert bad_start | whole == bad_start
    assert (bad_start["episodes"], bad_start["faults"]) == (EPISODES - zeros, zeros)


def test_the_record_of_faults_is_json_and_is_shown(evaluated):
    record = json.loads(json.dumps(evaluated[0], allow_nan=False))
    text = scores.returns_text(record["tasks"])
    assert "Cost -9.0 (std 0.0, 16 episodes)" in text
    assert "BlowsUp - (std -, 16 of 16 episodes cut by faults)" in text
    row = next(x for x in scores.evaluation_table(record).splitlines() if "BlowsUp" in x)
    assert row.split()[1:] == ["-", "-", "-", "0", "16", "-", "-", "-"]
