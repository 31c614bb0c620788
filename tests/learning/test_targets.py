"""Everything that is fitted, by hand: plain sums over what the networks say of the data.

The data hold a termination, a truncation and a fault. Compiled once, the updates give what they
report, and what the networks of the agent say; the targets are put together here from the latter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.envs import base
from m3po_jax.learning import policy_update
from m3po_jax.learning.critic_update import critic_update
from m3po_jax.learning.exploration_update import exploration_update
from m3po_jax.learning.world_model_update import world_model_update
from m3po_jax.ops import two_hot
from m3po_jax.training.experiment import make_experiment
from m3po_jax.types import Trajectory, Window
from tests.integration.tiny_config import get_config

TAU, TAU_X, GAMMA_X, EXPECTILE = 0.25, 0.5, 0.9, 0.8
LAMBDA_Q, LAMBDA_V, LAMBDA_A = 0.6, 0.7, 0.9
IMAGINED = 2
MASK = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)  # of the actions, by task
GAMMA = np.array([0.975, 0.95], np.float32)  # (L / 5 - 1) / (L / 5), at least 0.95


class Long:
    """A task of one action that never terminates."""

    observation_size, action_size, episode_length, can_terminate = 2, 1, 200, False

    def reset(self, key):
        x, zero = jax.random.normal(key, (self.observation_size,)), jnp.zeros(())
        return base.EnvState(physics=x, observation=x, reward=zero, termination=zero)

    def step(self, state, action):
        return state.replace(reward=jnp.sum(action))


class Short(Long):
    """A task of two actions that can terminate."""

    observation_size, action_size, episode_length, can_terminate = 3, 2, 40, True


@pytest.fixture(scope="module")
def experiment():
    tree = get_config()
    tree.tasks = tuple(f"{__name__}:{kind.__name__}" for kind in (Long, Short))
    tree.network.num_q, tree.network.dropout = 2, 0.0
    tree.network.log_std_min, tree.network.log_std_max = -20.0, 0.0
    tree.world_model.tau, tree.world_model.lambda_ = TAU, LAMBDA_Q
    tree.world_model.imagined_target_steps = tree.policy.imagined_horizon = IMAGINED
    tree.critic.lambda_, tree.policy.lambda_ = LAMBDA_V, LAMBDA_A
    tree.exploration.tau, tree.exploration.discount = TAU_X, GAMMA_X
    tree.exploration.expectile, tree.exploration.max_bonus = EXPECTILE, 1.2
    tree.train.num_devices = 1
    experiment = make_experiment(from_config_dict(tree))
    np.testing.assert_allclose(experiment.env.discount, GAMMA)
    return experiment


def noise(tree, seed, scale=0.5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0.0, scale, x.shape).astype(np.float32), tree)


def agent_of(experiment, raw_std):
    """Random parameters everywhere, those of targets others than those that learn."""
    shapes = jax.eval_shape(experiment.init, jax.random.key(0)).agent
    agent = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    policy = noise(agent.params.policy, 1, 0.3)
    policy["MLP_0"]["Dense_0"]["bias"][2:] += raw_std
    moments = agent.statistics.disagreement.replace(
        mean=np.array([0.2, 0.3], np.float32), weight=np.array([0.001, 0.0], np.float32)
    )
    return agent.replace(
        params=noise(agent.params, 0).replace(
            policy=policy, exploration=noise(agent.params.exploration, 14, 0.7)
        ),
        target_q=noise(agent.target_q, 2),
        target_exploration=noise(agent.target_exploration, 3),
        statistics=agent.statistics.replace(
            disagreement=moments,
            observation=agent.statistics.observation.replace(
                mean=np.array([[0.1, -0.2, 0.3], [0.0, 0.5, -0.4]], np.float32),
                variance=np.array([[0.5, 1.0, 2.0], [1.5, 0.7, 1.0]], np.float32),
            ),
        ),
    )


def column(*values):
    return np.array(values, np.float32)[:, None]


def window():
    """Four windows: one is whole, the others meet a termination, a truncation and a fault."""
    rng = np.random.default_rng(4)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    termination = np.zeros((3, 4), np.float32)
    termination[1, 1] = 1.0
    return Window(
        observation=normal(3, 4, 3),
        pre_tanh_action=normal(3, 4, 2),
        reward=np.where(mask > 0.0, normal(3, 4), 50.0),
        termination=termination,
        next_observation=normal(3, 4, 3),
        task_id=np.array([0, 1, 0, 1], np.int32),
        mask=mask,
    )


# In the first environment a termination and a fault; in the second a truncation, and a fault first.
TERMINATION = np.hstack([column(0, 1, 0, 0, 0, 0), column(0, 0, 0, 0, 0, 0)])
TRUNCATION = np.hstack([column(0, 0, 0, 1, 0, 0), column(1, 0, 0, 1, 0, 0)])
VALID = np.hstack([column(1, 1, 1, 0, 1, 1), column(0, 1, 1, 1, 1, 1)])


def trajectory():
    """Two environments, one of each task."""
    rng = np.random.default_rng(5)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    task_id = np.tile(np.array([1, 0], np.int32), (6, 1))
    active = MASK[task_id]
    return Trajectory(
        observation=normal(6, 2, 3),
        pre_tanh_action=normal(6, 2, 2) * active,
        reward=normal(6, 2) * VALID,
        termination=TERMINATION,
        truncation=TRUNCATION,
        valid=VALID,
        next_observation=normal(6, 2, 3),
        task_id=task_id,
        behaviour_mean=normal(6, 2, 2) * active,
        behaviour_std=np.exp(0.3 * normal(6, 2, 2)) * active,
    )


def said(networks, params, q, policy, z, u, task_id):
    """What the world model and Q heads `q` say of latents and pre-tanh actions; None: the mean."""
    e = networks.embed(params, jnp.broadcast_to(task_id, z.shape[:-1]))
    mask = jnp.broadcast_to(jnp.asarray(MASK)[task_id], (*z.shape[:-1], 2))
    mean, std = networks.policy(policy, z, e, mask)
    a = jnp.tanh(mean if u is None else u) * mask
    of = functools.partial(networks.apply_model, params)
    value = two_hot.decode(networks.q_logits(q, z, a, e), networks.support)
    termination = jax.nn.sigmoid(of("termination_logit", z, a, e))
    return {
        "z": of("next_latent", z, a, e),
        "reward": two_hot.decode(of("reward_logits", z, a, e), networks.support),
        "continuation": 1.0 - jnp.where(jnp.asarray(task_id) == 1, termination, 0.0),
        "value": jnp.mean(value, axis=0),
        "q_logits": networks.q_logits(params["q"], z, a, e),
        "guesses": of("guesses", z, a, e),
        "policy": (mean, std),
    }


def followed(say, z):
    """What is said of the policy's mean actions at latents and behind them, `[steps + 1, ...]`."""
    steps = []
    for _ in range(IMAGINED + 1):
        steps.append(say(z, None))
        z = steps[-1]["z"]
    names = ("reward", "continuation", "value")
    return {name: jnp.stack([step[name] for step in steps]) for name in names}


