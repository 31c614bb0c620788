"""Files and folders that flags name."""

import os
import pathlib
import re

from absl import flags

from m3po_jax.config import ConfigError, UserError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def named_by(flag: str) -> pathlib.Path:
    """Returns the absolute path that a flag names.

    Raises:
        ConfigError: See `local`.
    """
    return local(flag, str(flags.FLAGS[flag].value))


def file_to_write(flag: str) -> pathlib.Path:
    """Returns the path of a file that a flag names, before the work whose result it is to hold.

    Folders on the way to it need not be there yet.

    Raises:
        ConfigError: It cannot be written, or see `local`.
    """
    path = named_by(flag)
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        fits = there.is_file() if there == path else there.is_dir()
        fits = (fits or there.is_char_device()) and os.access(there, os.W_OK)
    except OSError:  # as a name that is too long
        fits = False
    if not fits:
        raise ConfigError(
            f"--{flag}={path} cannot be written; name a file in a folder that can be written"
        )
    return path


def write_or_print(path: pathlib.Path, text: str) -> None:
    """Writes what took long to find out, or prints it where the disk refuses it.

    Raises:
        UserError: The disk refused it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(text)
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; its contents are printed above"
        ) from error


def local(flag: str, text: str) -> pathlib.Path:
    """Returns a path of this machine, absolute and with the home folder in the place of `~`.

    Args:
        flag: Which flag named it, without dashes.
        text: Its value.

    Raises:
        ConfigError: It is empty, the address of something elsewhere, or in an unknown home folder.
    """
    if not text.strip():
        raise ConfigError(f"--{flag}= is empty; give it a path, such as --{flag}=runs/mine")
    if address := _ADDRESS.match(text):
        raise ConfigError(
            f"--{flag}={text} is an address, and only paths of this machine work (it would make a "
            f"folder named {address[1]}:); mount what is there and give the path of the mount"
        )
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise ConfigError(
            f"--{flag}={text} begins with a home folder that is not known here; write the path in "
            "full (./~ is a folder of that name)"
        )
    return pathlib.Path(expanded).absolute()
