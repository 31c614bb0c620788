"""Environments of Brax's and MuJoCo Playground's kind, with and without their training wrappers."""

import warnings

import jax
import jax.numpy as jnp
import mujoco_playground
import numpy as np
import pytest
from brax import envs as brax_envs
from brax.envs.wrappers import training
from mujoco_playground._src import wrapper as playground_wrapper

from m3po_jax import config
from m3po_jax.envs import registry, training_wrappers

HERE = "tests.envs.test_training_wrappers"


class Walk(brax_envs.Env):
    """A point that walks as the actions say."""

    action_size, backend, observation_size = 1, "none", 1

    def reset(self, rng):
        zero = jnp.zeros(())
        return brax_envs.State(None, zero[None], zero, zero, {"best": zero}, {"x": zero})

    def step(self, state, action):
        x = state.info["x"] + action[0]
        info = {**state.info, "x": x}
        return state.replace(obs=x[None], reward=jnp.ones(()), done=jnp.zeros(()), info=info)


class Record(Walk):
    """Pays for a new record, which it keeps in its metrics."""

    def step(self, state, action):
        new = super().step(state, action)
        best = jnp.maximum(state.metrics["best"], new.info["x"])
        return new.replace(reward=best - state.metrics["best"], metrics={"best": best})


class Sum(Walk):
    """Its reward grows with the last one."""

    def step(self, state, action):
        return super().step(state, action).replace(reward=state.reward + 1.0)


class OwnLimit(Walk):
    """Ends after 3 steps and says that it was by time; a jump to the left ends it truly."""

    def reset(self, rng):
        state, zero = super().reset(rng), jnp.zeros(())
        return state.replace(info={**state.info, "truncation": zero, "steps": zero})

    def step(self, state, action):
        new, steps = super().step(state, action), state.info["steps"] + 1
        over, fell = (steps >= 3).astype(jnp.float32), (action[0] < 0).astype(jnp.float32)
        info = {**new.info, "truncation": over, "steps": steps}
        return new.replace(done=jnp.maximum(over, fell), info=info)


class NanDone(Walk):
    def step(self, state, action):
        return super().step(state, action).replace(done=action[0] * jnp.nan)


class PlaygroundWalk(mujoco_playground.MjxEnv):
    """The same in Playground's interface."""

    action_size, observation_size = 1, 1
    xml_path, mj_model, mjx_model = "", None, None

    def __init__(self):
        pass

    def reset(self, rng):
        zero = jnp.zeros(())
        return mujoco_playground.State(zero, zero[None], zero, zero, {}, {})

    def step(self, state, action):
        x = state.data + action[0]
        return state.replace(data=x, obs=x[None], reward=jnp.ones(()), done=jnp.zeros(()))


class Doubled(brax_envs.Wrapper):
    """A wrapper of the user's own, which belongs to the task."""

    def step(self, state, action):
        state = self.env.step(state, action)
        return state.replace(reward=2.0 * state.reward)


class OwnAutoReset(brax_envs.Wrapper):
    """A copy of Brax's under another name."""

    def reset(self, rng):
        state = self.env.reset(rng)
        return state.replace(info={**state.info, "first_obs": state.obs, "first_state": 0})


def created():
    return brax_envs.create("fast", episode_length=5)


def created_batch():
    return brax_envs.create("fast", episode_length=5, batch_size=4)


def limited():
    return training.EpisodeWrapper(Walk(), 5, 1)


def evaluated():
    return training.EvalWrapper(training.EpisodeWrapper(Doubled(Walk()), 5, 1))


def playground_wrapped():
    return playground_wrapper.wrap_for_brax_training(PlaygroundWalk(), episode_length=5)


def buried():
    return Doubled(training.EpisodeWrapper(Walk(), 5, 1))


def repeated():
    return training.EpisodeWrapper(Walk(), 5, 2)


def randomized():
    env = brax_envs.get_environment("inverted_pendulum", backend="spring")
    return training.DomainRandomizationVmapWrapper(env, lambda sys: (sys, None))


def subclassed():
    class Mine(training.AutoResetWrapper):
        pass

    return Mine(Walk())


def own_auto_reset():
    return OwnAutoReset(Walk())


def _make(name):
    return registry.make((f"{HERE}:{name}?num_envs=1",), config.EnvConfig(action_repeat=1))


def _play(env, action, steps):
    """Timesteps `[T]` of one environment."""
    state = env.init(jax.random.key(0), stagger=False)
    pool, step = env.draw_resets(jax.random.key(1)), jax.jit(env.step)
    timesteps = []
    for _ in range(steps):
        state, timestep = step(state, pool, jnp.full((1, 1), action))
        timesteps.append(timestep)
    return jax.tree.map(lambda *x: np.stack(x)[:, 0], *timesteps)


@pytest.mark.parametrize(
    "name", ["created", "created_batch", "limited", "evaluated", "playground_wrapped"]
)
def test_training_wrappers_are_taken_off_and_the_limit_stays_one(name):
    with pytest.warns(UserWarning, match=f"{name}: the training wrappers .* limit of 5 control"):
        env = _make(name)
    assert env.specs[0].episode_length == 5
    played = _play(env, 0.5, 6)
    assert played.truncation.tolist() == [0, 0, 0, 0, 1, 0]
    assert not played.termination.any() and played.valid.all()
    if name != "created" and name != "created_batch":
        # The successor of the last step is where it led, not the start of the next episode.
        assert played.next_observation[:, 0].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 0.5]
    if name == "evaluated":  # the user's own wrapper below stays
        assert played.reward.tolist() == [2.0] * 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("buried", "EpisodeWrapper below Doubled"),
        ("repeated", "action_repeat=1 and write .action_repeat=2 behind"),
        ("randomized", "DomainRandomizationVmapWrapper around it"),
        ("subclassed", "Mine around it"),
        ("own_auto_reset", "keeps 'first_obs' in its info"),
    ],
)
def test_what_cannot_be_taken_off_is_refused(name, words):
    with pytest.raises(config.ConfigError, match=f"{HERE}:{name} .*{words}"):
        _make(name)


def test_a_bare_environment_is_left_alone_in_silence():
    environment = Doubled(Walk())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bare = training_wrappers.unwrap("x", environment)
    assert bare == (environment, None)


def test_truncation_in_the_info_is_one():
    env = _make("OwnLimit")
    played = _play(env, 0.5, 7)
    assert played.truncation.tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert not played.termination.any()
    assert played.next_observation[:, 0].tolist() == [0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 0.5]
    assert _play(env, -1.0, 1).termination.tolist() == [1]


@pytest.mark.parametrize(("name", "rewards"), [("Record", [1, 1, 1, 1]), ("Sum", [1, 2, 3, 4])])
def test_a_step_sees_the_metrics_and_the_reward_of_the_last_one(name, rewards):
    assert _play(_make(name), 1.0, 4).reward.tolist() == rewards


def test_a_done_that_is_nan_is_a_fault():
    played = _play(_make("NanDone"), 1.0, 1)
    assert played.valid.tolist() == [0] and played.termination.tolist() == [0]
