"""The run: compile, train, evaluate, write down, save; and evaluation of a saved run."""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from m3po_jax import config_validation
from m3po_jax.config import KL_BOUND_FACTOR, Config, ConfigError
from m3po_jax.envs import registry, scores
from m3po_jax.envs.by_task import placement_text
from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.networks.factory import Networks, make_networks
from m3po_jax.ops import checks
from m3po_jax.replay import buffer
from m3po_jax.training import model_error, processes, sharding
from m3po_jax.training.checkpoint import Checkpointer, CheckpointError
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.evaluate import Episodes
from m3po_jax.training.fault import FaultWatch
from m3po_jax.training.metrics import MetricsWriter, Sink, evaluation_table, read_evaluations
from m3po_jax.training.preemption import Preempted
from m3po_jax.training.progress import Progress
from m3po_jax.training.state import (
    AgentState,
    Optimizers,
    TrainState,
    init_train_state,
    make_optimizers,
)
from m3po_jax.training.train_step import (
    SKIPPED,
    env_steps_per_iteration,
    make_train_step,
    num_iterations,
)
from m3po_jax.training.workdir import holds_metrics

# Sums over the iterations that one line of metrics.csv covers; the other metrics are averaged.
_SUMMED = ("rollout/episodes", "rollout/faults", SKIPPED)
# Evaluations draw from a stream of their own, which training never touches.
_EVALUATION_STREAM = 0x5EED
_MODEL_ERROR_STREAM = 0xE4404
Step = Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config brought to life.

    Attributes:
        config: The settings.
        env: Environments of training.
        networks: The bundle of modules.
        optimizers: One optimizer per set of parameters.
        mesh: The devices of the run.
    """

    config: Config
    env: MultiTaskEnv
    networks: Networks
    optimizers: Optimizers
    mesh: sharding.Devices

    def init(self, key: jax.Array) -> TrainState:
        """State before the first step. The key is consumed."""
        return init_train_state(self.env, self.networks, self.optimizers, self.config, key)

    def state_shapes(self) -> TrainState:
        """The state's shapes and places, as `jax.ShapeDtypeStruct`s; nothing is computed."""
        return sharding.placed(self.mesh, jax.eval_shape(self.init, jax.random.key(0)))

    @property
    def parts(self) -> tuple[sharding.Devices, MultiTaskEnv, Networks, Optimizers, Config]:
        """What the compiled functions of `sharding` are made of."""
        return self.mesh, self.env, self.networks, self.optimizers, self.config

    def meta(self, *, env_steps: int, wall_seconds: float) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        tasks = [dataclasses.asdict(spec) for spec in self.env.specs]
        return {"wall_seconds": wall_seconds, "env_steps": env_steps, "tasks": tasks}

    @property
    def env_steps_per_iteration(self) -> int:
        """Simulator steps of one iteration over all tasks, action repeats counted."""
        return env_steps_per_iteration(self.env, self.config)

    @property
    def num_iterations(self) -> int:
        """Iterations until `total_env_steps` is reached or passed."""
        return num_iterations(self.env, self.config)


def make_experiment(config: Config) -> Experiment:
    """Creates environments, networks and optimizers; computes nothing yet."""
    env = registry.make(config.tasks, config.env)
    networks = make_networks(
        env.specs,
        env.action_mask,
        env.observation_size,
        config.network,
        decoder=config.world_model.reconstruction_scale > 0.0,
    )
    optimizers = make_optimizers(
        config,
        iterations=num_iterations(env, config),
        transitions=env.batch_size * config.env.unroll_length,
    )
    return Experiment(config, env, networks, optimizers, sharding.choose_devices(config))


