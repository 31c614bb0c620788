"""Which known task a new one is nearest to, as the world model sees it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.learning import rollout
from m3po_jax.learning.model_error import model_errors
from m3po_jax.learning.state import AgentState, RolloutState
from m3po_jax.networks.factory import Networks
from m3po_jax.replay import buffer
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.experiment import Experiment, make_experiment, on_one_device

# Random steps of each environment of a new task.
STEPS = 128


def nearest_tasks(
    new: Experiment, agent: AgentState, known: Sequence[str], table: jax.Array
) -> dict[str, str]:
    """The known task of each task of a run whose embedding predicts its motion best.

    Every environment takes `STEPS` random steps; `latent_errors` over the model's training horizon
    decides. Rewards do not: under random actions those of many tasks are zero, and a task of
    another body whose rewards are zero would come nearest.

    Args:
        new: The run.
        agent: Its agent, moved to the sizes of the run.
        known: Names of the known tasks.
        table: Their rows of the embedding table `[J, E]`.

    Returns:
        A known task for every task of the run.
    """
    single = make_experiment(on_one_device(new.config))
    env, networks = single.env, single.networks
    cfg = dataclasses.replace(
        single.config,
        env=dataclasses.replace(single.config.env, unroll_length=STEPS),
        # All actions are random, so no planner need be compiled.
        planner=dataclasses.replace(single.config.planner, collect=False),
    )

    def measure(agent: AgentState, table: jax.Array, key: jax.Array) -> jax.Array:
        start_key, collect_key, window_key = jax.random.split(key, 3)
        plan_mean = jnp.zeros((env.batch_size, cfg.planner.horizon, env.action_size))
        start = RolloutState(env.init(start_key, stagger=False), plan_mean)
        _, trajectory, _, _ = rollout.collect(
            env, networks, agent, start, collect_key, beta=None, random=jnp.asarray(True), cfg=cfg
        )
        empty = buffer.init(trajectory, batch_size=env.batch_size, capacity_per_env=STEPS)
        replay = buffer.add(empty, trajectory)
        horizon = cfg.world_model.horizon
        return latent_errors(agent, table, replay, window_key, env, networks, horizon=horizon)

    inputs = (*jax.device_get((agent, table)), jax.random.key(new.config.seed))
    errors = compile_program(jax.jit(measure).lower(*inputs))(*inputs)
    best = np.argmin(errors, axis=0)
    return {spec.name: known[row] for spec, row in zip(env.specs, best, strict=True)}


def latent_errors(
    agent: AgentState,
    table: jax.Array,
    replay: buffer.ReplayState,
    key: jax.Array,
    env: MultiTaskEnv,
    networks: Networks,
    *,
    horizon: int,
) -> jax.Array:
    """Error of predicted latents with each embedding in the place of every task's own.

    Args:
        agent: The agent, with a world model.
        table: Rows of an embedding table `[J, E]`.
        replay: Steps of every task.
        key: Consumed; draws the windows, the same for each embedding.
        env: Task facts.
        networks: The bundle.
        horizon: Steps from one encoded observation.

    Returns:
        Root mean squared errors in units of those of persistence `[J, K]`: the latents of different
        embeddings have different scales.
    """

    def error(row: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(row, (len(env.specs), row.shape[0]))
        world_model = {**agent.params.world_model, "embedding": {"table": rows}}
        other = agent.replace(params=agent.params.replace(world_model=world_model))
        errors = model_errors(other, replay, key, env=env, networks=networks)
        square, unit = (
            jnp.sum(x[:horizon] ** 2, axis=0) for x in (errors.latent, errors.latent_persistence)
        )
        return jnp.sqrt(square / unit)

    return jax.vmap(error)(table)
