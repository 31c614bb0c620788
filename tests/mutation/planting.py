"""Mutants, where they are in the package, and the source with one of them planted."""

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator


class MutantError(Exception):
    """A mutant that cannot be planted: its place is gone, or it is in several."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One planted error.

    It is found by its function and the syntax tree of `old`, so it survives when code moves
    between lines and files.

    Attributes:
        function: Name of the function or class around it, as `gae` or `MultiTaskEnv.step`; that of
            an inner function is enough where it is unique.
        old: Source of an expression or statement inside.
        new: What stands there instead.
        tests: Folders, files or single tests (`file.py::test`) that concern it, relative to
            `tests/`.
        equivalent: Why no test can tell the two apart; such a mutant is listed and not run.
    """

    function: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def __str__(self) -> str:
        return f"{self.function}: {_one_line(self.old)} -> {_one_line(self.new)}"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a mutant is: a file, and the characters that it replaces."""

    path: pathlib.Path
    start: int
    end: int

    def planted(self, new: str) -> str:
        """The file's text with the error in it."""
        text = self.path.read_text(encoding="utf-8")
        return text[: self.start] + new + text[self.end :]


def find(mutant: Mutant, package: pathlib.Path) -> Place:
    """The one place of a mutant.

    Raises:
        MutantError: No function of that name holds the old source, or several places do.
    """
    places = [place for path in sorted(package.rglob("*.py")) for place in _places(mutant, path)]
    if len(places) != 1:
        files = ", ".join(str(place.path.relative_to(package)) for place in places)
        found = f"in {len(places)} places ({files})" if places else "nowhere"
        raise MutantError(f"{mutant}: the old source is {found}; mend the list of mutants")
    new = places[0].planted(_parenthesised(mutant))
    try:
        changed = ast.dump(ast.parse(new)) != ast.dump(_parsed(places[0].path.read_text()))
    except SyntaxError as error:
        raise MutantError(f"{mutant}: planted, the file is no Python ({error})") from error
    if not changed:
        raise MutantError(f"{mutant}: changes nothing")
    return places[0]


def plant(mutant: Mutant, package: pathlib.Path) -> tuple[pathlib.Path, str]:
    """The file of a mutant, and its text with the error in it."""
    place = find(mutant, package)
    return place.path, place.planted(_parenthesised(mutant))


def _places(mutant: Mutant, path: pathlib.Path) -> Iterator[Place]:
    text = path.read_text(encoding="utf-8")
    last = mutant.function.rpartition(".")[2]
    if last not in text:
        return
    tree = _parsed(text)
    wanted = _tree(mutant.old)
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line.encode()))
    data = text.encode()

    def characters(line: int, column: int) -> int:
        return len(data[: lines[line - 1] + column].decode())

    seen = set()
    for scope in _scopes(tree, "", mutant.function):
        for node in ast.walk(scope):
            if isinstance(node, ast.expr | ast.stmt) and ast.dump(node) == wanted:
                assert node.end_lineno is not None and node.end_col_offset is not None
                start = characters(node.lineno, node.col_offset)
                end = characters(node.end_lineno, node.end_col_offset)
                if (start, end) not in seen:
                    seen.add((start, end))
                    yield Place(path, start, end)


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _scopes(node: ast.AST, prefix: str, wanted: str) -> Iterator[ast.AST]:
    """Functions and classes whose dotted name ends in the one that is wanted."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            name = f"{prefix}.{child.name}"
            if name.endswith(f".{wanted}"):
                yield child
                continue
        yield from _scopes(child, name, wanted)


def _tree(source: str) -> str:
    """A dump of one expression or statement that knows neither place nor layout."""
    (statement,) = ast.parse(source).body
    return ast.dump(statement.value if isinstance(statement, ast.Expr) else statement)


def _parenthesised(mutant: Mutant) -> str:
    """The new source; an expression in parentheses, so that it binds as the old one did."""
    (statement,) = ast.parse(mutant.new).body
    return f"({mutant.new})" if isinstance(statement, ast.Expr) else mutant.new


def _one_line(source: str) -> str:
    return " ".join(source.split())