def seen(networks, agent, observation, task_id):
    """Latents of observations in units of their task's standard deviation around its mean."""
    moments = agent.statistics.observation
    unit = (observation - moments.mean[task_id]) / jnp.sqrt(moments.variance)[task_id]
    params = agent.params.world_model
    return networks.encode(params, unit, networks.embed(params, task_id))


def said_of_windows(networks, agent, w):
    params = agent.params.world_model
    task_id = jnp.broadcast_to(w.task_id, w.reward.shape)
    say = lambda z, u: said(  # noqa: E731
        networks, params, agent.target_q, agent.params.policy, z, u, w.task_id
    )
    first = seen(networks, agent, w.observation[0], w.task_id)
    z_next = seen(networks, agent, w.next_observation, task_id)
    latents, e = jnp.concatenate([first[None], z_next]), networks.embed(params, task_id)
    rolled, z = [], first
    for u in w.pre_tanh_action:
        rolled.append(say(z, u)["q_logits"])
        z = say(z, u)["z"]
    ahead = networks.exploration_logits(agent.target_exploration, z_next, e)
    return {
        "latents": latents,
        "q_logits": jnp.stack(rolled, axis=1),  # [heads, W, B, bins]
        "behind": followed(say, z_next),
        "imagined": followed(say, first),
        "guesses": say(latents[:-1], w.pre_tanh_action)["guesses"],
        "novelty_logits": networks.exploration_logits(agent.params.exploration, latents[:-1], e),
        "novelty_ahead": two_hot.decode(ahead, networks.support),
    }


