"""Runs that were saved before their first step: what loading needs, without a training step."""

import dataclasses

import jax
import jax.flatten_util

from m3po_jax.config import from_config_dict
from m3po_jax.training.experiment import make_experiment
from m3po_jax.workdir.checkpoint import Checkpointer
from m3po_jax.workdir.folder import open_workdir


def save_run(folder, config_dict, tasks, *, specs=True):
    """Saves a run with random parameters and returns its state."""
    config_dict.tasks = tasks
    config = from_config_dict(config_dict)
    experiment = make_experiment(config)
    state = jax.jit(experiment.init)(jax.random.key(3))
    # fresh heads are zero: every plan would be worth the same and every action nothing
    params, unravel = jax.flatten_util.ravel_pytree(state.agent.params)
    params = params + 0.1 * jax.random.normal(jax.random.key(4), params.shape)
    state = state.replace(agent=state.agent.replace(params=unravel(params)))
    meta = {"wall_seconds": 1.0, "env_steps": 7}
    if specs:
        meta["tasks"] = [dataclasses.asdict(spec) for spec in experiment.env.specs]
    with open_workdir(folder, config) as run, Checkpointer(run.path) as checkpointer:
        checkpointer.save(0, state, meta)
    return experiment, state
