"""A new run that starts from the agent of an old one."""

import os
from functools import partial
from typing import Any

import jax

from m3po_jax.config import Config
from m3po_jax.training import sharding, transfer, workdir
from m3po_jax.training.checkpoint import Checkpointer
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.evaluator import Evaluator
from m3po_jax.training.experiment import Experiment, make_experiment, restore_run
from m3po_jax.training.finetune_config import NEAREST, EmbeddingSources, embedding_sources
from m3po_jax.training.metrics import MetricsWriter
from m3po_jax.training.nearest_task import nearest_tasks
from m3po_jax.training.state import TrainState


def begin(
    config: Config,
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    embedding: str,
    replay: bool,
) -> EmbeddingSources | None:
    """Writes the first checkpoint of a run, with what an old run has learned, and its scores.

    The first line of eval.jsonl, at 0 env steps, is the agent before any learning on the new tasks.
    A folder that has a checkpoint already is left as it is.

    Args:
        config: Settings of the new run, as `finetune_config.adapted_config` returns them.
        folder: Its workdir, open.
        source: Workdir of the old run.
        embedding: See `finetune_config.embedding_sources`.
        replay: Whether to take over the steps of tasks that both runs have.

    Returns:
        The known tasks whose mean embedding each task starts from; None if the run had begun.

    Raises:
        CheckpointError: The old run has no checkpoint or a damaged one.
        ConfigError: The two runs do not fit together.
    """
    with Checkpointer(folder) as checkpointer:
        if checkpointer.latest_step() is not None:
            return None
        old, old_state, _ = restore_run(workdir.read_config(source), source)
        new = make_experiment(config)
        state, sources = _first_state(old_state, old, new, embedding=embedding, replay=replay)
        _evaluate(new, state, folder)
        meta = new.meta(env_steps=0, wall_seconds=0.0)
        start = {"from": str(source), "embedding_sources": sources}
        checkpointer.save(0, state, {**meta, **start})
        return sources


def _first_state(
    old_state: TrainState,
    old: Experiment,
    new: Experiment,
    *,
    embedding: str,
    replay: bool,
) -> tuple[TrainState, EmbeddingSources]:
    ends = (transfer.Ends(old.env, old.networks), transfer.Ends(new.env, new.networks))
    key = jax.random.key(new.config.seed)
    init = compile_program(sharding.shard_init(new.mesh, new.parts).lower(key))
    state: TrainState = init(key)
    move = partial(transfer.transfer_agent, old_state.agent, state.agent, *ends)
    known, tasks = ends[0].tasks, ends[1].tasks
    sources = embedding_sources(tasks, known, embedding)
    agent = move(embedding_sources=sources)
    if embedding == NEAREST and not set(tasks) <= set(known):
        table = old_state.agent.params.world_model["embedding"]["table"]
        nearest = nearest_tasks(new, agent, known, table)
        sources |= {task: (nearest[task],) for task in tasks if task not in known}
        agent = move(embedding_sources=sources)
    stored = state.replay
    if replay:
        stored = transfer.transfer_replay(
            old_state.replay, stored, *ends, unroll_length=new.config.env.unroll_length
        )
    state = state.replace(agent=agent, replay=stored)
    places = jax.tree.map(lambda leaf: leaf.sharding, new.state_shapes())
    return jax.device_put(state, places), sources


def _evaluate(new: Experiment, state: TrainState, folder: str | os.PathLike[str]) -> None:
    cfg = new.config.train
    evaluator = Evaluator(new, episodes=cfg.eval_episodes)
    result = evaluator(state.agent, policy=cfg.eval_policy, seed=new.config.seed)
    position: dict[str, Any] = {"env_steps": 0, "env_steps_per_task": 0.0, "wall_seconds": 0.0}
    with MetricsWriter(folder) as writer:
        writer.truncate_after(-1)
        writer.write_evaluation({**position, **result})
