import concurrent.futures
import csv
import json
import math

import numpy as np
import pytest

from m3po_jax.workdir import metrics
from m3po_jax.workdir.metrics import (
    MetricsError,
    MetricsWriter,
    read_evaluations,
    read_saved_evaluations,
    save_evaluation,
)

ROWS = [
    {"env_steps": 64 * i, "a/loss": i / 7.0, "b, with comma": math.nan if i < 3 else -1e-30 / i}
    for i in range(1, 6)
]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_all(folder, rows=ROWS):
    with MetricsWriter(folder) as writer:
        for row in rows:
            writer.write(row)
            writer.write_evaluation({"env_steps": row["env_steps"], "x": [1, 2]})


def test_rows_come_back(tmp_path):
    write_all(tmp_path)
    got = read(tmp_path / "metrics.csv")
    assert list(got[0]) == ["env_steps", "a/loss", "b, with comma"]
    for row, expected in zip(got, ROWS, strict=True):
        assert int(row["env_steps"]) == expected["env_steps"]
        np.testing.assert_array_equal(
            [np.float32(row[name]) for name in ("a/loss", "b, with comma")],
            [np.float32(expected[name]) for name in ("a/loss", "b, with comma")],
        )


def test_env_steps_come_first_and_order_does_not_matter(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write({"z": 1.0, "env_steps": 3})
        writer.write({"env_steps": 4, "z": 2.0})
    assert (tmp_path / "metrics.csv").read_text() == "env_steps,z\n3,1\n4,2\n"


def test_large_step_counts_stay_exact(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write({"env_steps": 12_345_678_901})
    assert read(tmp_path / "metrics.csv")[0]["env_steps"] == "12345678901"


def test_every_line_is_on_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(ROWS[0])
    writer.write_evaluation({"env_steps": 64})
    assert len(read(tmp_path / "metrics.csv")) == 1
    assert metrics.read_evaluations(tmp_path) == [{"env_steps": 64}]
    writer.close()


def test_a_restart_appends_under_one_header(tmp_path):
    write_all(tmp_path, ROWS[:2])
    write_all(tmp_path, ROWS[2:])
    text = (tmp_path / "metrics.csv").read_text()
    assert text.count("env_steps") == 1
    assert [int(row["env_steps"]) for row in read(tmp_path / "metrics.csv")] == [
        row["env_steps"] for row in ROWS
    ]


@pytest.mark.parametrize("restart", [False, True])
def test_other_columns_are_refused(tmp_path, restart):
    writer = MetricsWriter(tmp_path)
    writer.write({"env_steps": 1, "old": 1.0})
    if restart:
        writer.close()
        writer = MetricsWriter(tmp_path)
    with writer, pytest.raises(MetricsError, match=r"missing now: \['old'\], new: \['new'\]"):
        writer.write({"env_steps": 2, "new": 1.0})


def test_env_steps_are_needed(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(MetricsError, match="env_steps"):
            writer.write({"a": 1.0})
        with pytest.raises(MetricsError, match="env_steps"):
            writer.write_evaluation({"a": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_resuming_drops_what_lies_past_the_checkpoint(tmp_path, kept):
    write_all(tmp_path)
    writer = MetricsWriter(tmp_path)
    writer.truncate_after(64 * kept + 10)
    assert len(metrics.read_evaluations(tmp_path)) == kept
    assert (tmp_path / "metrics.csv").exists() == (kept > 0)
    writer.close()
    write_all(tmp_path, ROWS[kept:])
    assert [row["env_steps"] for row in metrics.read_evaluations(tmp_path)] == [
        row["env_steps"] for row in ROWS
    ]
    assert len(read(tmp_path / "metrics.csv")) == len(ROWS)


def test_nothing_at_all_is_kept_without_a_checkpoint(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write({"env_steps": 0, "old": 1.0})
        writer.write_evaluation({"env_steps": 0})
        writer.truncate_after(-1)
        assert list(tmp_path.iterdir()) == []
        writer.write({"env_steps": 0, "new": 1.0})
    assert list(read(tmp_path / "metrics.csv")[0]) == ["env_steps", "new"]


def test_a_kill_at_any_byte_leaves_no_duplicate_and_no_torn_line(tmp_path):
    """The restart continues from the checkpoint at 128 steps and ends with the whole files."""
    whole_folder = tmp_path / "whole"
    whole_folder.mkdir()
    write_all(whole_folder)
    whole = {name: (whole_folder / name).read_bytes() for name in ("metrics.csv", "eval.jsonl")}
    after_two = {name: b"\n".join(text.split(b"\n")[:3]) for name, text in whole.items()}
    cut_folder = tmp_path / "cut"
    cut_folder.mkdir()
    # the checkpoint at 128 was saved after its two rows were flushed, so no cut comes before them
    for cut in range(len(after_two["metrics.csv"]) + 1, len(whole["metrics.csv"]) + 1):
        (cut_folder / "metrics.csv").write_bytes(whole["metrics.csv"][:cut])
        lines = len(after_two["eval.jsonl"])
        (cut_folder / "eval.jsonl").write_bytes(whole["eval.jsonl"][: max(cut, lines)])
        with MetricsWriter(cut_folder) as writer:
            writer.truncate_after(128)
        write_all(cut_folder, ROWS[2:])
        for name, text in whole.items():
            assert (cut_folder / name).read_bytes() == text


@pytest.mark.parametrize("name", ["metrics.csv", "eval.jsonl"])
def test_a_damaged_line_in_the_middle_is_reported(tmp_path, name):
    write_all(tmp_path)
    lines = (tmp_path / name).read_text().splitlines()
    lines[2] = lines[2][:2]
    damaged = "\n".join(lines) + "\n"
    (tmp_path / name).write_text(damaged)
    match = f"line 3 of .*{name}"
    with MetricsWriter(tmp_path) as writer, pytest.raises(MetricsError, match=match):
        writer.truncate_after(10**6)
    assert (tmp_path / name).read_text() == damaged


def test_truncating_nothing_is_fine(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.truncate_after(5)
    assert list(tmp_path.iterdir()) == []
    assert metrics.read_evaluations(tmp_path) == []


def test_records_are_json(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write_evaluation({"env_steps": 1, "tasks": {"dmc/A": {"return_mean": 1.5}}})
    line = (tmp_path / "eval.jsonl").read_text()
    assert line.endswith("\n")
    assert json.loads(line)["tasks"]["dmc/A"]["return_mean"] == 1.5


class Recorder:
    """A sink that notes what it is told, or fails."""

    def __init__(self, fails=False):
        self.calls = []
        self.fails = fails

    def note(self, *call):
        if self.fails:
            raise OSError(28, "No space left on device")
        self.calls.append(call)

    def start_after(self, env_steps):
        self.note("start_after", env_steps)

    def write(self, row):
        self.note("write", row["env_steps"])

    def write_evaluation(self, record):
        self.note("write_evaluation", record["env_steps"])

    def close(self):
        self.note("close")


def test_sinks_get_the_same_rows_and_lines(tmp_path):
    sink = Recorder()
    with MetricsWriter(tmp_path, [sink]) as writer:
        writer.truncate_after(0)
        for row in ROWS[:2]:
            writer.write(row)
            writer.write_evaluation({"env_steps": row["env_steps"]})
    assert sink.calls == [
        ("start_after", 0),
        ("write", 64),
        ("write_evaluation", 64),
        ("write", 128),
        ("write_evaluation", 128),
        ("close",),
    ]


def test_a_sink_that_cannot_write_is_a_clear_error_after_our_own_row(tmp_path):
    writer = MetricsWriter(tmp_path, [Recorder(fails=True)])
    with pytest.raises(MetricsError, match="No space left"):
        writer.write(ROWS[0])
    assert len(read(tmp_path / "metrics.csv")) == 1


def test_columns_come_back_as_numbers(tmp_path):
    write_all(tmp_path)
    columns = metrics.read_metrics(tmp_path)
    assert columns["env_steps"] == [64.0, 128.0, 192.0, 256.0, 320.0]
    assert math.isnan(columns["b, with comma"][0])
    assert metrics.read_metrics(tmp_path / "nowhere") == {}


def test_saved_evaluations_are_apart_from_those_of_training(tmp_path):
    write_all(tmp_path, ROWS[:1])
    path = metrics.save_evaluation(tmp_path, {"env_steps": 64, "policy": "prior"})
    assert path == tmp_path / "saved_eval.jsonl"
    assert metrics.read_saved_evaluations(tmp_path) == [{"env_steps": 64, "policy": "prior"}]
    assert len(metrics.read_evaluations(tmp_path)) == 1


TORN = ['{"env_steps": 2, "tas', '{"env_steps": 2, "x": "ü'.encode()[:-1], b"\x00" * 40]


@pytest.mark.parametrize("torn", TORN)
def test_what_a_kill_has_torn_off_an_append_spoils_no_later_one(tmp_path, torn):
    torn = torn.encode() if isinstance(torn, str) else torn
    read = {"saved_eval.jsonl": read_saved_evaluations, "eval.jsonl": read_evaluations}
    for name, reading in read.items():
        (tmp_path / name).write_bytes(b'{"env_steps": 1}\n' + torn)
        assert reading(tmp_path) == [{"env_steps": 1}]
    save_evaluation(tmp_path, {"env_steps": 3})
    with MetricsWriter(tmp_path) as writer:
        writer.write_evaluation({"env_steps": 3})
    for name, reading in read.items():
        assert reading(tmp_path) == [{"env_steps": 1}, {"env_steps": 3}]
        assert (tmp_path / name).read_text() == '{"env_steps": 1}\n{"env_steps": 3}\n'


def test_a_whole_last_line_counts_without_its_newline(tmp_path):
    """As some editors leave it."""
    (tmp_path / "eval.jsonl").write_text('{"env_steps": 1}\n{"env_steps": 2}')
    assert read_evaluations(tmp_path) == [{"env_steps": 1}, {"env_steps": 2}]
    with MetricsWriter(tmp_path) as writer:
        writer.write_evaluation({"env_steps": 3})
    assert [record["env_steps"] for record in read_evaluations(tmp_path)] == [1, 2, 3]


def test_processes_that_save_at_once_keep_each_others_lines(tmp_path):
    record = {"env_steps": 1, "long": "x" * 100_000}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: save_evaluation(tmp_path, record), range(40)))
    assert read_saved_evaluations(tmp_path) == [record] * 40


def test_rows_that_are_gone_are_spoken_of(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for steps in (10, 20):
            writer.write({"env_steps": steps, "loss": 1.0})
        assert writer.truncate_after(20) == ""
        assert "ends at 20 env steps and the checkpoint is at 1,000" in writer.truncate_after(1000)
    (tmp_path / "metrics.csv").unlink()
    with MetricsWriter(tmp_path) as writer:
        assert "ends at 0 env steps" in writer.truncate_after(20)
        assert writer.truncate_after(0) == ""
