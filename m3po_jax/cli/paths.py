"""Files and folders that flags name."""

import os
import pathlib
import re

from absl import flags

from m3po_jax.config import ConfigError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def named_by(flag: str) -> pathlib.Path:
    """Returns the absolute path that a flag names.

    Raises:
        ConfigError: See `local`.
    """
    return local(flag, flags.FLAGS[flag].value)


def local(flag: str, text: str) -> pathlib.Path:
    """Returns a path of this machine, absolute and with the home folder in the place of `~`.

    Args:
        flag: Which flag named it, without dashes.
        text: Its value.

    Raises:
        ConfigError: It is empty, the address of something elsewhere, or in an unknown home folder.
    """
    if not text.strip():
        raise ConfigError(f"--{flag}= is empty; give it a path, as --{flag}=runs/mine")
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