def said_of_trajectory(networks, agent, t):
    params = agent.params.world_model
    e = networks.embed(params, t.task_id)
    z, z_next = (seen(networks, agent, x, t.task_id) for x in (t.observation, t.next_observation))
    logits, next_logits = (networks.value_logits(agent.params.critic, x, e) for x in (z, z_next))
    return {
        "logits": logits,
        "value": two_hot.decode(logits, networks.support),
        "next_value": two_hot.decode(next_logits, networks.support),
        "policy": networks.policy(agent.params.policy, z, e, jnp.asarray(MASK)[t.task_id]),
    }


# Small arrays: compiling takes all the time, so XLA need not optimise.
COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def learned(experiment):
    """What the updates make of an agent, and what it says; its policy is sure of itself or not."""
    w, t = window(), trajectory()
    discount = GAMMA[t.task_id[0]]
    keys = jax.random.split(jax.random.key(6), 3)
    one = lambda function: COMPILE(functools.partial(function, parts=experiment))  # noqa: E731
    model, novelty, critic = map(one, (world_model_update, exploration_update, critic_update))
    imagined, real = map(one, (policy_update.imagined_policy_data, policy_update.real_policy_data))
    of_windows, of_trajectory = (
        COMPILE(functools.partial(function, experiment.networks))
        for function in (said_of_windows, said_of_trajectory)
    )

    def of(agent):
        modelled, z, model_metrics = model(agent, w, keys[0])
        explored, novelty_metrics = novelty(agent, w, z)
        _, critic_metrics = critic(agent, t, discount, keys[1])
        return {
            "agents": (agent, modelled, explored),
            "latents": z,
            "metrics": {**model_metrics, **novelty_metrics, **critic_metrics},
            "samples": (imagined(agent, z[0], w.task_id, keys[2]), real(agent, t, discount)),
            "windows": of_windows(agent, w),
            "trajectory": of_trajectory(agent, t),
        }

    return {
        name: jax.device_get(of(agent_of(experiment, raw_std)))
        for name, raw_std in (("sure", -20.0), ("unsure", 1.5))
    }


@pytest.fixture(scope="module")
def cross_entropy(experiment):
    def of(logits, x):
        encoding = np.asarray(two_hot.encode(jnp.asarray(x), experiment.networks.support))
        return -np.sum(encoding * np.asarray(jax.nn.log_softmax(logits)), -1)

    return of


def mean(x, mask):
    return np.sum(x * mask) / np.sum(mask)


def assert_average(new, old, source, tau):
    """`new = (1 - tau) old + tau source`, of which all three differ."""
    for x, y, z in zip(*map(jax.tree.leaves, (new, old, source)), strict=True):
        assert np.any(y != z)
        np.testing.assert_allclose(x, (1.0 - tau) * y + tau * z, rtol=1e-4, atol=1e-6)


