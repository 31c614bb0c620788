"""The nearest known task is the one whose embedding predicts a new one's motion best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.finetuning import begin, compatibility
from m3po_jax.finetuning.nearest_task import latent_errors
from m3po_jax.learning.state import trajectory_shapes
from m3po_jax.replay import buffer
from m3po_jax.training.experiment import make_experiment
from m3po_jax.workdir.checkpoint import Checkpointer
from m3po_jax.workdir.folder import open_workdir, read_config
from tests.integration.saved_run import save_run
from tests.integration.tiny_config import get_config

STEPS = 40
HORIZON = 3
MARKS = (0.3, -0.8, 1.5)


class MarkedNetworks:
    """The latent is the first number observed, in units of the embedding's size."""

    def can_terminate(self, task_id):
        return None

    def __init__(self, networks):
        self._networks = networks

    def embed(self, params, task_id):
        return params["embedding"]["table"][task_id]

    def action_mask(self, task_id):
        return self._networks.action_mask(task_id)

    def encode(self, params, observation, e):
        # Of another scale for every embedding, which must not decide.
        return observation[..., :1] * jnp.abs(e)


class MarkedModel:
    """In those units the number grows by the embedding at each step."""

    def next(self, z, u, context):
        return z + context.e * jnp.abs(context.e), jnp.zeros(z.shape[:-1]), None


@pytest.fixture
def marked(monkeypatch):
    """An experiment of two tasks, its agent, and the errors of replayed observations."""
    tree = get_config()
    tree.tasks = ("toy/PointReachA", "toy/PointReachB")
    experiment = make_experiment(from_config_dict(tree))
    env, shapes = experiment.env, experiment.state_shapes().agent
    agent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    monkeypatch.setattr(
        "m3po_jax.learning.model_error.update.target_model", lambda *_: MarkedModel()
    )

    def errors(observation):
        """`observation` `[T + 1, B]` is the first number that is observed."""
        lead = (STEPS, env.batch_size)
        trajectory = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            trajectory_shapes(lead, env.observation_size, env.action_size),
        )
        full = jnp.zeros((STEPS + 1, env.batch_size, env.observation_size))
        full = full.at[..., 0].set(observation)
        trajectory = trajectory.replace(
            observation=full[:-1],
            next_observation=full[1:],
            valid=jnp.ones(lead),
            task_id=jnp.broadcast_to(jnp.asarray(env.task_id), lead),
        )
        empty = buffer.init(trajectory, batch_size=env.batch_size, capacity_per_env=STEPS)
        table = jnp.asarray(MARKS)[:, None]
        return latent_errors(
            agent, table, buffer.add(empty, trajectory), jax.random.key(1), env,
            MarkedNetworks(experiment.networks), horizon=HORIZON,
        )  # fmt: skip

    return env, errors


@pytest.mark.parametrize("row_of_task", [(0, 2), (2, 1), (1, 1)])
def test_the_embedding_that_moves_as_the_task_does_is_nearest(marked, row_of_task):
    env, errors = marked
    speed = jnp.asarray(MARKS)[jnp.asarray(row_of_task)][jnp.asarray(env.task_id)]
    found = errors(speed * jnp.arange(STEPS + 1.0)[:, None])
    assert found.shape == (len(MARKS), 2)
    assert np.argmin(found, axis=0).tolist() == list(row_of_task)
    # The number moves by its speed at each step and the model moves it by the mark.
    expected = np.abs(np.asarray(MARKS)[:, None] / np.asarray(MARKS)[list(row_of_task)] - 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_new_task_starts_from_the_nearest_known_one(tmp_path):
    old, state = save_run(tmp_path / "old", get_config(), ("toy/PointReachA", "toy/PointReachB"))
    tree = get_config()
    tree.tasks = ("toy/TerminatingPole", "toy/PointReachA", "toy/LinearQuadratic")
    origin = compatibility.Origin(tmp_path / "old", "nearest")
    config = compatibility.adapted_config(
        from_config_dict(tree), read_config(tmp_path / "old"), origin
    )
    with open_workdir(tmp_path / "new", config) as run:
        lines = begin.begin(config, run.path, origin)
    known = [spec.name for spec in old.env.specs]
    told = dict(line.split(" starts from the embedding of ") for line in lines)
    assert list(told) == ["toy/TerminatingPole", "toy/LinearQuadratic"]
    sources = {"toy/PointReachA": "toy/PointReachA", **told}
    with Checkpointer(tmp_path / "new") as checkpointer:
        saved, _ = checkpointer.restore_latest(make_experiment(config).state_shapes())
    was = state.agent.params.world_model["embedding"]["table"]
    now = saved.agent.params.world_model["embedding"]["table"]
    np.testing.assert_allclose(now, [was[known.index(sources[task])] for task in tree.tasks])
