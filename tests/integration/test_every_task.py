"""Every task of the registry trains: random steps, one iteration of learning, one evaluation."""

import math

import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.training import scores
from m3po_jax.training.loop import train_and_evaluate
from m3po_jax.workdir.folder import open_workdir
from m3po_jax.workdir.metrics import read_metrics
from tests import registered_tasks
from tests.integration import tiny_config

FAST = {"toy/TerminatingPole", "dmc/PendulumSwingup"}
NUM_ENVS = 2
# Steps of each environment with random actions, and of an episode.
STEPS = 100


@pytest.mark.parametrize("name", registered_tasks.parameters(FAST))
def test_a_task_trains_and_is_evaluated_without_nan(name, tmp_path):
    registered_tasks.skip_if_unavailable(name)
    cfg = tiny_config.get_config()
    cfg.tasks = (f"{name}?episode_length={STEPS}",)
    cfg.env.num_envs = NUM_ENVS
    cfg.env.unroll_length = STEPS
    cfg.replay.capacity = 4 * NUM_ENVS * STEPS
    cfg.train.warmup_env_steps = NUM_ENVS * STEPS
    cfg.train.total_env_steps = 2 * NUM_ENVS * STEPS
    cfg.train.eval_every = cfg.train.checkpoint_every = cfg.train.total_env_steps
    cfg.train.log_every = 1
    config = from_config_dict(cfg)
    validate(config)
    with open_workdir(tmp_path, config) as workdir:
        record = train_and_evaluate(config, workdir.path, quiet=True)

    metrics = read_metrics(tmp_path)
    assert metrics["env_steps"] == [NUM_ENVS * STEPS, 2 * NUM_ENVS * STEPS]
    # Nothing is learned from while actions are random: those entries are NaN in the first row.
    learned = {key: values[1] for key, values in metrics.items()}
    assert learned["updates"] > 0
    assert sum(learned[key] for key in learned if key.endswith("/skipped")) == 0
    assert sum(metrics[f"rollout/faults/{name}"]) == 0
    bad = {key: x for key, x in learned.items() if not math.isfinite(x)}
    # Where no episode ended in the iteration it has no return.
    assert set(bad) <= {key for key in learned if key.startswith("rollout/episode_")}, bad

    result = record["tasks"][name]
    assert math.isfinite(result["return_mean"])
    assert 0 < result["length_mean"] <= STEPS
    known = scores.normalized_score(name, 0.0) is not None
    assert (result["normalized"] is not None) == known
    assert None not in record["model_error"][name]["reward"]