def test_q_is_fitted_to_returns_by_its_averaged_heads(learned, cross_entropy):
    found, w = learned["sure"], window()
    behind = found["windows"]["behind"]
    reward, continuation, value = (behind[name] for name in ("reward", "continuation", "value"))
    gamma = GAMMA[w.task_id]
    future = value[IMAGINED]
    for n in reversed(range(IMAGINED)):
        mixed = (1.0 - LAMBDA_Q) * value[n + 1] + LAMBDA_Q * future
        future = reward[n] + gamma * continuation[n] * mixed
    mixed = (1.0 - LAMBDA_Q) * value[0] + LAMBDA_Q * future
    target = w.reward + gamma * (1.0 - w.termination) * mixed
    assert found["metrics"]["world_model/value_target"] == pytest.approx(target.mean(), rel=1e-4)
    heads = [cross_entropy(logits, target) for logits in found["windows"]["q_logits"]]
    assert abs(mean(heads[0] - heads[1], w.mask)) > 0.01
    loss = mean((heads[0] + heads[1]) / 2.0, w.mask)
    assert found["metrics"]["world_model/value_loss"] == pytest.approx(loss, rel=1e-4)


def test_the_averaged_heads_move_towards_those_that_learn(learned):
    before, modelled, explored = learned["sure"]["agents"]
    assert_average(modelled.target_q, before.target_q, modelled.params.world_model["q"], TAU)
    assert_average(
        explored.target_exploration, before.target_exploration, explored.params.exploration, TAU_X
    )
    for new, old in ((modelled, before), (explored, before)):
        pairs = zip(jax.tree.leaves(new.params), jax.tree.leaves(old.params), strict=True)
        assert any(np.any(x != y) for x, y in pairs)


def test_novelty_is_fitted_to_the_bonus_and_its_averaged_value_behind_it(learned, cross_entropy):
    found, w = learned["sure"], window()
    said_here = found["windows"]
    np.testing.assert_allclose(found["latents"], said_here["latents"], rtol=1e-4, atol=1e-6)
    disagreement = np.sqrt(np.mean(np.var(said_here["guesses"], axis=0), axis=-1))
    usual = []
    for task, (old, rate) in enumerate([(0.2, 0.001 / (0.999 * 0.001 + 0.001)), (0.3, 1.0)]):
        here = mean(disagreement, w.mask * (w.task_id == task))
        usual.append(old + rate * (here - old))
    moments = found["agents"][2].statistics.disagreement
    np.testing.assert_allclose(moments.mean, usual, rtol=1e-4)
    bonus = np.minimum(disagreement / np.array(usual)[w.task_id], 1.2)
    assert 1.2 in bonus[w.mask > 0.0] and bonus.min() < 1.0
    ahead = said_here["novelty_ahead"]
    target = (1.0 - GAMMA_X) * bonus + GAMMA_X * (1.0 - w.termination) * ahead
    logits = said_here["novelty_logits"]
    # Most likely value, by the bins themselves.
    bins = np.linspace(-10.0, 10.0, logits.shape[-1])
    symlog = np.sum(np.asarray(jax.nn.softmax(logits)) * bins, -1)
    value = np.sign(symlog) * np.expm1(np.abs(symlog))
    weight = np.where(target > value, EXPECTILE, 1.0 - EXPECTILE)
    assert len(np.unique(weight[w.mask > 0.0])) == 2
    loss = mean(weight * cross_entropy(logits, target.astype(np.float32)), w.mask)
    metrics = found["metrics"]
    assert metrics["exploration/loss"] == pytest.approx(loss, rel=1e-4)
    for name, x in (("bonus", bonus), ("disagreement", disagreement), ("value", ahead)):
        expected = [mean(x, w.mask * (w.task_id == task)) for task in range(2)]
        np.testing.assert_allclose(metrics[f"exploration/{name}"], expected, rtol=1e-4)


def goes_on(t, step, env):
    """Whether what follows a step counts."""
    if step == 5 or t.termination[step, env] or t.truncation[step, env]:
        return False
    return bool(t.valid[step + 1, env])


