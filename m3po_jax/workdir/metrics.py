"""What a run writes down: metrics.csv and eval.jsonl, and the same rows to other logs."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO

from m3po_jax.config import UserError
from m3po_jax.workdir.folder import EVALUATION_FILE, METRICS_FILE, SAVED_EVALUATION_FILE
from m3po_jax.workdir.record import write_atomically

STEP = "env_steps"
RATE = "env_steps_per_second"


class MetricsError(UserError):
    """A metrics file does not fit the run or is damaged; the text says what to do."""


class Sink(Protocol):
    """Where else the rows of metrics.csv and the lines of eval.jsonl go."""

    def start_after(self, env_steps: int) -> None:
        """Comes first: what was written past `env_steps` is void and will be written again."""

    def write(self, row: Mapping[str, float | int]) -> None:
        """Takes a row of metrics.csv."""

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """Takes a line of eval.jsonl."""

    def close(self) -> None:
        """Comes last."""


class MetricsWriter:
    """Appends to metrics.csv and eval.jsonl of a workdir; every line is flushed.

    Both are ordered by `env_steps`. On resume, call `truncate_after` first with the env steps of
    the restored checkpoint: what a killed process wrote past it will be written again.
    """

    def __init__(self, workdir: str | os.PathLike[str], sinks: Sequence[Sink] = ()):
        """Opens nothing yet; files appear with their first line. Sinks get all of it as well."""
        self._workdir = pathlib.Path(workdir)
        self._sinks = sinks
        self._metrics_path = pathlib.Path(workdir) / METRICS_FILE
        self._evaluation_path = pathlib.Path(workdir) / EVALUATION_FILE
        self._header: list[str] | None = None
        self._metrics: TextIO | None = None

    def write(self, row: Mapping[str, float | int]) -> None:
        """Appends one row to metrics.csv.

        Args:
            row: Numbers by column; `env_steps` must be among them. The first row of a run fixes
                the columns; they are written with `env_steps` first.

        Raises:
            MetricsError: The columns differ from those of the file, or it cannot be written.
        """
        if STEP not in row:
            raise MetricsError(f"a row of {METRICS_FILE} needs the column {STEP!r}")
        with _write_errors_named(self._metrics_path, self.close):
            if self._metrics is None:
                self._open(row)
            assert self._header is not None and self._metrics is not None
            if set(row) != set(self._header):
                raise self._header_error(row)
            self._metrics.write(_csv_line([_number(row[name]) for name in self._header]))
            self._metrics.flush()
        self._tell(lambda sink: sink.write(row))

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """Appends one line to eval.jsonl; `env_steps` must be among the keys."""
        if STEP not in record:
            raise MetricsError(f"a line of {EVALUATION_FILE} needs the key {STEP!r}")
        with _write_errors_named(self._evaluation_path, self.close):
            _append(self._evaluation_path, record)
        self._tell(lambda sink: sink.write_evaluation(record))

    def truncate_after(self, env_steps: int) -> str:
        """Drops rows and lines of both files past `env_steps`, and a torn last line.

        Returns:
            What is missing of metrics.csv, which reaches every checkpoint; empty if nothing.

        Raises:
            MetricsError: A line other than the last one is damaged, or a file cannot be written.
        """
        self.close()
        self._header = None
        metrics, evaluations = self._metrics_path, self._evaluation_path
        with _write_errors_named(metrics.parent, self.close):
            _rewrite(metrics, _kept_rows(metrics, env_steps), header_lines=1)
            _rewrite(evaluations, _kept_records(evaluations, env_steps))
        self._tell(lambda sink: sink.start_after(env_steps))
        _, rows = _rows(metrics)
        end = rows[-1][0] if rows else 0
        if end >= env_steps:
            return ""
        return (
            f"{metrics} ends at {end:,} env steps and the checkpoint is at {env_steps:,}: the rows "
            "between them are lost, and curves will show a gap."
        )

    def close(self) -> None:
        """Closes metrics.csv; a later `write` opens it again."""
        file, self._metrics = self._metrics, None
        if file is not None:
            file.close()

    def __enter__(self) -> "MetricsWriter":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files and the sinks."""
        self.close()
        self._tell(lambda sink: sink.close())

    def _tell(self, what: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            with _write_errors_named(self._workdir, self.close):
                what(sink)

    def _open(self, row: Mapping[str, float | int]) -> None:
        lines = _complete_lines(self._metrics_path)
        if lines:
            self._header = next(csv.reader([lines[0]]))
            if set(row) != set(self._header):
                raise self._header_error(row)
        self._metrics = open(self._metrics_path, "a", encoding="utf-8")  # noqa: SIM115
        if not lines:
            self._header = [STEP, *(name for name in row if name != STEP)]
            self._metrics.write(_csv_line(self._header))

    def _header_error(self, row: Mapping[str, float | int]) -> MetricsError:
        header = self._header or []
        lacks = sorted(set(header) - set(row))
        adds = sorted(set(row) - set(header))
        return MetricsError(
            f"{self._metrics_path} has other columns than this run writes (missing now: {lacks}, "
            f"new: {adds}); move the file away or continue with the version that started it"
        )


def read_evaluations(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the complete lines of eval.jsonl in order; none where there is no file.

    Raises:
        MetricsError: A line is damaged.
    """
    return [record for _, record in _records(pathlib.Path(workdir) / EVALUATION_FILE)]


def save_evaluation(workdir: str | os.PathLike[str], record: Mapping[str, Any]) -> pathlib.Path:
    """Keeps an evaluation apart from those of training, which are in eval.jsonl.

    Returns:
        The file that it was appended to.

    Raises:
        MetricsError: The file cannot be written.
    """
    path = pathlib.Path(workdir) / SAVED_EVALUATION_FILE
    with _write_errors_named(path, lambda: None):
        _append(path, record)
    return path


def read_saved_evaluations(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns what `save_evaluation` kept, in order.

    Raises:
        MetricsError: A line is damaged.
    """
    return [record for _, record in _records(pathlib.Path(workdir) / SAVED_EVALUATION_FILE)]


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, list[float]]:
    """Returns the complete rows of metrics.csv by column; {} where there are none.

    Raises:
        MetricsError: A row is damaged.
    """
    path = pathlib.Path(workdir) / METRICS_FILE
    header, rows = _rows(path)
    columns: dict[str, list[float]] = {name: [] for name in header}
    for number, (_, _, cells) in enumerate(rows, start=2):
        try:
            for name, cell in zip(header, cells, strict=True):
                columns[name].append(float(cell))
        except ValueError:
            raise _damaged(path, number) from None
    return columns if rows else {}


@contextlib.contextmanager
def _write_errors_named(path: pathlib.Path, close: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):  # closing tries to write what is left
            close()
        raise MetricsError(
            f"cannot write {path}: {error.strerror or error}; check that the disk has space and "
            f"the folder can be written, then run the same command again: it resumes from the "
            f"last checkpoint"
        ) from error


def _number(value: float | int) -> str:
    """Integers in full; floats in 9 digits, which give a float32 back exactly."""
    return str(value) if isinstance(value, int) else format(float(value), ".9g")


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _append(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Appends a line of JSON, whole and after whole lines, whoever else writes or was killed."""
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        tail = file.read().rpartition(b"\n")[2]
        whole = _is_json(tail)
        if not whole:
            file.truncate(file.tell() - len(tail))
        file.write((b"\n" if whole else b"") + json.dumps(record).encode() + b"\n")


def _is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _complete_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines that end in a newline; a kill can tear only what stands after them."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _json_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines; the last may lack its newline, as an editor leaves it, if it is whole."""
    lines = _complete_lines(path)
    if path.exists():
        tail = path.read_bytes().rpartition(b"\n")[2]
        if _is_json(tail):
            lines.append(tail.decode())
    return lines


def _damaged(path: pathlib.Path, number: int) -> MetricsError:
    return MetricsError(
        f"line {number} of {path} is damaged; repair it, or keep a copy of the file and "
        "delete that line, then continue"
    )


def _rows(path: pathlib.Path) -> tuple[list[str], list[tuple[int, str, list[str]]]]:
    """Returns the header, and env steps, text and cells of each row; refuses a damaged one."""
    lines = _complete_lines(path)
    header = next(csv.reader(lines[:1]), [])
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = next(csv.reader([line]), [])
        try:
            if len(cells) != len(header):
                raise ValueError
            rows.append((int(cells[header.index(STEP)]), line, cells))
        except ValueError:
            raise _damaged(path, number) from None
    return header, rows


def _records(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns text and content of each line of JSON; refuses a damaged one."""
    records = []
    for number, line in enumerate(_json_lines(path), start=1):
        try:
            record = json.loads(line)
            record[STEP] + 0
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _damaged(path, number) from None
        records.append((line, record))
    return records


def _kept_rows(path: pathlib.Path, env_steps: int) -> list[str]:
    _, rows = _rows(path)
    kept = [line for step, line, _ in rows if step <= env_steps]
    return [*_complete_lines(path)[:1], *kept]


def _kept_records(path: pathlib.Path, env_steps: int) -> list[str]:
    return [line for line, record in _records(path) if record[STEP] <= env_steps]


def _rewrite(path: pathlib.Path, lines: list[str], *, header_lines: int = 0) -> None:
    if not path.exists():
        return
    if len(lines) <= header_lines:
        path.unlink()  # nothing but a header is left: the next run may write its own
    else:
        write_atomically(path, "\n".join(lines) + "\n")
