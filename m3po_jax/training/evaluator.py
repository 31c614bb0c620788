"""Evaluations of a run: whole episodes, scores, and the record that eval.jsonl holds."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from m3po_jax.config import Config, ConfigError
from m3po_jax.envs import held_out as held_out_lib
from m3po_jax.learning.episodes import Episodes
from m3po_jax.learning.state import AgentState
from m3po_jax.training import lines, scores, sharding, unseen
from m3po_jax.training.compiling import Program
from m3po_jax.training.experiment import (
    Experiment,
    make_experiment,
    on_one_device,
    restore_run,
)
from m3po_jax.training.iteration import raise_failure
from m3po_jax.types import TaskSpec

# Evaluations draw from streams of their own, which training never touches. Those during training
# choose the best checkpoint, so what is reported of it comes from other episodes.
_EVALUATION_STREAM = 0x5EED
_REPORT_STREAM = 0x4E504F


class Evaluator:
    """Plays whole episodes of every task; compiles one program per policy."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        episodes: int,
        line_of: Callable[[TaskSpec], str | None] = lambda spec: spec.shown_as,
    ):
        """Prepares `episodes` episodes of each task.

        Args:
            experiment: The run.
            episodes: Episodes of each task, of a family of each variation.
            line_of: The name of the record that a task belongs to, None for no record.
        """
        self._lines = lines.lines(experiment.env.specs, line_of)
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
        for name, indices in self._lines.items():
            played = [self._played(result, index) for index in indices]
            record = _task_record(name, jax.tree.map(lambda *x: np.concatenate(x), *played))
            if self._env.specs[indices[0]].family:
                each = {self._env.specs[k].name: p for k, p in zip(indices, played, strict=True)}
                record |= _family_record(each)
            tasks[name] = record
        overall = scores.overall(tasks)
        success = {
            mean: scores.known_mean(task[rate] for task in tasks.values())
            for rate, mean in scores.SUCCESS_MEANS.items()
        }
        return {"policy": policy, "tasks": tasks, **overall, **success}

    def _played(self, result: Episodes, task: int) -> Episodes:
        """The episodes of one task."""
        rows = np.flatnonzero(self._env.task_id == task)[: self._episodes]
        played: Episodes = jax.tree.map(lambda x: x[rows], result)
        return played


def evaluate_workdir(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    episodes: int,
    policy: str,
    seed: int = 0,
    step: int | None = None,
    held_out: bool = False,
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
        held_out: Whether to play variations of its families that training never saw.

    Raises:
        CheckpointError: There is no checkpoint or it cannot be read.
        ConfigError: `planner` for a run without a world model, or `held_out` for one without a
            family, or without a model where it is one-hot ids that tell tasks apart.
    """
    if policy == "planner" and not config.has_model:
        raise ConfigError(
            f"{workdir} has no world model to plan with (network.encoder = 'observation'); "
            "evaluate its policy `prior`"
        )
    other_config = held_out_lib.config_of(config) if held_out else None
    experiment, state, meta = restore_run(config, workdir, step=step)
    position = experiment.position(meta["env_steps"], meta["wall_seconds"])
    agent, stream = state.agent, _REPORT_STREAM
    if other_config is None:
        evaluator = Evaluator(experiment, episodes=episodes)
        return {**position, **evaluator(agent, policy=policy, seed=seed, stream=stream)}
    other = make_experiment(on_one_device(other_config))
    shown = unseen.line_of(other)
    evaluator = Evaluator(other, episodes=episodes, line_of=lambda spec: shown.get(spec.name))
    agent = unseen.agent_for(agent, experiment.env.specs, other.env.specs)
    result = evaluator(agent, policy=policy, seed=seed, stream=stream)
    return {**position, "held_out": True, **result}


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


def _family_record(played: Mapping[str, Episodes]) -> dict[str, Any]:
    """What eval.jsonl says of a family besides: the mean of each variation, and their spread."""
    returns = {
        name: _mean_or_none(episodes.returns[episodes.faulty == 0.0])
        for name, episodes in played.items()
    }
    known = [value for value in returns.values() if value is not None]
    return {"return_spread": float(np.std(known)) if known else None, "variations": returns}


def _mean_or_none(x: np.ndarray | jax.Array) -> float | None:
    """The mean, `None` where there is none or it is NaN, which JSON has not."""
    mean = float(np.mean(x)) if x.size else np.nan
    return None if np.isnan(mean) else mean
