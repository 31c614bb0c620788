"""What is raised where the user is mistaken, and hints at what may have been meant."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake that the user can fix: commands print its text without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting that is unknown, of the wrong type, out of range or impossible."""


def setting_error(key: str, value: Any, text: str) -> ConfigError:
    """What to raise for a setting: names it and its value, followed by `text`."""
    return ConfigError(f"config.{key} = {value!r} {text}")


def nearest(value: str, choices: Iterable[str]) -> str:
    """Returns 'did you mean ...?' or, where nothing is near, 'choose one of ...'."""
    choices = tuple(choices)
    folded = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(value.lower(), folded, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(folded[name] for name in close)}?"
    return f"choose one of {', '.join(choices)}"
