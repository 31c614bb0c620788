"""Rows of metrics.csv and lines of eval.jsonl for TensorBoard and Weights & Biases."""

import contextlib
import dataclasses
import importlib.util
import math
import pathlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from m3po_jax.config import UserError
from m3po_jax.workdir.folder import TENSORBOARD_FOLDER, WANDB_FILE, read_record
from m3po_jax.workdir.metrics import STEP, Sink

# Seconds that the end of a run waits for uploads: all is on disk, and a stop must not hang.
_WANDB_FINISH_TIMEOUT = 20.0


class EventLogError(UserError):
    """A log was asked for that cannot be written; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class WandbPlace:
    """Where a run goes in Weights & Biases.

    Attributes:
        project: Its project.
        entity: Whose, a user or a team; None leaves it to the service.
        group: What the run is shown together with, as the other seeds; None for nothing.
        tags: Its tags.
    """

    project: str = "m3po_jax"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


def make_sinks(workdir: pathlib.Path, *, tensorboard: bool, wandb: WandbPlace | None) -> list[Sink]:
    """The logs that were asked for.

    Args:
        workdir: Folder of the run.
        tensorboard: Whether to write event files.
        wandb: Where in Weights & Biases, None for not at all.

    Raises:
        EventLogError: Weights & Biases is asked for and not installed.
    """
    if wandb is not None and importlib.util.find_spec("wandb") is None:
        raise EventLogError(
            "--wandb needs the package wandb, which is not installed: pip install 'm3po_jax[wandb]'"
        )
    sinks: list[Sink] = [TensorBoard(workdir)] if tensorboard else []
    return sinks if wandb is None else [*sinks, WeightsAndBiases(workdir, wandb)]


def row_scalars(row: Mapping[str, float | int]) -> dict[str, float]:
    """What of a row is drawn: all finite numbers but the step."""
    return {name: x for name, x in row.items() if name != STEP and math.isfinite(x)}


def evaluation_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """What of an evaluation is drawn: returns, scores and the model's error one step ahead."""
    scalars = {
        "eval/normalized_mean": record["normalized_mean"],
        "eval/normalized_iqm": record["normalized_iqm"],
        "eval/success_mean": record.get("success_mean"),
        "eval/success_mean_last": record.get("success_mean_last"),
    }
    for name, task in record["tasks"].items():
        scalars[f"eval/return/{name}"] = task["return_mean"]
        scalars[f"eval/normalized/{name}"] = task["normalized"]
        scalars[f"eval/success_rate/{name}"] = task.get("success_rate")
        scalars[f"eval/success_rate_last/{name}"] = task.get("success_rate_last")
    for name, errors in record.get("model_error", {}).items():
        for quantity, values in errors.items():
            scalars[f"eval/error_of_{quantity}/{name}"] = values[0] if values else None
    return {name: float(x) for name, x in scalars.items() if x is not None}


class TensorBoard:
    """Event files in the folder `tensorboard` of a run.

    One event holds a whole row and is written at once, by the thread that calls: what metrics.csv
    holds, the event file holds, and no queue can fill up.
    """

    def __init__(self, workdir: pathlib.Path):
        """Opens nothing yet; a file appears with its first row."""
        self._folder = workdir / TENSORBOARD_FOLDER
        self._writer: EventsWriter | None = None
        self._first_step = 0

    def start_after(self, env_steps: int) -> None:
        """Makes TensorBoard drop what earlier files hold past `env_steps`."""
        self.close()
        self._first_step = env_steps + 1

    def write(self, row: Mapping[str, float | int]) -> None:
        """See `Sink.write`."""
        self._write_scalars(int(row[STEP]), row_scalars(row))

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """See `Sink.write_evaluation`."""
        self._write_scalars(int(record[STEP]), evaluation_scalars(record))

    def close(self) -> None:
        """Closes the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open(self) -> EventsWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, which hold whole seconds before the suffix.
        writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        # TensorBoard drops what it read before at this step and later.
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        writer.write_event(
            event_pb2.Event(wall_time=time.time(), step=self._first_step, session_log=restart)
        )
        return writer

    def _write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._open()
        values = [summary_pb2.Summary.Value(tag=k, simple_value=x) for k, x in scalars.items()]
        summary = summary_pb2.Summary(value=values)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()


class WeightsAndBiases:
    """A run of Weights & Biases, resumed with the run; its own process does the uploading."""

    def __init__(self, workdir: pathlib.Path, place: WandbPlace):
        """Contacts nobody yet."""
        self._workdir, self._place = workdir, place
        self._run: Any = None

    def start_after(self, env_steps: int) -> None:
        """Starts or resumes; the service ignores steps that it has, so nothing comes twice."""
        import wandb

        identity = self._workdir / WANDB_FILE
        if not identity.exists():
            identity.write_text(secrets.token_hex(6) + "\n", encoding="utf-8")
        try:
            self._run = wandb.init(
                **dataclasses.asdict(self._place),
                id=identity.read_text(encoding="utf-8").strip(),
                name=self._workdir.name,
                dir=str(self._workdir),
                config=read_record(self._workdir)["config"],
                resume="allow",
                settings=wandb.Settings(finish_timeout=_WANDB_FINISH_TIMEOUT),
            )
        except wandb.Error as error:
            raise EventLogError(
                f"Weights & Biases does not start: {error}; run `wandb login`, set "
                "WANDB_MODE=offline, or omit --wandb"
            ) from error

    def write(self, row: Mapping[str, float | int]) -> None:
        """See `Sink.write`."""
        self._run.log(row_scalars(row), step=int(row[STEP]))

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """See `Sink.write_evaluation`."""
        self._run.log(evaluation_scalars(record), step=int(record[STEP]))

    def close(self) -> None:
        """Waits a little for what is not uploaded yet; `wandb sync` does the rest later."""
        run, self._run = self._run, None
        if run is not None:
            with contextlib.suppress(Exception):  # a network failure must not end a run
                run.finish()