def on_one_device(config: Config) -> Config:
    """The same settings for looking at a run on one device, whatever it was trained on."""
    train = dataclasses.replace(config.train, num_devices=1, fsdp_devices=1)
    return dataclasses.replace(config, train=train)


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

    def prepare(self, agent: AgentState, *, policy: str) -> Callable[[], None]:
        """Traces the program for `policy`; the result compiles it, if that is still to be done."""
        if policy in self._programs:
            return lambda: None
        mesh, _, networks, _, cfg = self._experiment.parts
        play = sharding.shard_evaluate(mesh, self._env, networks, cfg, policy=policy)
        lowered = play.lower(agent, jax.random.key(0))

        def compile_it() -> None:
            self._programs[policy] = compile_program(lowered)

        return compile_it

    def __call__(self, agent: AgentState, *, policy: str, seed: int) -> dict[str, Any]:
        """Returns `policy`, `tasks` and the scores over all tasks (see README)."""
        key = jax.random.fold_in(jax.random.key(seed), _EVALUATION_STREAM)
        self.prepare(agent, policy=policy)()
        result: Episodes = jax.device_get(self._programs[policy](agent, key))
        tasks = {}
        for index, spec in enumerate(self._env.specs):
            rows = np.flatnonzero(self._env.task_id == index)[: self._episodes]
            mean = float(np.mean(result.returns[rows]))
            tasks[spec.name] = {
                "return_mean": mean,
                "return_std": float(np.std(result.returns[rows])),
                "length_mean": float(np.mean(result.lengths[rows])),
                "episodes": self._episodes,
                "success_rate": _mean_or_none(result.success[rows]),
                "normalized": scores.normalized_score(spec.name, mean),
            }
        overall = scores.aggregate({name: task["normalized"] for name, task in tasks.items()})
        success = scores.known_mean(task["success_rate"] for task in tasks.values())
        return {"policy": policy, "tasks": tasks, **overall, "success_mean": success}


