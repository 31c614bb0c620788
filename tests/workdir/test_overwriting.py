"""A run that is to be overwritten stays until the new one has a checkpoint."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from m3po_jax.workdir import folder
from m3po_jax.workdir.folder import open_workdir, read_config
from m3po_jax.workdir.record import WorkdirError
from tests.workdir.begun_runs import CONFIG, begin, fill, start


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    start(tmp_path)
    fill(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "keep").mkdir()
    other = dataclasses.replace(CONFIG, seed=7)
    assert not begin(tmp_path, other, overwrite=True).resumed
    folder.forget_overwritten(tmp_path)
    (tmp_path / "checkpoints" / "0").rmdir()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {".lock", "config.json", "notes.txt", "checkpoints", "checkpoints/keep"}
    assert read_config(tmp_path).seed == 7


def everything(path):
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_start_that_fails_leaves_the_run_that_it_was_to_overwrite(tmp_path):
    begin(tmp_path)
    fill(tmp_path)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").write_text("x")
    before = everything(tmp_path)
    other = dataclasses.replace(CONFIG, seed=7)
    with pytest.raises(ZeroDivisionError), open_workdir(tmp_path, other, overwrite=True):
        assert read_config(tmp_path).seed == 7 and not folder.has_begun(tmp_path)
        (tmp_path / "eval.jsonl").write_text('{"env_steps": 0}\n')
        raise ZeroDivisionError
    assert everything(tmp_path) == before
    assert start(tmp_path).resumed


def test_what_is_overwritten_goes_when_the_new_run_is_saved(tmp_path):
    begin(tmp_path)
    fill(tmp_path)
    with open_workdir(tmp_path, dataclasses.replace(CONFIG, seed=7), overwrite=True):
        (tmp_path / "checkpoints" / "0").mkdir(parents=True)
        folder.forget_overwritten(tmp_path)
        assert set(everything(tmp_path)) == {"config.json"}


def linked(path, name):
    """Puts a folder of the run on another disk, as far as renaming can tell."""
    elsewhere = pathlib.Path("/dev/shm") / f"{os.getpid()}-{name}"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    (path / name).symlink_to(elsewhere)
    return elsewhere


@pytest.fixture
def elsewhere(tmp_path):
    """A workdir whose checkpoints and event files lie on another disk."""
    if os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own here")
    places = [linked(tmp_path, name) for name in ("checkpoints", "tensorboard")]
    begin(tmp_path)
    fill(tmp_path)
    (tmp_path / "tensorboard" / "events.out.tfevents.1").write_text("x")
    yield tmp_path
    for place in places:
        shutil.rmtree(place)


def seen(path):
    """All files, those behind links included."""
    names = ("", "checkpoints", "tensorboard")
    return {name: everything(path / name) for name in names}


def test_a_run_whose_checkpoints_lie_elsewhere_is_a_run(elsewhere):
    assert folder.has_checkpoint(elsewhere)
    folder.require_checkpoint(elsewhere)
    before = seen(elsewhere)
    assert start(elsewhere).resumed
    other = dataclasses.replace(CONFIG, seed=7)
    with pytest.raises(ZeroDivisionError), open_workdir(elsewhere, other, overwrite=True):
        assert not folder.has_begun(elsewhere)
        raise ZeroDivisionError
    assert seen(elsewhere) == before
    with open_workdir(elsewhere, other, overwrite=True):
        (elsewhere / "checkpoints" / "0").mkdir()
        folder.forget_overwritten(elsewhere)
    assert seen(elsewhere)["checkpoints"] == {} and (elsewhere / "checkpoints").is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_to_a_disk_that_is_not_there_is_no_empty_folder(tmp_path, overwrite):
    begin(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "metrics.csv").write_text("env_steps\n1\n")
    (tmp_path / "checkpoints").symlink_to(tmp_path / "scratch")
    before = everything(tmp_path)
    with pytest.raises(WorkdirError, match="checkpoints is a link to .*scratch, which is not"):
        start(tmp_path, overwrite=overwrite)
    with pytest.raises(WorkdirError, match="is a link to"):
        folder.require_checkpoint(tmp_path)
    assert everything(tmp_path) == before


def test_the_overwritten_run_stays_until_a_checkpoint_of_the_new_one_was_read(tmp_path):
    begin(tmp_path)
    old = everything(tmp_path)
    other = dataclasses.replace(CONFIG, seed=7)
    with open_workdir(tmp_path, other, overwrite=True):
        (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    assert start(tmp_path, other).resumed  # as after a kill right behind the first save
    (tmp_path / "checkpoints" / "0").rename(tmp_path / "checkpoints" / "0.unreadable-1")
    assert start(tmp_path).resumed
    assert everything(tmp_path) == old


def test_a_run_that_waits_is_spoken_of(tmp_path):
    begin(tmp_path)
    with open_workdir(tmp_path, dataclasses.replace(CONFIG, seed=7), overwrite=True):
        with pytest.raises(WorkdirError, match="no checkpoint yet.*without --overwrite restores"):
            folder.require_checkpoint(tmp_path)
        (tmp_path / "config.json").unlink()
        with pytest.raises(WorkdirError, match="holds no run.*without --overwrite restores"):
            read_config(tmp_path)


# Kills itself at each file operation of a start with --overwrite in turn; no JAX, so it can fork.
KILLED_ANYWHERE = """
import dataclasses, os, pathlib, shutil, signal, sys
from m3po_jax.workdir import folder, record
from tests.workdir.begun_runs import CONFIG, begin, fill, start

record.commit = lambda: None  # a process of its own, and slow
root, ends = pathlib.Path(sys.argv[1]), sys.argv[2]
SEVEN = dataclasses.replace(CONFIG, seed=7)
FILE_OPERATIONS = ("os.", "shutil.", "open", "pathlib.")
assert "jax" not in sys.modules


def everything(path):
    names = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in names}


def overwrite(path):
    with folder.open_workdir(path, SEVEN, overwrite=True):
        if ends == "saves":
            (path / "checkpoints" / "0.tmp").mkdir(parents=True)
            (path / "checkpoints" / "0.tmp").rename(path / "checkpoints" / "0")
            folder.forget_overwritten(path)


def killed(path, moment):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0

    def hook(event, _):
        nonlocal count
        if event.startswith(FILE_OPERATIONS):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    overwrite(path)
    os._exit(0)


kept = replaced = moment = 0
while True:
    moment += 1
    path = root / "run"
    shutil.rmtree(path, ignore_errors=True)
    begin(path)
    (path / "checkpoints" / "0").rmdir()
    fill(path)
    old = everything(path)
    if not killed(path, moment):
        break
    if (path / "checkpoints" / "0").exists():
        assert start(path, SEVEN).resumed
        replaced += 1
        continue
    assert start(path).resumed, moment
    assert everything(path) == old, moment
    kept += 1
print(kept, replaced)
"""


@pytest.mark.parametrize("ends", ["saves", "fails"])
def test_a_kill_at_any_file_operation_leaves_one_of_the_two_runs_whole(tmp_path, ends):
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", KILLED_ANYWHERE, str(tmp_path), ends],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    kept, replaced = map(int, result.stdout.split())
    assert kept > 20 and (replaced > 5 if ends == "saves" else replaced == 0)
