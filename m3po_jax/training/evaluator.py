"""Evaluations of a run: whole episodes, scores, and the record that eval.jsonl holds."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from m3po_jax.config import Config, ConfigError
from m3po_jax.learning.episodes import Episodes
from m3po_jax.learning.state import AgentState
from m3po_jax.training import scores, sharding
from m3po_jax.training.compiling import Program
from m3po_jax.training.experiment import Experiment, restore_run
from m3po_jax.training.iteration import raise_failure

# Evaluations draw from streams of their own, which training never touches. Those during training
# choose the best checkpoint, so what is reported of it comes from other episodes.
_EVALUATION_STREAM = 0x5EED
_REPORT_STREAM = 0x4E504F


class Evaluator:
    """Plays whole episodes of every task; compiles one program per policy."""

    def __init__(self, experiment: Experiment, *, episodes: int):
        """Prepares `episodes` episodes of each task."""
        self._experiment = experiment
        self._episodes = episodes
        devices = experiment.mesh.size
        # Each device plays equally many; an episode's number alone decides how it goes.
        self._env = experiment.env.resized(-(-episodes // devices) * devices)
        self._programs: dict[str, jax.stages.Compiled] = {}

    def trace(self, agent: AgentState, *, policy: str) -> Program:
        """Traces the program for `policy`; `use` takes it compiled."""
        parts = dataclasses.replace(self._experiment, env=self._env)
        play = sharding.shard_evaluate(self._experiment.mesh, parts, policy=policy)
        return Program(play.lower(agent, jax.random.key(0)))

    def use(self, compiled: jax.stages.Compiled, *, policy: str) -> None:
        """Takes the compiled program for `policy`, which a call else traces and compiles."""
        self._programs[policy] = compiled

    def __call__(
        self, agent: AgentState, *, policy: str, seed: int, stream: int = _EVALUATION_STREAM
    ) -> dict[str, Any]:
        """Returns `policy`, `tasks` and the scores over all tasks (see README)."""
        key = jax.random.fold_in(jax.random.key(seed), stream)
        if policy not in self._programs:
            self.use(self.trace(agent, policy=policy)(), policy=policy)
        result: Episodes = jax.device_get(self._programs[policy](agent, key))
        raise_failure(self._env)
        tasks = {}
        for index, spec in enumerate(self._env.specs):
            rows = np.flatnonzero(self._env.task_id == index)[: self._episodes]
            tasks[spec.name] = _task_record(spec.name, jax.tree.map(lambda x, r=rows: x[r], result))
        overall = scores.overall(tasks)
        success = {
            mean: scores.known_mean(task[rate] for task in tasks.values())
            for rate, mean in scores.SUCCESS_MEANS.items()
        }
        return {"policy": policy, "tasks": tasks, **overall, **success}


def evaluate_workdir(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    episodes: int,
    policy: str,
    seed: int = 0,
    step: int | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run; the record is as in eval.jsonl.

    No seed gives the episodes of the evaluations during training.

    Args:
        config: Settings of the run.
        workdir: Its folder.
        episodes: Episodes of each task.
        policy: `planner`, `prior` or `random`.
        seed: Seed of starts and of the planner's samples.
        step: Iteration of the checkpoint; None takes the newest.

    Raises:
        CheckpointError: There is no checkpoint or it cannot be read.
        ConfigError: `planner` for a run without a world model.
    """
    if policy == "planner" and not config.has_model:
        raise ConfigError(
            f"{workdir} has no world model to plan with (network.encoder = 'observation'); "
            "evaluate its policy `prior`"
        )
    experiment, state, meta = restore_run(config, workdir, step=step)
    evaluator = Evaluator(experiment, episodes=episodes)
    result = evaluator(state.agent, policy=policy, seed=seed, stream=_REPORT_STREAM)
    return {**experiment.position(meta["env_steps"], meta["wall_seconds"]), **result}


def _task_record(name: str, played: Episodes) -> dict[str, Any]:
    """What eval.jsonl says of a task; means are over its whole episodes, None without any."""
    whole: Episodes = jax.tree.map(lambda x: x[played.faulty == 0.0], played)
    mean = _mean_or_none(whole.returns)
    return {
        "return_mean": mean,
        "return_std": None if mean is None else float(np.std(whole.returns)),
        "length_mean": _mean_or_none(whole.lengths),
        "episodes": len(whole.returns),
        "faults": len(played.returns) - len(whole.returns),
        "success_rate": _mean_or_none(whole.success),
        "success_rate_last": _mean_or_none(whole.success_last),
        "normalized": None if mean is None else scores.normalized_score(name, mean),
    }


def _mean_or_none(x: np.ndarray | jax.Array) -> float | None:
    """The mean, `None` where there is none or it is NaN, which JSON has not."""
    mean = float(np.mean(x)) if x.size else np.nan
    return None if np.isnan(mean) else mean
