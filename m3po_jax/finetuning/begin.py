"""A new run that starts from the agent of an old one."""

import os

import jax

from m3po_jax.config import Config
from m3po_jax.finetuning import transfer
from m3po_jax.finetuning.compatibility import (
    EmbeddingSources,
    Origin,
    embedding_sources,
    start_lines,
)
from m3po_jax.learning.state import TrainState
from m3po_jax.training import sharding, stored_agent
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.evaluator import Evaluator
from m3po_jax.training.experiment import Experiment, make_experiment
from m3po_jax.workdir import folder
from m3po_jax.workdir.checkpoint import Checkpointer, lost_checkpoints
from m3po_jax.workdir.metrics import MetricsWriter, read_evaluations


def begin(config: Config, workdir: str | os.PathLike[str], origin: Origin) -> list[str] | None:
    """Writes the first checkpoint of a run, with what an old run has learned, and its scores.

    The first line of eval.jsonl, at 0 env steps, is the agent before any learning on the new tasks.
    A folder that already has a checkpoint is left unchanged.

    Args:
        config: Settings of the new run, as `compatibility.startable_config` returns them.
        workdir: Its workdir, open.
        origin: What it starts from.

    Returns:
        What a person should know of the start, line by line; None if the run had begun.

    Raises:
        CheckpointError: The old run has no checkpoint or a damaged one, or the new one has lost
            its own.
        ConfigError: The two runs do not fit together.
    """
    with Checkpointer(workdir) as checkpointer:
        if checkpointer.latest_step() is not None:
            return None
        _refuse_lost(workdir)
        old = stored_agent.restore_agent(origin.source)
        new = make_experiment(config)
        new.require_room()
        state, sources, lines = _first_state(old, new, origin)
        _evaluate(new, state, sources, workdir)
        meta = new.meta(env_steps=0, wall_seconds=0.0)
        checkpointer.save(0, state, {**meta, "origin": origin.as_record()})
        return lines


def _refuse_lost(workdir: str | os.PathLike[str]) -> None:
    """A first evaluation without a checkpoint is that of a start that was cut short."""
    learned = any(record["env_steps"] > 0 for record in read_evaluations(workdir))
    if learned or folder.has_begun(workdir):
        raise lost_checkpoints(workdir)


def _first_state(
    old: stored_agent.StoredAgent, new: Experiment, origin: Origin
) -> tuple[TrainState, EmbeddingSources, list[str]]:
    """The state that the run begins with, where its devices want it, and what to say of it."""
    ends = (
        transfer.Ends(old.specs, old.networks, old.layout),
        transfer.Ends(new.env.specs, new.networks, new.env.layout),
    )
    sources = embedding_sources(ends[1].tasks, ends[0].tasks, origin.embedding)
    frozen = transfer.frozen_lines(new.config.train.frozen, *ends)
    key = jax.random.key(new.config.seed)
    init = compile_program(sharding.shard_init(new.mesh, new).lower(key))
    state: TrainState = init(key)
    # On the host: the old agent lies on one device and the new one on all of the run.
    was, fresh = jax.device_get((old.state, state.agent))
    agent = transfer.transfer_agent(was, fresh, *ends, embedding_sources=sources)
    state = state.replace(agent=agent)
    if origin.replay:
        replay = jax.device_get(stored_agent.restore_replay(origin.source, old))
        empty, length = jax.device_get(state.replay), new.config.env.unroll_length
        moved = transfer.transfer_replay(replay, empty, *ends, unroll_length=length)
        state = state.replace(replay=moved)
    places = jax.tree.map(lambda leaf: leaf.sharding, new.state_shapes())
    return jax.device_put(state, places), sources, [*start_lines(sources), *frozen]


def _evaluate(
    new: Experiment, state: TrainState, sources: EmbeddingSources, workdir: str | os.PathLike[str]
) -> None:
    train = new.config.train
    evaluator = Evaluator(new, episodes=train.eval_episodes)
    result = evaluator(state.agent, policy=train.eval_policy, seed=new.config.seed)
    with MetricsWriter(workdir) as writer:
        writer.truncate_after(-1)
        writer.write_evaluation({**new.position(0, 0.0), **result, "embedding_sources": sources})