def test_the_critic_is_fitted_to_returns_of_the_rollout(learned, cross_entropy):
    found, t = learned["unsure"], trajectory()
    value, target = found["trajectory"]["next_value"], np.zeros((6, 2), np.float32)
    for env, task in enumerate(t.task_id[0]):
        for step in reversed(range(6)):
            future = value[step, env]
            if goes_on(t, step, env):
                future = (1.0 - LAMBDA_V) * future + LAMBDA_V * target[step + 1, env]
            gamma = GAMMA[task] * (1.0 - t.termination[step, env])
            target[step, env] = t.reward[step, env] + gamma * future
    metrics = found["metrics"]
    assert metrics["critic/target"] == pytest.approx(mean(target, t.valid), rel=1e-4)
    loss = mean(cross_entropy(found["trajectory"]["logits"], target), t.valid)
    assert metrics["critic/loss"] == pytest.approx(loss, rel=1e-4)


def log_prob(u, mean, std, active):
    density = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)
    return np.sum(np.where(active > 0.0, density, 0.0), -1)


def standardised(x, weight):
    """Mean 0 and deviation 1 where weights are not zero, and 0 there."""
    centred = x - mean(x, weight)
    return np.where(weight > 0.0, centred / np.sqrt(mean(centred**2, weight)), 0.0)


def test_real_samples_have_the_advantages_of_the_rollout(learned):
    found, t = learned["unsure"], trajectory()
    said_here, data = found["trajectory"], found["samples"][1]
    mean_u, std_u = said_here["policy"]
    advantage = np.zeros((6, 2))
    for env, task in enumerate(t.task_id[0]):
        for step in reversed(range(6)):
            gamma = GAMMA[task] * (1.0 - t.termination[step, env])
            now, then = said_here["value"][step, env], said_here["next_value"][step, env]
            advantage[step, env] = t.reward[step, env] + gamma * then - now
            if goes_on(t, step, env):
                advantage[step, env] += gamma * LAMBDA_A * advantage[step + 1, env]
    active = MASK[t.task_id]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.exp(
            log_prob(t.pre_tanh_action, mean_u, std_u, active)
            - log_prob(t.pre_tanh_action, t.behaviour_mean, t.behaviour_std, active)
        )
    assert np.any(ratio > 1.0) and np.any(ratio < 1.0)
    each = [standardised(advantage[:, env], t.valid[:, env]) for env in range(2)]
    expected = np.stack(each, 1) * np.minimum(ratio, 1.0)
    in_time = lambda x: np.swapaxes(x.reshape(2, 6, *x.shape[1:]), 0, 1)  # noqa: E731
    np.testing.assert_allclose(in_time(data.advantage), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(in_time(data.weight), t.valid)
    np.testing.assert_array_equal(in_time(data.u), t.pre_tanh_action)
    for x, y in (
        (data.old.mean, mean_u),
        (data.old.std, std_u),
        (data.behaviour.mean, t.behaviour_mean),
        (data.behaviour.std, t.behaviour_std),
    ):
        np.testing.assert_allclose(in_time(x), y, rtol=1e-4, atol=1e-6)


def test_imagined_samples_have_the_advantages_of_what_is_imagined(learned):
    found, w = learned["sure"], window()
    imagined, data = found["windows"]["imagined"], found["samples"][0]
    gamma, following = GAMMA[w.task_id], 0.0
    advantage, weight = np.zeros((IMAGINED, 4)), np.ones((IMAGINED, 4))
    for n in reversed(range(IMAGINED)):
        keep = gamma * imagined["continuation"][n]
        now, then = imagined["value"][n], imagined["value"][n + 1]
        following = imagined["reward"][n] + keep * then - now + keep * LAMBDA_A * following
        advantage[n] = following
    weight[1] = imagined["continuation"][0]
    assert np.all(weight[1, [1, 3]] < 0.95) and np.all(weight[1, [0, 2]] == 1.0)
    expected = np.zeros((IMAGINED, 4))
    for task in range(2):
        expected += standardised(advantage, weight * (w.task_id == task))
    np.testing.assert_allclose(data.advantage.reshape(4, -1).T, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(data.weight.reshape(4, -1).T, weight, rtol=1e-4)
