"""The world model predicts rewards several steps ahead on a real simulator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import Config, EnvConfig, WorldModelConfig
from m3po_jax.learning import rollout
from m3po_jax.learning.values import target_model
from m3po_jax.learning.world_model_update import world_model_update
from m3po_jax.replay import buffer
from m3po_jax.training.experiment import make_experiment
from m3po_jax.types import BatchLayout
from m3po_jax.world_model.latent import task_context

HORIZON = 5
TRAIN_ENVS, TEST_ENVS, STEPS, UPDATES = 96, 32, 240, 3000
# Starts are at all angles, but random actions soon leave the pendulum hanging without reward: short
# episodes keep the rewarded part of the state space in the data.
TASK = "dmc/PendulumSwingup?episode_length=60&action_repeat=2"


def random_data(experiment, key):
    """One long unroll of random actions in all environments."""
    env = experiment.env
    start_key, agent_key, key = jax.random.split(key, 3)
    agent = experiment.init(agent_key).agent
    start = rollout.RolloutState(
        env=env.init(start_key, stagger=True),
        plan_mean=jnp.zeros((env.batch_size, experiment.config.planner.horizon, env.action_size)),
    )
    _, trajectory, _, _ = rollout.collect(
        env, agent, start, key, parts=experiment, random=jnp.array(True)
    )
    return agent, trajectory


def fill(trajectory):
    """A replay buffer that holds exactly this trajectory."""
    length, num_envs = trajectory.reward.shape
    empty = buffer.init(trajectory, batch_size=num_envs, capacity_per_env=length)
    return buffer.add(empty, trajectory)


def train(experiment, agent, replay, key):
    """Updates of the world model alone."""
    layout = BatchLayout((replay.data["reward"].shape[0],))

    def body(index, agent):
        sample_key, update_key = jax.random.split(jax.random.fold_in(key, index))
        window = buffer.sample(
            replay,
            sample_key,
            batch_size=experiment.config.world_model.batch_size,
            window=experiment.config.world_model.horizon,
            layout=layout,
        )
        agent, _, _ = world_model_update(agent, window, update_key, parts=experiment)
        return agent

    return jax.lax.fori_loop(0, UPDATES, body, agent)


def squared_errors(experiment, agent, window):
    """Errors of the rewards of steps 1 to 5 after the first: the model's, and persistence's."""
    context = task_context(experiment.networks, agent.params.world_model, window.task_id)
    model = target_model(experiment.networks, agent)
    z = experiment.networks.encode(agent.params.world_model, window.observation[1], context.e)
    mask = window.mask[1:]
    predicted = []
    for u in window.pre_tanh_action[1:]:
        z, reward, _ = model.next(z, u, context)
        predicted.append(reward)
    # The last reward that was seen before the prediction starts, held constant.
    held = jnp.broadcast_to(window.reward[0], window.reward[1:].shape)

    def error(x):
        return jnp.sum(mask * (x - window.reward[1:]) ** 2) / jnp.sum(mask)

    return error(jnp.stack(predicted)), error(held)


@pytest.mark.slow
def test_reward_prediction_beats_persistence_on_pendulum():
    config = Config(
        tasks=(TASK,),
        env=EnvConfig(num_envs=TRAIN_ENVS + TEST_ENVS, unroll_length=STEPS),
        # One-step targets: the values are no part of this test, only their gradient is.
        world_model=WorldModelConfig(value_target="td"),
    )
    experiment = make_experiment(config)
    data_key, train_key, test_key = jax.random.split(jax.random.key(0), 3)
    agent, trajectory = jax.jit(functools.partial(random_data, experiment))(data_key)
    split = lambda rows: jax.tree.map(lambda x: x[:, rows], trajectory)  # noqa: E731
    seen, held_out = split(slice(0, TRAIN_ENVS)), split(slice(TRAIN_ENVS, None))
    assert np.sum(np.asarray(held_out.reward) > 0.0) > 50, "the data hold hardly any reward"

    agent = jax.jit(functools.partial(train, experiment))(agent, fill(seen), train_key)
    layout = BatchLayout((TEST_ENVS,))
    window = buffer.sample(
        fill(held_out), test_key, batch_size=4000, window=HORIZON + 1, layout=layout
    )
    model_error, held_error = squared_errors(experiment, agent, window)
    print(f"squared error: model {model_error:.5f}, persistence {held_error:.5f}")
    assert held_error > 5.0 * model_error, (float(model_error), float(held_error))
