"""From nested mappings to settings: names and types; `config_validation.validate` knows values."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import ml_collections

from m3po_jax.config.errors import ConfigError, setting_error
from m3po_jax.config.settings import Config


def field_types() -> dict[str, type]:
    """Returns the type of every setting by its dotted name; tuples of strings are `tuple`."""
    return {key: type(value) for key, value in flatten(dataclasses.asdict(Config())).items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested mappings by their dotted names, in order."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unknown_key(key: str) -> ConfigError:
    """Returns the error for a dotted name that is not a setting, with the nearest ones."""
    known = tuple(field_types())
    members = [name for name in known if name.startswith(f"{key}.")]
    if members:
        return ConfigError(f"config.{key} is a group of settings; name one, such as {members[0]}")
    leaf = key.rpartition(".")[2]

    def likeness(name: str) -> float:
        name_leaf = name.rpartition(".")[2]
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        return whole + difflib.SequenceMatcher(None, leaf, name_leaf).ratio()

    close = [name for name in sorted(known, key=likeness, reverse=True) if likeness(name) > 1.0]
    hint = f"did you mean {' or '.join(close[:2])}?" if close else "docs/configuration.md lists all"
    return ConfigError(f"config.{key} does not exist; {hint}")


def default_config() -> ml_collections.ConfigDict:
    """Returns all settings at their defaults, locked: a key that does not exist is refused."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config())).lock()


def from_config_dict(given: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Converts nested settings to frozen dataclasses; checks names and types, not values.

    Args:
        given: All settings, as `default_config` returns them, or the nested dict of a config.json.

    Returns:
        The settings, hashable.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
    """
    tree = given.to_dict() if isinstance(given, ml_collections.ConfigDict) else given
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a config must be a ConfigDict, found {type(given).__name__} {given!r}")
    config: Config = _build(Config, tree, "")
    return config


def _build(kind: Any, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise setting_error(prefix[:-1], tree, "must be a group of settings")
    names = [field.name for field in dataclasses.fields(kind)]
    for key in tree:
        if key not in names:
            raise unknown_key(f"{prefix}{key}")
    values = {}
    for field in dataclasses.fields(kind):
        key = f"{prefix}{field.name}"
        if field.name not in tree:
            raise ConfigError(
                f"config.{key} is missing; start from m3po_jax.config.default_config()"
            )
        value = tree[field.name]
        if dataclasses.is_dataclass(field.type):
            values[field.name] = _build(field.type, value, f"{key}.")
        else:
            values[field.name] = _cast(value, field.default, key)
    return kind(**values)


def _cast(value: Any, default: Any, key: str) -> Any:
    """Returns `value` in the type of `default`; whole numbers pass as floats, lists as tuples."""
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise setting_error(key, value, "must be a tuple of names, such as ('toy/A', 'toy/B')")
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    raise setting_error(
        key,
        value,
        f"is of type {type(value).__name__} and must be {kind.__name__}, "
        f"as the default {default!r}",
    )
