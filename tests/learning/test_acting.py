"""How collecting and evaluating join planner and environments, by a spy for the planner."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.envs import base
from m3po_jax.learning import episodes, rollout
from m3po_jax.planning import mppi
from m3po_jax.training.experiment import make_experiment
from tests.integration.tiny_config import get_config

HORIZON = 3
# What the spy plans in every step; shifted, it is (2, 3, 0).
PLAN = np.array([1.0, 2.0, 3.0], np.float32)


class EndsAfter:
    """Pays 1 in every step and terminates after `steps` of them."""

    observation_size, action_size, episode_length, can_terminate = 1, 1, 8, True
    steps = 2

    def reset(self, key):
        del key
        return self._state(jnp.zeros(1), 0.0)

    def step(self, state, action):
        return self._state(state.physics + 1.0, 1.0)

    def _state(self, x, reward):
        termination = (x[0] >= self.steps).astype(jnp.float32)
        return base.EnvState(
            physics=x, observation=x, reward=jnp.float32(reward), termination=termination
        )


class EndsLater(EndsAfter):
    """Lives on while the other task has been reset already."""

    steps = 5


@pytest.fixture(scope="module")
def experiment():
    tree = get_config()
    tree.tasks = tuple(f"{__name__}:{kind.__name__}" for kind in (EndsAfter, EndsLater))
    tree.env.num_envs, tree.env.action_repeat, tree.env.unroll_length = 1, 1, 6
    tree.planner.horizon = HORIZON
    tree.train.num_devices = 1
    return make_experiment(from_config_dict(tree))


class Spy:
    """Plans `PLAN` and keeps what it was asked with: plans and keys of each step, and options."""

    def __init__(self, monkeypatch, name="planned_actions"):
        self.plans, self.keys, self.options = [], [], []
        monkeypatch.setattr(rollout, name, self)

    def __call__(self, networks, agent, rows, observation, plan_mean, keys, **options):
        self.options.append(options)
        jax.debug.callback(self._note, plan_mean, jax.random.key_data(keys), ordered=True)
        zeros = jnp.zeros((*plan_mean.shape[:1], plan_mean.shape[-1]))
        plan = jnp.broadcast_to(PLAN[:, None], plan_mean.shape)
        return rollout.Actions(zeros, zeros, zeros, plan, zeros[:, 0])

    def _note(self, plan_mean, keys):
        self.plans.append(np.asarray(plan_mean)[..., 0])
        self.keys.append(np.asarray(keys))


@pytest.fixture(scope="module")
def state(experiment):
    return jax.jit(experiment.init)(jax.random.key(0))


def test_an_evaluation_counts_first_episodes_alone_and_plans_on(experiment, state, monkeypatch):
    spy = Spy(monkeypatch)
    play = functools.partial(episodes.evaluate, parts=experiment, policy="planner")
    result = jax.jit(play)(state.agent, jax.random.key(1))
    jax.effects_barrier()
    np.testing.assert_array_equal(result.returns, [2.0, 5.0])
    np.testing.assert_array_equal(result.lengths, [2, 5])
    assert all(options["explore"] is False for options in spy.options)
    shifted, none = [2.0, 3.0, 0.0], [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(
        spy.plans,
        [
            [none, none],
            [shifted, shifted],
            [none, shifted],  # the first task has ended: its plan starts anew
            [shifted, shifted],
            [none, shifted],
        ],
    )
    assert len(np.unique(np.reshape(spy.keys, (-1, 2)), axis=0)) == 10  # 5 steps of 2 rows


def test_the_policy_alone_is_evaluated_at_its_mean(experiment, state, monkeypatch):
    spy = Spy(monkeypatch, "prior_actions")
    play = functools.partial(episodes.evaluate, parts=experiment, policy="prior")
    jax.eval_shape(play, state.agent, jax.random.key(1))
    assert spy.options and all(options == {"explore": False} for options in spy.options)


def collected(experiment, state):
    # Every episode starts here.
    start = state.rollout.replace(env=experiment.env.init(jax.random.key(2), stagger=False))
    unroll = functools.partial(
        rollout.collect, experiment.env, parts=experiment, random=jnp.array(False)
    )
    result = jax.jit(unroll)(state.agent, start, jax.random.key(3))
    jax.effects_barrier()
    return result


def test_an_unroll_plans_on_and_an_environment_may_end_twice_in_it(experiment, state, monkeypatch):
    spy = Spy(monkeypatch)
    end, trajectory, timesteps, _ = collected(experiment, state)
    assert all(options["explore"] is True for options in spy.options)
    shifted, none = [2.0, 3.0, 0.0], [0.0, 0.0, 0.0]
    first = [none, shifted, none, shifted, none, shifted]  # it ends after 2, 4 and 6 steps
    second = [none, *[shifted] * 4, none]  # and this one after 5
    np.testing.assert_array_equal(np.swapaxes(spy.plans, 0, 1), [first, second])
    np.testing.assert_array_equal(end.plan_mean[..., 0], [none, shifted])
    assert len(np.unique(np.reshape(spy.keys, (-1, 2)), axis=0)) == 12
    np.testing.assert_array_equal(trajectory.termination[:, 0], [0, 1, 0, 1, 0, 1])
    # The true successor, and the reset observation in the row after it.
    np.testing.assert_array_equal(trajectory.next_observation[:, 0, 0], [1, 2, 1, 2, 1, 2])
    np.testing.assert_array_equal(trajectory.observation[:, 0, 0], [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(trajectory.reward, np.ones((6, 2)))
    complete = np.asarray(timesteps.episode_complete)
    np.testing.assert_array_equal(timesteps.episode_return[complete > 0.0], [2.0, 2.0, 5.0, 2.0])


def test_without_a_planner_the_policy_draws(experiment, state, monkeypatch):
    planner = dataclasses.replace(experiment.config.planner, collect=False)
    config = dataclasses.replace(experiment.config, planner=planner)
    spy = Spy(monkeypatch, "prior_actions")
    collected(dataclasses.replace(experiment, config=config), state)
    assert spy.options and all(options == {"explore": True} for options in spy.options)


def test_actions_are_drawn_from_what_is_recorded_as_their_gaussian(experiment, state):
    """Each environment draws with its own key; without exploration it takes the mean."""
    env = experiment.env
    keys = jax.random.split(jax.random.key(7), env.batch_size)
    noise = np.stack([jax.random.normal(key, (env.action_size,)) for key in keys])
    plan_mean = jnp.zeros((env.batch_size, HORIZON, env.action_size))
    observation = jnp.ones((env.batch_size, env.observation_size))
    act = functools.partial(
        rollout.prior_actions, experiment.networks, state.agent, env, observation, plan_mean, keys
    )
    drawn, certain = act(explore=True), act(explore=False)
    assert np.all(drawn.std > 0.0) and not np.any(certain.std)
    np.testing.assert_allclose(drawn.u, drawn.mean + drawn.std * noise, rtol=1e-5)
    np.testing.assert_array_equal(certain.u, drawn.mean)
    random = rollout.random_actions(env, plan_mean, keys)
    np.testing.assert_allclose(random.u, random.mean + random.std * noise, rtol=1e-5)
    assert not np.any(random.mean) and np.all(random.std == 1.0)


def planned(experiment, agent, monkeypatch, what):
    """First actions `[B]` of plans in which `what(keywords of the planner)` is the action."""

    def plan(model, z, context, plan_mean, key, **keywords):
        u = jnp.broadcast_to(what(keywords, z, context), (experiment.env.action_size,))
        zeros = jnp.zeros_like(u)
        return mppi.Plan(u, u, zeros, plan_mean, plan_mean, zeros, zeros[0])

    monkeypatch.setattr(rollout.mppi, "mppi_plan", plan)
    env = experiment.env
    observation = jnp.zeros((env.batch_size, env.observation_size))
    plan_mean = jnp.zeros((env.batch_size, HORIZON, env.action_size))
    keys = jax.random.split(jax.random.key(0), env.batch_size)
    args = (experiment.networks, agent, env, observation, plan_mean, keys)
    actions = rollout.planned_actions(*args, explore=True, config=experiment.config)
    return np.asarray(actions.u)[:, 0]


def mastered(agent, best=1.0, recent=1.0):
    """The agent in tasks that pay 0 to `best` per step, and `recent` of late."""
    statistics, ones = agent.statistics, jnp.ones(2)
    reward = statistics.reward.replace(high=best * ones, seen=ones)
    lately = statistics.recent_reward.replace(mean=recent * ones)
    return agent.replace(statistics=statistics.replace(reward=reward, recent_reward=lately))


def with_scale(agent, mean, weight):
    scale = agent.statistics.plan_scale.replace(mean=jnp.array(mean), weight=jnp.array(weight))
    return agent.replace(statistics=agent.statistics.replace(plan_scale=scale))


def test_each_environment_plans_with_scale_and_discount_of_its_task(experiment, state, monkeypatch):
    agent = with_scale(mastered(state.agent), [3.0, 7.0], [0.5, 0.5])
    scale = planned(experiment, agent, monkeypatch, lambda given, z, c: given["return_scale"])
    np.testing.assert_array_equal(scale, [3.0, 7.0])
    discount = planned(experiment, agent, monkeypatch, lambda given, z, c: given["discount"])
    np.testing.assert_allclose(discount, experiment.env.discount)
    unknown = with_scale(agent, [0.0, 7.0], [0.0, 0.5])
    scale = planned(experiment, unknown, monkeypatch, lambda given, z, c: given["return_scale"])
    np.testing.assert_array_equal(scale, [1.0, 7.0])


def test_novelty_counts_as_far_as_the_task_stays_below_its_best_reward(
    experiment, state, monkeypatch
):
    agent = with_scale(state.agent, [3.0, 0.5], [0.5, 0.5])

    def unit_and_share(agent):
        unit = planned(experiment, agent, monkeypatch, lambda given, z, c: given["return_scale"])
        share = planned(experiment, agent, monkeypatch, lambda given, z, c: given["novelty"].share)
        return unit, share

    # Nothing known to pay: returns count for nothing.
    np.testing.assert_array_equal(unit_and_share(agent), [[np.inf, np.inf], [1.0, 1.0]])
    np.testing.assert_array_equal(unit_and_share(mastered(agent)), [[3.0, 0.5], [0.0, 0.0]])
    # w = 0.0375 * (100 - 60) = 1.5, in the unit max(s, w).
    halfway = mastered(agent, best=100.0, recent=60.0)
    np.testing.assert_allclose(unit_and_share(halfway), [[3.0, 1.5], [0.5, 1.0]], rtol=1e-5)