def train_and_evaluate(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    stop: Callable[[], bool] = lambda: False,
    debug: bool = False,
    sinks: Sequence[Sink] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains until `total_env_steps`, from the newest checkpoint in `workdir` if there is one.

    Args:
        config: Validated settings.
        workdir: Folder of the run, opened with `workdir.open_workdir`.
        stop: Asked once before the first iteration and after each; true saves and stops, as
            `preemption.stop_on_signals` does on a signal. `threading.Event().is_set` fits.
        debug: Whether to assert in every iteration that observations, actions, targets, losses and
            gradients are finite and in range. The first that is not ends the run.
        sinks: Further logs, as `event_logs.make_sinks` gives them.
        quiet: Prints nothing.

    Returns:
        The last evaluation, as in eval.jsonl.

    Raises:
        CheckpointError: A checkpoint cannot be read or written, or all were removed.
        MetricsError: A metrics file is damaged, of another version or cannot be written.
        NumericsError: Losses or gradients were not finite too many iterations in a row, or with
            `debug` an assertion failed.
        Preempted: `stop` was true; the run is saved and goes on when called again.
    """
    experiment = make_experiment(config)
    if debug and experiment.mesh.size > 1:
        raise ConfigError(
            f"--debug runs on one device and this run has {experiment.mesh.size}; add "
            "--config.train.num_devices=1"
        )
    bound = KL_BOUND_FACTOR * config.policy.kl_target
    kl_bound = None if config.policy.trust_region == "none" else bound
    quiet = quiet or not processes.leads()
    with (
        Checkpointer(workdir) as checkpointer,
        MetricsWriter(workdir, sinks if processes.leads() else ()) as writer,
        Progress(config.train.total_env_steps, kl_bound=kl_bound, quiet=quiet) as progress,
        processes.together(),
    ):
        run = _Run(experiment, checkpointer, writer, progress, pathlib.Path(workdir))
        if run.finished and not run.lacks_evaluation:
            progress.say(f"The run in {workdir} is done: {run.env_steps:,} env steps.")
        else:
            run.train(stop, debug=debug)
        record = read_evaluations(workdir)[-1]
        progress.close()
        progress.say(evaluation_table(record))
    return record


def evaluate_workdir(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    episodes: int,
    policy: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run; the record is as in eval.jsonl.

    Args:
        config: Settings of the run.
        workdir: Its folder.
        episodes: Episodes of each task.
        policy: `planner`, `prior` or `random`.
        seed: Seed of starts and of the planner's samples.

    Raises:
        CheckpointError: There is no checkpoint or it cannot be read.
        ConfigError: `planner` for a run without a world model.
    """
    if policy == "planner" and not config.has_model:
        raise ConfigError(
            f"{workdir} has no world model to plan with (network.encoder = 'observation'); "
            "evaluate its policy `prior`"
        )
    experiment, state, meta = restore_run(config, workdir)
    evaluator = Evaluator(experiment, episodes=episodes)
    result = evaluator(state.agent, policy=policy, seed=seed)
    return {**_position(experiment, int(state.iteration), meta["wall_seconds"]), **result}


def restore_run(
    config: Config, workdir: str | os.PathLike[str]
) -> tuple[Experiment, TrainState, dict[str, Any]]:
    """Returns the experiment, the newest state and its meta of a run.

    Raises:
        CheckpointError: There is no checkpoint or it cannot be read.
    """
    experiment = make_experiment(on_one_device(config))
    with Checkpointer(workdir) as checkpointer:
        restored = checkpointer.restore_latest(experiment.state_shapes())
    if restored is None:
        raise CheckpointError(f"{workdir} holds no checkpoint; train longer first")
    return experiment, *restored


class _Run:
    """A run between two checkpoints: the state, and where it is written."""

    def __init__(
        self,
        experiment: Experiment,
        checkpointer: Checkpointer,
        writer: MetricsWriter,
        progress: Progress,
        workdir: pathlib.Path,
    ):
        config = experiment.config
        self._workdir = workdir
        self._faults = FaultWatch(workdir, limit=config.train.max_skipped_updates)
        self._experiment = experiment
        self._checkpointer = checkpointer
        self._writer = writer
        self._progress = progress
        self._began = time.monotonic()
        self._logged = self._began
        self._model_errors: Any = sharding.shard_model_errors(*experiment.parts[:3])
        progress.say(_description(experiment))
        restored = checkpointer.restore_latest(experiment.state_shapes())
        if restored is None:
            if holds_metrics(workdir):
                raise CheckpointError(
                    f"{workdir} holds metrics of a run but no checkpoint, which every run has from "
                    "its start: put the folder checkpoints back, or start anew with --overwrite"
                )
            # One program: eager resets would compile each operation of the simulators alone. The
            # seed is an argument, so that all seeds share the compiled program.
            key = jax.random.key(config.seed)
            init = sharding.shard_init(*experiment.parts).lower(key)
            progress.say("Compiling the start state ...")
            start = self._timed("the start state", functools.partial(compile_program, init))
            self._state: TrainState = jax.block_until_ready(start(key))
            processes.wait_for_all("the start state")
            self._iteration, self._wall_before = 0, 0.0
        else:
            self._state, meta = restored
            self._iteration = int(self._state.iteration)
            self._wall_before = float(meta["wall_seconds"])
            progress.say(f"Going on from the checkpoint at {self.env_steps:,} env steps.")
        if processes.leads():
            writer.truncate_after(self.env_steps)

    @property
    def env_steps(self) -> int:
        """Simulator steps done."""
        return self._iteration * self._experiment.env_steps_per_iteration

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self._iteration >= self._experiment.num_iterations

    @property
    def lacks_evaluation(self) -> bool:
        """Whether an evaluation is due here that eval.jsonl does not hold, as after a stop."""
        records = read_evaluations(self._workdir)
        done = bool(records) and records[-1]["env_steps"] == self.env_steps
        due = self._due(self._experiment.config.train.eval_every)
        return processes.from_leader(due and not done)

    def train(self, stop: Callable[[], bool], *, debug: bool) -> None:
        """Trains to the end of the budget or until `stop()`."""
        cfg = self._experiment.config.train
        evaluator = Evaluator(self._experiment, episodes=cfg.eval_episodes)
        if self._iteration == 0:
            # From here on a run without a checkpoint is a damaged one.
            self._save()
        if self.finished:
            self._evaluate(evaluator)
            return
        step = self._compile(evaluator, debug=debug)
        if self.lacks_evaluation:
            self._evaluate(evaluator)
        stopping = processes.any_of(stop())
        pending: list[dict[str, jax.Array]] = []
        while not (self.finished or stopping):
            suspicious = self._faults.suspicious
            if suspicious:
                self._faults.save_state(self._iteration, self._state, self._meta())
            self._state, metrics = step(self._state)
            self._iteration += 1
            pending.append(metrics)
            if suspicious:
                self._faults.judge(jax.device_get(metrics))
            stopping = processes.any_of(stop())
            save = stopping or self._due(cfg.checkpoint_every)
            # What a checkpoint covers is written before it, or a resume would leave a gap.
            if save or self._iteration % cfg.log_every == 0:
                self._log(jax.device_get(pending))
                pending = []
            # A stop does not wait for an evaluation: the resumed run makes up for it.
            if self._due(cfg.eval_every) and not stopping:
                self._evaluate(evaluator)
            if save:
                self._save()
        if stopping:
            raise Preempted(
                f"Stopped at {self.env_steps:,} env steps, all saved; the same command goes on "
                "from there."
            )

    def _due(self, every: int) -> bool:
        """Whether the last iteration ended the run or crossed a multiple of `every` env steps."""
        before = self.env_steps - self._experiment.env_steps_per_iteration
        return self.finished or (before >= 0 and _crosses(before, self.env_steps, every))

    def _compile(self, evaluator: Evaluator, *, debug: bool) -> Step:
        """Compiles all that training needs before the first step, so that no stop waits for it."""
        policy = self._experiment.config.train.eval_policy
        agent, replay = self._state.agent, self._state.replay
        self._progress.say("Tracing the programs of training and evaluation ...")
        train_step: Any
        if debug:
            # It keeps the state before, so nothing is donated.
            train_step = jax.jit(checks.checked(make_train_step(*self._experiment.parts[1:])))
        else:
            train_step = sharding.shard_train_step(*self._experiment.parts)
        programs: dict[str, Callable[[], Any]] = {
            "the training step": functools.partial(compile_program, train_step.lower(self._state)),
            "the evaluation": evaluator.prepare(agent, policy=policy),
        }
        if self._experiment.config.has_model:
            key = jax.random.key(0)
            programs["the model's errors"] = self._model_errors.lower(agent, replay, key).compile
        self._progress.say(f"Compiling {len(programs)} programs: {', '.join(programs)} ...")
        # XLA compiles outside of Python's lock. Processes that run together go in one order.
        workers = len(programs) if jax.process_count() == 1 else 1
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            results = pool.map(self._timed, programs, programs.values())
            compiled = dict(zip(programs, results, strict=True))
        processes.wait_for_all("compiling")
        self._model_errors = compiled.get("the model's errors", self._model_errors)
        step = compiled["the training step"]
        return functools.partial(self._checked, step) if debug else step

    def _checked(
        self, step: Callable[[TrainState], Any], state: TrainState
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """A step with its assertions; the first that fails ends the run."""
        error, result = step(state)
        if (what := error.get()) is not None:
            self._faults.end(self._iteration, state, self._meta(), what)
        return result

    def _measure_model(self) -> dict[str, Any]:
        """The key `model_error` of eval.jsonl; nothing without a world model."""
        config, specs = self._experiment.config, self._experiment.env.specs
        if not config.has_model:
            return {}
        key = jax.random.fold_in(jax.random.key(config.seed), _MODEL_ERROR_STREAM)
        errors = self._model_errors(self._state.agent, self._state.replay, key)
        names = [spec.name for spec in specs]
        return {"model_error": model_error.as_record(jax.device_get(errors), names)}

    def _meta(self) -> dict[str, Any]:
        return self._experiment.meta(env_steps=self.env_steps, wall_seconds=self._wall_seconds())

    def _save(self) -> None:
        self._checkpointer.save(self._iteration, self._state, self._meta())

    def _log(self, metrics: Sequence[Mapping[str, np.ndarray]]) -> None:
        names = [spec.name for spec in self._experiment.env.specs]
        self._faults.note(metrics)
        now = time.monotonic()
        steps = len(metrics) * self._experiment.env_steps_per_iteration
        row: dict[str, float] = {
            "env_steps": self.env_steps,
            "iteration": self._iteration,
            "wall_seconds": self._wall_seconds(),
            "env_steps_per_second": steps / (now - self._logged),
        }
        self._logged = now
        for name, value in summarize(metrics).items():
            if value.ndim == 0:
                row[name] = float(value)
            else:
                row.update(
                    {f"{name}/{task}": float(x) for task, x in zip(names, value, strict=True)}
                )
        if processes.leads():
            self._writer.write(row)
        self._progress.update(row)

    def _evaluate(self, evaluator: Evaluator) -> None:
        config = self._experiment.config
        result = evaluator(self._state.agent, policy=config.train.eval_policy, seed=config.seed)
        record = {
            **_position(self._experiment, self._iteration, self._wall_seconds()),
            **result,
            **self._measure_model(),
        }
        if processes.leads():
            self._writer.write_evaluation(record)
        returns = {name: task["return_mean"] for name, task in result["tasks"].items()}
        scores_text = ", ".join(f"{name} {value:.1f}" for name, value in returns.items())
        self._progress.say(f"Evaluation at {self.env_steps:,} env steps: {scores_text}")
        # An evaluation is no part of the training speed.
        self._logged = time.monotonic()

    def _wall_seconds(self) -> float:
        return self._wall_before + time.monotonic() - self._began

    def _timed(self, what: str, compile_it: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = compile_it()
        self._progress.say(f"Compiled {what} in {time.monotonic() - start:.0f} s.")
        return result


def _devices(experiment: Experiment) -> str:
    """Which devices a run uses, and why not all that are there."""
    used, present = experiment.mesh.size, jax.device_count()
    first = experiment.mesh.devices.flat[0]
    if used == present:
        return f"{first}" if used == 1 else f"{used} devices like {first}"
    if experiment.config.train.num_devices:
        return f"{used} of {present} devices like {first}"
    reason = config_validation.device_conflict(experiment.config, present)
    return f"{used} of {present} devices like {first} ({reason})"


def _placement_lines(experiment: Experiment) -> list[str]:
    """Which device steps what, where there are several."""
    mesh, env, _, _, cfg = experiment.parts
    if mesh.size == 1:
        asked = cfg.train.task_placement == "by_task"
        return ["task placement by_task: one device, so it steps all tasks"] if asked else []
    return [placement_text(env, sharding.choose_placement(mesh, env, cfg), mesh.size)]


def summarize(metrics: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One value per metric over several iterations.

    Counts are added, names in `_max` take the maximum, returns and lengths are weighted by the
    number of episodes, all else is averaged over the iterations that have it (are not NaN).

    Args:
        metrics: Metrics of each iteration, `[]` or `[K]`.
    """
    stacked = {name: np.stack([m[name] for m in metrics]) for name in metrics[0]}
    episodes = stacked["rollout/episodes"]
    summary = {}
    for name, values in stacked.items():
        present = ~np.isnan(values)
        filled = np.where(present, values, 0.0)
        if name.endswith(_SUMMED):
            summary[name] = np.sum(values, axis=0)
            continue
        if name.endswith("_max"):
            largest = np.max(np.where(present, values, -np.inf), axis=0)
            summary[name] = np.where(np.any(present, axis=0), largest, np.nan)
            continue
        weight = episodes if name.startswith("rollout/episode_") else present.astype(np.float32)
        total = np.sum(weight * present, axis=0)
        mean = np.sum(weight * filled, axis=0) / np.maximum(total, 1e-9)
        summary[name] = np.where(total > 0, mean, np.nan)
    return summary


def _mean_or_none(x: np.ndarray | jax.Array) -> float | None:
    """The mean, `None` where it is NaN, which JSON has not."""
    mean = float(np.mean(x))
    return None if np.isnan(mean) else mean


def _position(experiment: Experiment, iteration: int, wall_seconds: float) -> dict[str, Any]:
    env_steps = iteration * experiment.env_steps_per_iteration
    return {
        "env_steps": env_steps,
        "env_steps_per_task": env_steps / len(experiment.env.specs),
        "wall_seconds": round(wall_seconds, 1),
    }


def _crosses(before: int, after: int, every: int) -> bool:
    return every > 0 and before // every != after // every


def _description(experiment: Experiment) -> str:
    """What the run is, before anything is compiled."""
    config, env = experiment.config, experiment.env
    shapes = experiment.state_shapes()
    parameters = sum(x.size for x in jax.tree.leaves(shapes.agent.params))
    capacity = shapes.replay.data["reward"].size
    lines = [
        f"{spec.name}: {n} environments, observation {spec.observation_size}, action "
        f"{spec.action_size}, {spec.episode_length} agent steps of {spec.action_repeat} env steps"
        for spec, n in zip(env.specs, env.num_envs, strict=True)
    ]
    updates = config.train.updates_per_transition
    lines += [
        f"{parameters:,} parameters (size {config.network.size}); replay of {capacity:,} "
        f"transitions, {buffer.num_bytes(shapes.replay) / 2**20:.0f} MiB, on "
        f"{_devices(experiment)}",
        *_placement_lines(experiment),
        f"{config.train.total_env_steps:,} env steps in {experiment.num_iterations:,} iterations, "
        f"{updates:g} updates per transition",
    ]
    return "\n".join(lines)
