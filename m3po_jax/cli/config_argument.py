"""`--config=PRESET` or `--config=FILE` on a command line, and overrides `--config.KEY=VALUE`."""

import difflib
import math
import os
import pathlib
from collections.abc import Sequence

from m3po_jax import presets
from m3po_jax.config import Config, ConfigError, field_types, setting_error, unknown_key
from m3po_jax.envs import families


def resolve(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Checks what a command line says about the config, before any config is loaded.

    Args:
        argv: Command line, the program first.

    Returns:
        The command line with the file of a preset in place of its name, and `--config.tasks=a,b` as
        two overrides; and the config file, None without one.

    Raises:
        ConfigError: Neither a preset nor a file, or an override that cannot be.
    """
    argv, source = _with_file(list(argv))
    for key, value in _overrides(argv):
        if source is None:
            raise ConfigError(f"--config.{key} needs --config=PRESET or --config=FILE before it")
        check_override(key, value)
    return _one_name_each(argv), source


def check_override(key: str, value: str | None) -> None:
    """Refuses an override whose key is unknown or whose text is not of the setting's type.

    Raises:
        ConfigError: Names key, value and the nearest valid choice.
    """
    kinds = field_types()
    if key not in kinds:
        raise unknown_key(key)
    if value is None or kinds[key] in (str, tuple):
        return
    kind, default = kinds[key], _default(key)
    if kind is bool:
        if value.lower() in ("true", "false", "1", "0", "t", "f"):
            return
        raise setting_error(key, value, f"must be true or false (default: {default})")
    try:
        kind(value)
    except ValueError:
        hint = f"a whole number, as the default {default}" if kind is int else "a number"
        raise setting_error(key, value, f"must be {hint}{_whole(kind, value)}") from None


def _with_file(argv: list[str]) -> tuple[list[str], str | None]:
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name != "config":
            continue
        if equals:
            located = _locate(value)
            argv[index] = f"--config={located}"
        else:
            located = _locate("".join(argv[index + 1 : index + 2]))
            argv[index + 1] = located
        return argv, located.partition(":")[0]
    return argv, None


def _locate(value: str) -> str:
    """Returns the file of a preset, or the file that is named."""
    name, _, arguments = value.partition(":")
    if name in presets.names():
        if arguments:
            raise ConfigError(
                f"--config={value}: the preset {name} takes nothing behind it; "
                f"--config={name} --config.tasks={arguments} gives it other tasks"
            )
        return str(presets.path_of(name))
    if not os.path.isfile(name):
        raise ConfigError(f"--config={value} is neither a preset nor a file; {_hint(name)}")
    return value


def _hint(name: str) -> str:
    path = pathlib.Path(name)
    beside = [str(file) for file in sorted(path.parent.glob("[!_]*.py"))]
    close = difflib.get_close_matches(name, beside, n=1)
    close += difflib.get_close_matches(path.stem.lower(), presets.names(), n=1)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"the presets are {', '.join(presets.names())}"


def _overrides(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """Returns the `--config.KEY[=VALUE]` of the command line; a value can be the next argument."""
    found: list[tuple[str, str | None]] = []
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith(("config.", "noconfig.")):
            continue
        key = name.partition(".")[2]
        if equals:
            found.append((key, value))
        elif field_types().get(key) is bool:
            found.append((key, None))
        else:
            found.append((key, argv[index + 1] if index + 1 < len(argv) else None))
    return found


def _one_name_each(argv: Sequence[str]) -> list[str]:
    """Splits the value of a setting that takes several names, as `--config.tasks=a,b`."""
    several = {f"--config.{key}" for key, kind in field_types().items() if kind is tuple}
    split: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        flag = f"--{flag.lstrip('-')}"
        if argument.startswith("-") and flag in several:
            value = value if equals else next(arguments, "")
            # In quotes a comma is part of the name.
            names = [repr(n) if "," in n else n for n in families.split_names(value)]
            split += [f"{flag}={name}" for name in names]
        else:
            split.append(argument)
    return split


def _default(key: str) -> object:
    node: object = Config()
    for name in key.split("."):
        node = getattr(node, name)
    return node


def _whole(kind: type, value: str) -> str:
    """Returns '; nearest: N' where the text is a number that is not whole or written as a float."""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f"; nearest: {round(number)}" if kind is int and math.isfinite(number) else ""
