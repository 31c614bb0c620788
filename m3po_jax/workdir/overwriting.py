"""A run that is to be overwritten stays until the new one has a checkpoint.

It waits in a folder of its own inside the workdir. Files are moved by renaming; a kill at any
moment leaves them in one of the two places, and the next opening puts them right.
"""

import pathlib
import shutil
from collections.abc import Sequence

_ASIDE = ".overwritten"
_MOVING = ".overwritten.moving"


def set_aside(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
    """Moves files and folders of the workdir out of the way.

    Args:
        folder: The workdir, in which nothing is set aside.
        files: Paths inside it.
    """
    for path in files:
        _move(path, folder / _MOVING / path.relative_to(folder))
    if files:
        (folder / _MOVING).rename(folder / _ASIDE)


def is_set_aside(folder: pathlib.Path) -> bool:
    """Whether a run waits in the workdir."""
    return (folder / _ASIDE).exists()


def finish_moving(folder: pathlib.Path) -> None:
    """Puts back what a kill has left half moved."""
    if not (folder / _MOVING).exists():
        return
    for path in sorted((folder / _MOVING).rglob("*")):
        place = folder / path.relative_to(folder / _MOVING)
        # A folder that is there already has lost some of its files.
        if path.exists() and not place.exists():
            _move(path, place)
    shutil.rmtree(folder / _MOVING)


def put_back(folder: pathlib.Path) -> None:
    """Moves everything to where it was; those places are free."""
    (folder / _ASIDE).rename(folder / _MOVING)
    finish_moving(folder)


def forget(folder: pathlib.Path) -> None:
    """Deletes what was set aside, if anything."""
    shutil.rmtree(folder / _ASIDE, ignore_errors=True)


def _move(path: pathlib.Path, place: pathlib.Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)
