"""A run that is to be overwritten stays until the new one has a checkpoint that was read.

Its files wait in a folder beside where they were, in each folder of the run: a folder of the run
may lie on another disk. They are moved by renaming; a kill at any moment leaves each in one of the
two places, and the next opening puts them right.

Functions take the folders of the run that can hold files, the workdir last.
"""

import pathlib
import shutil
from collections.abc import Sequence

_ASIDE = ".overwritten"
# In the workdir while files are moved: what is aside goes back.
_MOVING = ".overwritten.moving"


def set_aside(workdir: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
    """Moves files and folders out of the way, at least one of them in the workdir itself."""
    (workdir / _MOVING).touch()
    for path in files:
        (path.parent / _ASIDE).mkdir(exist_ok=True)
        path.rename(path.parent / _ASIDE / path.name)
    (workdir / _MOVING).unlink()


def is_set_aside(workdir: pathlib.Path) -> bool:
    """Whether a run waits in the workdir."""
    return (workdir / _ASIDE).exists()


def finish_moving(folders: Sequence[pathlib.Path]) -> None:
    """Puts back what a kill has left half moved."""
    if not (folders[-1] / _MOVING).exists():
        return
    for aside in [folder / _ASIDE for folder in folders if (folder / _ASIDE).exists()]:
        for path in aside.iterdir():
            path.rename(aside.parent / path.name)
        aside.rmdir()
    (folders[-1] / _MOVING).unlink()


def put_back(folders: Sequence[pathlib.Path]) -> None:
    """Moves everything to where it was; those places are free."""
    (folders[-1] / _MOVING).touch()
    finish_moving(folders)


def forget(folders: Sequence[pathlib.Path]) -> None:
    """Deletes what was set aside, if anything."""
    for folder in folders:
        shutil.rmtree(folder / _ASIDE, ignore_errors=True)
