"""The nearest known task is the one whose embedding explains the rewards of a new one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.ops.symlog import symexp
from m3po_jax.training import finetune, finetune_config
from m3po_jax.training.checkpoint import Checkpointer
from m3po_jax.training.experiment import make_experiment
from m3po_jax.training.nearest_task import reward_losses
from m3po_jax.training.workdir import open_workdir, read_config
from m3po_jax.types import Trajectory
from tests.integration.saved_run import save_run
from tests.integration.tiny_config import get_config

HORIZON = 3
WINDOWS = 60
B = 8
NUM_EMBEDDINGS = 4


@pytest.fixture(scope="module")
def world():
    """Networks of two tasks, world-model parameters that are not zero anywhere, embeddings."""
    tree = get_config()
    tree.tasks = ("toy/PointReachA", "toy/LinearQuadratic")
    experiment = make_experiment(from_config_dict(tree))
    rng = np.random.default_rng(0)
    shapes = experiment.state_shapes().agent.params.world_model
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    size = experiment.networks.world_model.embedding_size
    return experiment.networks, params, jnp.asarray(rng.normal(size=(NUM_EMBEDDINGS, size)))


def imagined_trajectory(world, row_of_task):
    """Windows whose rewards are drawn from the model with a given embedding for each task."""
    networks, params, embeddings = world
    bins = jnp.asarray(networks.support.bins)
    task_id = jnp.arange(B) % 2
    e = embeddings[jnp.asarray(row_of_task)[task_id]]
    mask = networks.action_mask(task_id)
    steps = []
    for key in jax.random.split(jax.random.key(1), WINDOWS):
        observation_key, *keys = jax.random.split(key, HORIZON + 1)
        observation = jax.random.normal(observation_key, (B, networks.observation_size))
        z = networks.encode(params, observation, e)
        for step_key in keys:
            action_key, reward_key = jax.random.split(step_key)
            u = jax.random.normal(action_key, mask.shape) * mask
            a = jnp.tanh(u)
            logits = networks.apply_model(params, "reward_logits", z, a, e)
            reward = symexp(bins[jax.random.categorical(reward_key, logits)])
            steps.append((observation, u, reward))
            z = networks.apply_model(params, "next_latent", z, a, e)
            observation = jnp.full_like(observation, 7.0)  # only the first of a window is encoded
    observation, u, reward = (jnp.stack(x) for x in zip(*steps, strict=True))
    zeros = jnp.zeros_like(reward)
    return Trajectory(
        observation=observation, pre_tanh_action=u, reward=reward, termination=zeros,
        truncation=zeros, valid=zeros + 1.0, next_observation=observation,
        task_id=jnp.broadcast_to(task_id, reward.shape), behaviour_mean=u, behaviour_std=u,
    )  # fmt: skip


def losses(world, trajectory):
    networks, params, embeddings = world
    return reward_losses(networks, params, embeddings, trajectory, horizon=HORIZON, num_tasks=2)


@pytest.mark.parametrize("row_of_task", [(0, 3), (2, 1)])
def test_the_embedding_that_made_the_rewards_explains_them_best(world, row_of_task):
    found = losses(world, imagined_trajectory(world, row_of_task))
    assert found.shape == (NUM_EMBEDDINGS, 2)
    assert np.argmin(found, axis=0).tolist() == list(row_of_task)


def test_what_follows_an_episodes_end_or_a_fault_is_left_out(world):
    trajectory = imagined_trajectory(world, (0, 3))
    ends = jnp.zeros_like(trajectory.reward).at[1::HORIZON].set(1.0)
    cut = trajectory.replace(truncation=ends)
    other = cut.replace(reward=cut.reward.at[2::HORIZON].set(jnp.nan))
    np.testing.assert_array_equal(losses(world, other), losses(world, cut))
    assert not np.allclose(losses(world, cut), losses(world, trajectory))
    faulty = cut.replace(valid=1.0 - ends, reward=other.reward.at[1::HORIZON].set(jnp.nan))
    assert np.all(np.isfinite(losses(world, faulty)))


def test_a_new_task_starts_from_the_nearest_known_one(tmp_path):
    old, state = save_run(tmp_path / "old", get_config(), ("toy/PointReachA", "toy/PointReachB"))
    tree = get_config()
    tree.tasks = ("toy/TerminatingPole", "toy/PointReachA", "toy/LinearQuadratic")
    config = finetune_config.adapted_config(
        from_config_dict(tree), read_config(tmp_path / "old"), embedding="nearest"
    )
    with open_workdir(tmp_path / "new", config) as run:
        sources = finetune.begin(
            config, run.path, tmp_path / "old", embedding="nearest", replay=False
        )
    known = [spec.name for spec in old.env.specs]
    assert list(sources) == list(tree.tasks)
    assert sources["toy/PointReachA"] == ("toy/PointReachA",)
    with Checkpointer(tmp_path / "new") as checkpointer:
        saved, meta = checkpointer.restore_latest(make_experiment(config).state_shapes())
    assert meta["embedding_sources"] == {task: list(names) for task, names in sources.items()}
    was = state.agent.params.world_model["embedding"]["table"]
    now = saved.agent.params.world_model["embedding"]["table"]
    np.testing.assert_allclose(now, [was[known.index(name)] for (name,) in sources.values()])
