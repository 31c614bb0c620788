"""The folder of an export: what it replaces, and what a kill or a full disk leave of it."""

import json
import pathlib
import subprocess

import pytest

from m3po_jax.deploy import export
from m3po_jax.deploy.export import ExportError
from tests.workdir.saved_states import fill, small_disk

OLD = ({"prior.stablehlo": b"old" * 999, "planner.stablehlo": b"old planner"}, "old")
NEW = ({"prior.stablehlo": b"new" * 999}, "new")


def replace(folder, what):
    files, text = what
    folder.mkdir(exist_ok=True)
    export._refuse_foreign(folder)
    export._replace(folder, files, json.dumps({"format": export._FORMAT, "is": text}))


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_export_takes_the_place_of_an_older_one(tmp_path):
    for what in (OLD, NEW):
        replace(tmp_path, what)
    assert set(content(tmp_path)) == {"prior.stablehlo", "signature.json"}
    assert content(tmp_path)["prior.stablehlo"] == NEW[0]["prior.stablehlo"]


class Countdown:
    """Wraps file operations; one of them is the last."""

    def __init__(self, moment):
        self.left = moment

    def __call__(self, work):
        def step(*arguments, **named):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return work(*arguments, **named)

        return step


@pytest.mark.parametrize("begun", [True, False])
def test_a_kill_at_any_moment_leaves_a_folder_that_can_be_exported_to(tmp_path, monkeypatch, begun):
    replace(tmp_path / "old", OLD)
    old = content(tmp_path / "old")
    replace(tmp_path / "new", NEW)
    new = content(tmp_path / "new")
    folder = tmp_path / "out"
    moment = kept = 0
    while True:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        if begun:
            replace(folder, OLD)
        moment += 1
        dies = Countdown(moment)
        with monkeypatch.context() as killed:
            killed.setattr(export, "write_synced", dies(export.write_synced))
            killed.setattr(pathlib.Path, "unlink", dies(pathlib.Path.unlink))
            killed.setattr(pathlib.Path, "rename", dies(pathlib.Path.rename))
            try:
                replace(folder, NEW)
            except KeyboardInterrupt:
                left = content(folder)
                if "signature.json" in left:  # it describes what is there
                    whole = new if left["signature.json"] == new["signature.json"] else old
                    assert whole.items() <= left.items()
                    kept += 1
            else:
                break
        replace(folder, NEW)
        assert content(folder) == new
    assert moment > 5 and (kept > 1) == begun


def test_a_full_disk_leaves_the_older_export(tmp_path):
    with small_disk(tmp_path / "disk", "256k") as disk:
        replace(disk / "out", OLD)
        before = content(disk / "out")
        fill(disk / "filler")
        with pytest.raises(OSError, match="No space left"):
            replace(disk / "out", ({"prior.stablehlo": b"x" * 10**6}, "new"))
        assert content(disk / "out") == before


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda place, _: place != tmp_path)  # root writes anywhere
    for folder in (tmp_path, tmp_path / "new" / "er"):
        with pytest.raises(ExportError, match="cannot be written; give another --out"):
            export._refuse_foreign(folder)


@pytest.mark.parametrize("name", ["prior.stablehlo", "signature.json", "notes.txt"])
def test_what_is_no_export_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ExportError, match="is not empty and is not an export"):
        replace(tmp_path, NEW)
    assert content(tmp_path) == {name: b"mine"}
