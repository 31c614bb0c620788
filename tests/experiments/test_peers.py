"""Timing two processes in turn, with stand-ins for both."""

import csv
import importlib.metadata
import pathlib
import sys

import pytest

from experiments.peers import run, turns
from m3po_jax.workdir import record

HERE = pathlib.Path(turns.__file__).parent
WORKER = """
import sys, time, turns
def program():
    begin = time.process_time()
    while time.process_time() < begin + float(sys.argv[1]):
        pass
turns.serve({"a": program, "b": program}, lambda result: None)
"""


def command(seconds):
    return [sys.executable, "-c", WORKER, str(seconds)]


def test_the_ratio_is_their_time_over_ours(tmp_path):
    with (
        turns.worker(command(0.01), HERE) as ours,
        turns.worker(command(0.03), HERE) as theirs,
    ):
        rows = turns.compare(ours, theirs, [("a", "b"), ("b", "a")], rounds=3, calls=1)
    assert [(row["ours"], row["theirs"]) for row in rows] == [("a", "b"), ("b", "a")]
    for row in rows:
        assert float(row["our_seconds"]) >= 0.01 and float(row["their_seconds"]) >= 0.03
        assert float(row["times_faster_min"]) <= float(row["times_faster"])
        # On a busy machine the wall clock counts what others do too.
        assert turns.ONE_CORE is False or 2.0 < float(row["times_faster"]) < 4.0
    turns.write(tmp_path / "a" / "rows.csv", rows)
    with (tmp_path / "a" / "rows.csv").open() as file:
        assert [row["ours"] for row in csv.DictReader(file)] == ["a", "b"]


def test_a_worker_that_ends_is_an_error():
    with (
        pytest.raises(SystemExit, match="ended"),
        turns.worker([sys.executable, "-c", "print('no')"], HERE),
    ):
        pass


def test_absent_peers_are_skipped_with_a_message(capsys, monkeypatch, tmp_path):
    flags = ["--tdmpc2=no/python", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["run", *flags])
    run.main()
    out = capsys.readouterr().out
    assert "tdmpc2-jax is skipped: no Python for it (no/python)" in out
    assert "Brax's PPO is skipped: no Python for it (None)" in out
    assert not list(tmp_path.iterdir())


def test_results_name_the_versions_of_both_sides():
    found = run.made_with(pathlib.Path(sys.executable))
    assert found["our_jax"] == found["their_jax"] == importlib.metadata.version("jax")
    assert found["commit"] == (record.commit() or "")


def test_whether_a_peer_can_be_imported(capsys):
    here = pathlib.Path(sys.executable)
    assert turns.available("P", here, "json", HERE)
    assert not turns.available("P", here, "no_such_module", HERE)
    assert "P is skipped: " in (out := capsys.readouterr().out) and "no_such_module" in out
