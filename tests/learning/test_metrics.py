"""What the metrics of updates and of a rollout come to, and its running statistics, by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs.multitask import Timestep
from m3po_jax.learning import metrics, train_step
from m3po_jax.learning.state import Statistics
from m3po_jax.ops import observation_moments, statistics
from m3po_jax.types import Trajectory

FIRST = {"a/loss": 1.0, "a/kl_max": 3.0, "a/skipped": 1.0}
SECOND = {"a/loss": 2.0, "a/kl_max": 0.5, "a/skipped": 1.0}


def together(updates):
    total = dict.fromkeys(FIRST, jnp.zeros(()))
    for update in updates:
        total = metrics.add(total, update)
    found = metrics.finish(total, jnp.asarray(len(updates)))
    return {name: float(x) for name, x in found.items()}


def test_means_the_largest_and_how_many_were_left_out():
    assert together([FIRST, SECOND]) == {"a/loss": 1.5, "a/kl_max": 3.0, "a/skipped": 2.0}


def test_without_an_update_nothing_is_known_but_that_none_was_left_out():
    shapes = {name: jax.ShapeDtypeStruct((2,), jnp.float32) for name in FIRST}
    empty = metrics.none_of(shapes)
    for found in (together([]), empty):
        assert np.all(np.isnan(found["a/loss"])) and np.all(np.isnan(found["a/kl_max"]))
        assert np.all(np.asarray(found["a/skipped"]) == 0.0)
    assert empty["a/loss"].shape == (2,)


# Three steps of two environments of task 0 and one of task 1; task 2 has none.
TASK_ID = np.array([0, 0, 1])
PARTS = types.SimpleNamespace(env=types.SimpleNamespace(task_id=TASK_ID), num_tasks=3, axis_name=())
REWARD = np.array([[1.0, 2.0, 5.0], [3.0, 0.0, 7.0], [4.0, 6.0, 9.0]], np.float32)
VALID = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.float32)


def test_a_rollout_is_summed_up_per_task():
    complete = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    zeros = np.zeros((3, 3), np.float32)
    timesteps = Timestep(
        next_observation=np.zeros((3, 3, 2), np.float32),
        reward=REWARD,
        termination=zeros,
        truncation=zeros,
        valid=VALID,
        episode_return=np.array([[9, 20, 9], [9, 9, 9], [10, 9, 9]], np.float32),
        episode_length=np.array([[1, 6, 1], [1, 1, 1], [3, 1, 1]], np.int32),
        episode_complete=complete,
    )
    found = metrics.rollout_metrics(timesteps, PARTS)
    expected = {
        "episode_return": [15.0, np.nan, np.nan],
        "episode_length": [4.5, np.nan, np.nan],
        "episodes": [2.0, 0.0, 0.0],
        "reward": [16.0 / 5.0, 7.0, 0.0],  # the fault's reward counts for nothing
        "faults": [1.0, 0.0, 0.0],
    }
    assert found.keys() == {f"rollout/{name}" for name in expected}
    for name, values in expected.items():
        np.testing.assert_allclose(found[f"rollout/{name}"], values, rtol=1e-5, err_msg=name)


class Agent:
    """An agent that has statistics alone."""

    def __init__(self, statistics):
        self.statistics = statistics

    def replace(self, statistics):
        return Agent(statistics)


def fresh_agent():
    moments = statistics.init_running_moments
    return Agent(
        Statistics(
            plan_scale=moments(3),
            value_scale=statistics.init_running_scale(3),
            disagreement=moments(3),
            reward=statistics.init_running_range(3),
            recent_reward=moments(3),
            observation=observation_moments.init_observation_moments(3, 1),
        )
    )


def test_running_statistics_of_a_rollout_leave_out_faults_and_what_was_not_planned():
    action, task_id = np.zeros((3, 3, 1), np.float32), np.broadcast_to(TASK_ID, (3, 3))
    observation = np.where(VALID > 0.0, REWARD, 1e3)[..., None]
    names = ("pre_tanh_action", "behaviour_mean", "behaviour_std", "next_observation")
    trajectory = Trajectory(
        observation=observation,
        reward=np.where(VALID > 0.0, REWARD, -50.0),
        termination=0.0 * VALID,
        truncation=1.0 - VALID,
        valid=VALID,
        task_id=task_id,
        **dict.fromkeys(names, action),
    )
    spread = np.array([[2.0, 0.0, np.inf], [4.0, np.nan, 0.0], [3.0, 7.0, 8.0]], np.float32)
    agent = train_step.update_plan_scale(fresh_agent(), trajectory, spread, PARTS)
    agent = train_step.update_rewards(agent, trajectory, PARTS)
    agent = train_step.update_observation_moments(agent, trajectory, PARTS)
    found = agent.statistics
    np.testing.assert_allclose(found.plan_scale.mean, [4.0, 8.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(found.plan_scale.weight, [0.01, 0.01, 0.0], rtol=1e-4)
    np.testing.assert_array_equal(found.reward.low, [1.0, 5.0, 0.0])
    np.testing.assert_array_equal(found.reward.high, [6.0, 9.0, 0.0])
    np.testing.assert_allclose(found.recent_reward.mean, [16.0 / 5.0, 7.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(found.observation.mean[:, 0], [16.0 / 5.0, 7.0, 0.0], rtol=1e-5)
    for name in ("value_scale", "disagreement"):
        before, after = (getattr(x.statistics, name) for x in (fresh_agent(), agent))
        jax.tree.map(np.testing.assert_array_equal, before, after)
