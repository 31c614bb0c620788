"""The run: compile, train, evaluate, write down, save."""

import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from m3po_jax.config import KL_BOUND_FACTOR, Config, ConfigError
from m3po_jax.envs.host import HostError
from m3po_jax.learning import model_error
from m3po_jax.learning.state import TrainState
from m3po_jax.ops import checks
from m3po_jax.training import lines, processes, sharding
from m3po_jax.training.compiling import Program, compile_all
from m3po_jax.training.evaluator import Evaluator
from m3po_jax.training.experiment import Experiment, description, make_experiment
from m3po_jax.training.fault import FaultWatch
from m3po_jax.training.iteration import Iteration, Step, raise_failure
from m3po_jax.training.row import summarize
from m3po_jax.training.scores import evaluation_table, returns_text
from m3po_jax.workdir.best import best_step
from m3po_jax.workdir.checkpoint import Checkpointer, lost_checkpoints
from m3po_jax.workdir.folder import checkpoint_steps, forget_overwritten, holds_metrics
from m3po_jax.workdir.metrics import RATE, MetricsWriter, Sink, read_evaluations
from m3po_jax.workdir.preemption import Preempted
from m3po_jax.workdir.progress import Progress

_MODEL_ERROR_STREAM = 0xE4404


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
        HostError: A simulator on the host raised; the run is saved as it was before.
        MetricsError: A metrics file is damaged, of another version or cannot be written.
        NumericsError: Losses or gradients were not finite too many iterations in a row, or with
            `debug` an assertion failed.
        Preempted: `stop` was true; the run is saved and resumes when called again.
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
        Progress(
            config.train.total_env_steps,
            warmup_env_steps=config.train.warmup_env_steps,
            kl_bound=kl_bound,
            quiet=quiet,
        ) as progress,
        processes.together(),
    ):
        run = _Run(experiment, checkpointer, writer, progress, pathlib.Path(workdir))
        run.start_or_resume()
        if run.finished and not run.lacks_evaluation:
            progress.say(f"The run in {workdir} is done: {run.env_steps:,} env steps.")
        else:
            run.train(stop, debug=debug)
        record = read_evaluations(workdir)[-1]
        progress.close()
        progress.say(evaluation_table(record))
    return record


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
        self._workdir = workdir
        self._pending: list[dict[str, jax.Array]] = []
        self._faults = FaultWatch(workdir, limit=experiment.config.train.max_skipped_updates)
        self._experiment = experiment
        self._checkpointer = checkpointer
        self._writer = writer
        self._progress = progress
        self._began = time.monotonic()
        self._logged = self._began
        self._model_errors: Any = sharding.shard_model_errors(experiment.mesh, experiment)
        self._iteration, self._wall_before = 0, 0.0
        self._best: int | None = None

    def start_or_resume(self) -> None:
        """Makes the first state, or takes that of the newest checkpoint; call it first.

        Raises:
            CheckpointError: A checkpoint cannot be read, or all were removed.
            MetricsError: A metrics file is damaged or cannot be written.
        """
        experiment, progress = self._experiment, self._progress
        progress.say(description(experiment))
        experiment.require_room()
        restored = self._checkpointer.restore_latest(experiment.state_shapes())
        if restored is None:
            if holds_metrics(self._workdir):
                raise lost_checkpoints(self._workdir)
            self._state = self._first_state()
        else:
            self._state, meta = restored
            self._iteration = int(meta["env_steps"]) // experiment.env_steps_per_iteration
            self._wall_before = float(meta["wall_seconds"])
            if processes.leads():
                forget_overwritten(self._workdir)
            progress.say(f"Resuming from the checkpoint at {self.env_steps:,} env steps.")
        if processes.leads() and (missing := self._writer.truncate_after(self.env_steps)):
            progress.say(missing)
        self._best = self._find_best()

    def _first_state(self) -> TrainState:
        # One program: eager resets would compile each operation of the simulators alone. The seed
        # is an argument, so that all seeds share the compiled program.
        key = jax.random.key(self._experiment.config.seed)
        init = sharding.shard_init(self._experiment.mesh, self._experiment).lower(key)
        name = "the start state"
        start = compile_all({name: Program(init)}, self._progress)[name]
        state: TrainState = jax.block_until_ready(start(key))
        raise_failure(self._experiment.env)
        processes.wait_for_all("the start state")
        return state

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
        train = self._experiment.config.train
        evaluator = Evaluator(self._experiment, episodes=train.eval_episodes)
        if self._iteration == 0:
            # From here on a run without a checkpoint is a damaged one.
            self._save()
            if processes.leads():
                forget_overwritten(self._workdir)
        if self.finished:
            self._evaluate(evaluator)
            return
        step = self._compile(evaluator, debug=debug)
        try:
            self._iterate(step, evaluator, stop)
        except HostError as error:
            self._log()
            self._save()
            saved = f"All before it is saved, at {self.env_steps:,} env steps"
            raise HostError(f"{error}\n{saved}; fix it and run the same command.") from error

    def _iterate(self, step: Step, evaluator: Evaluator, stop: Callable[[], bool]) -> None:
        train = self._experiment.config.train
        if self.lacks_evaluation:
            self._evaluate(evaluator)
        self._logged = time.monotonic()  # compiling does not count towards the training speed
        stopping = processes.any_of(stop())
        while not (self.finished or stopping):
            suspicious = self._faults.suspicious
            if suspicious:
                self._faults.save_state(self._iteration, self._state, self._meta())
            self._state, metrics = step(self._state)
            self._iteration += 1
            self._pending.append(metrics)
            if suspicious:
                self._faults.judge(jax.device_get(metrics))
            stopping = processes.any_of(stop())
            save = stopping or self._due(train.checkpoint_every)
            # A stop does not wait for an evaluation: the resumed run does it.
            evaluate = self._due(train.eval_every) and not stopping
            # What a checkpoint covers is written before it, or a resume would leave a gap.
            if save or evaluate or self._iteration % train.log_every == 0:
                self._log()
            if evaluate:
                self._evaluate(evaluator)
            if save or (evaluate and self._best == self._iteration):
                self._save()
        if stopping:
            raise Preempted(
                f"Stopped at {self.env_steps:,} env steps, all saved; run the same command to "
                f"resume."
            )

    def _due(self, every: int) -> bool:
        """Whether the last iteration ended the run or crossed a multiple of `every` env steps.

        The start crosses 0.
        """
        before = self.env_steps - self._experiment.env_steps_per_iteration
        return self.finished or _crosses(before, self.env_steps, every)

    def _compile(self, evaluator: Evaluator, *, debug: bool) -> Step:
        """Compiles all that training needs before the first step, so that no stop waits for it."""
        policy = self._experiment.config.train.eval_policy
        agent, replay = self._state.agent, self._state.replay
        with self._progress.working("Tracing", {"the programs of training and evaluation": None}):
            iteration = Iteration(self._experiment, self._state, debug=debug)
            evaluation = evaluator.trace(agent, policy=policy)
            programs = {**iteration.programs, "the evaluation": evaluation}
            if self._experiment.config.has_model:
                errors = self._model_errors.lower(agent, replay, jax.random.key(0))
                programs["the model's errors"] = Program(errors)
        compiled = compile_all(programs, self._progress)
        processes.wait_for_all("compiling")
        evaluator.use(compiled["the evaluation"], policy=policy)
        self._model_errors = compiled.get("the model's errors", self._model_errors)
        step = iteration.bind(compiled)
        return functools.partial(self._checked, step) if debug else step

    def _checked(
        self, step: Callable[[TrainState], Any], state: TrainState
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """A step with its assertions; the first that fails ends the run."""
        error, result = step(state)
        raise_failure(self._experiment.env)
        if (what := checks.message(error)) is not None:
            self._faults.end(self._iteration, state, self._meta(), what)
        return result

    def _measure_model(self) -> dict[str, Any]:
        """The key `model_error` of eval.jsonl; nothing without a world model."""
        config, specs = self._experiment.config, self._experiment.env.specs
        if not config.has_model:
            return {}
        key = jax.random.fold_in(jax.random.key(config.seed), _MODEL_ERROR_STREAM)
        errors = jax.device_get(self._model_errors(self._state.agent, self._state.replay, key))
        shown = lines.lines(specs)
        of_lines = jax.tree.map(lambda x: lines.means(x, shown), errors)
        return {"model_error": model_error.as_record(of_lines, list(shown))}

    def _meta(self) -> dict[str, Any]:
        return self._experiment.meta(env_steps=self.env_steps, wall_seconds=self._wall_seconds())

    def _save(self) -> None:
        best = () if self._best is None else (self._best,)
        self._checkpointer.save(self._iteration, self._state, self._meta(), keep=best)

    def _find_best(self) -> int | None:
        """The iteration that scored best, of this one and those that have a checkpoint.

        Only the process that leads decides what is kept, and the others what it says of this one.
        """
        best, per_iteration = None, self._experiment.env_steps_per_iteration
        if processes.leads():
            steps = {*checkpoint_steps(self._workdir), self._iteration}
            best = best_step(read_evaluations(self._workdir), steps, per_iteration)
        return self._iteration if processes.from_leader(best == self._iteration) else best

    def _log(self) -> None:
        metrics = jax.device_get(self._pending)
        self._pending = []
        if not metrics:
            return
        self._faults.note(metrics)
        now = time.monotonic()
        steps = len(metrics) * self._experiment.env_steps_per_iteration
        row: dict[str, float] = {
            "env_steps": self.env_steps,
            "iteration": self._iteration,
            "wall_seconds": self._wall_seconds(),
            RATE: steps / (now - self._logged),
        }
        self._logged = now
        for name, value in summarize(metrics).items():
            if value.ndim == 0:
                row[name] = float(value)
            else:
                row.update(lines.columns(name, value, self._experiment.env.specs))
        if processes.leads():
            self._writer.write(row)
        self._progress.update(row)

    def _evaluate(self, evaluator: Evaluator) -> None:
        config = self._experiment.config
        result = evaluator(self._state.agent, policy=config.train.eval_policy, seed=config.seed)
        record = {
            **self._experiment.position(self.env_steps, self._wall_seconds()),
            **result,
            **self._measure_model(),
        }
        if processes.leads():
            self._writer.write_evaluation(record)
        self._best = self._find_best()
        text = returns_text(result["tasks"])
        self._progress.say(f"Evaluation at {self.env_steps:,} env steps: {text}")
        # An evaluation does not count towards the training speed.
        self._logged = time.monotonic()

    def _wall_seconds(self) -> float:
        return self._wall_before + time.monotonic() - self._began


def _crosses(before: int, after: int, every: int) -> bool:
    return every > 0 and before // every != after // every
