"""MuJoCo's warnings, which it would append to MUJOCO_LOG.TXT in whatever folder one works in."""

import contextlib
import sys

import mujoco

_shown: list[str] = []


def keep_out_of_folder() -> None:
    """Prints the first warning to stderr instead; a handler that is set already stays."""
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_show_first)


def _show_first(text: str) -> None:
    # A diverging simulator warns in every step. It calls this from several threads.
    if _shown:
        return
    _shown.append(text)
    with contextlib.suppress(OSError, ValueError):
        print(f"MuJoCo: {text} (its further warnings are not shown)", file=sys.stderr)
