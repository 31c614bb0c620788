"""Configs by name, for `--config=NAME`; `m3po-train --list` shows them.

Each module here but `suites` is a preset: its `get_config()` says what differs from the defaults,
and the first line of its docstring is its description.
"""

import ast
import pathlib

_FOLDER = pathlib.Path(__file__).parent
_NOT_PRESETS = ("__init__", "suites")


def names() -> tuple[str, ...]:
    """Returns the names of all presets."""
    files = _FOLDER.glob("*.py")
    return tuple(sorted(file.stem for file in files if file.stem not in _NOT_PRESETS))


def path_of(name: str) -> pathlib.Path:
    """Returns the config file of a preset."""
    return _FOLDER / f"{name}.py"


def descriptions() -> dict[str, str]:
    """Returns one line for each preset, by its name."""
    texts = {name: path_of(name).read_text(encoding="utf-8") for name in names()}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in texts.items()
    }
