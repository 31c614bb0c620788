"""A new run that starts from the agent of an old one."""

import os
from typing import Any

import jax

from m3po_jax.config import Config
from m3po_jax.training import sharding, transfer, workdir
from m3po_jax.training.checkpoint import Checkpointer
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.evaluator import Evaluator
from m3po_jax.training.experiment import Experiment, make_experiment, restore_run
from m3po_jax.training.metrics import MetricsWriter
from m3po_jax.training.state import TrainState


def begin(
    config: Config,
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    embedding: str,
    replay: bool,
) -> None:
    """Writes the first checkpoint of a run, with what an old run has learned, and its scores.

    The first line of eval.jsonl, at 0 env steps, is the agent before any learning on the new tasks.
    A folder that has a checkpoint already is left as it is.

    Args:
        config: Settings of the new run, as `finetune_config.adapted_config` returns them.
        folder: Its workdir, open.
        source: Workdir of the old run.
        embedding: See `finetune_config.embedding_sources`.
        replay: Whether to take over the steps of tasks that both runs have.

    Raises:
        CheckpointError: The old run has no checkpoint or a damaged one.
        ConfigError: The two runs do not fit together.
    """
    with Checkpointer(folder) as checkpointer:
        if checkpointer.latest_step() is not None:
            return
        old, old_state, _ = restore_run(workdir.read_config(source), source)
        new = make_experiment(config)
        state = _first_state(old_state, old, new, embedding=embedding, replay=replay)
        _evaluate(new, state, folder)
        meta = new.meta(env_steps=0, wall_seconds=0.0)
        checkpointer.save(0, state, {**meta, "from": str(source)})


def _first_state(
    old_state: TrainState,
    old: Experiment,
    new: Experiment,
    *,
    embedding: str,
    replay: bool,
) -> TrainState:
    ends = (transfer.Ends(old.env, old.networks), transfer.Ends(new.env, new.networks))
    key = jax.random.key(new.config.seed)
    init = compile_program(sharding.shard_init(new.mesh, new.parts).lower(key))
    state: TrainState = init(key)
    agent = transfer.transfer_agent(old_state.agent, state.agent, *ends, embedding=embedding)
    stored = state.replay
    if replay:
        stored = transfer.transfer_replay(
            old_state.replay, stored, *ends, unroll_length=new.config.env.unroll_length
        )
    return jax.device_put(
        state.replace(agent=agent, replay=stored),
        jax.tree.map(lambda leaf: leaf.sharding, new.state_shapes()),
    )


def _evaluate(new: Experiment, state: TrainState, folder: str | os.PathLike[str]) -> None:
    cfg = new.config.train
    evaluator = Evaluator(new, episodes=cfg.eval_episodes)
    result = evaluator(state.agent, policy=cfg.eval_policy, seed=new.config.seed)
    position: dict[str, Any] = {"env_steps": 0, "env_steps_per_task": 0.0, "wall_seconds": 0.0}
    with MetricsWriter(folder) as writer:
        writer.truncate_after(-1)
        writer.write_evaluation({**position, **result})
