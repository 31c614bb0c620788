"""Tasks that installed packages bring: entry points of the group `m3po_jax.tasks`.

A package names a task of its own, `Hover = hover.tasks:Hover`, and `Hover` is a task name wherever
the package is installed. One that is broken says so under its name and leaves all others alone.
"""

import importlib.metadata
import importlib.util
import re
from typing import NamedTuple

from m3po_jax.envs.catalog import CATALOG

GROUP = "m3po_jax.tasks"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class EntryPointTask(NamedTuple):
    """A task of an installed package.

    Attributes:
        name: Its name.
        target: Where it is, as `package.module:Name`.
        package: Name and version of the distribution.
        problem: Why it cannot be made here and what to do; None where nothing is known against it.
    """

    name: str
    target: str
    package: str
    problem: str | None

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""
        return f"entry point {self.name} = {self.target} of the package {self.package}"


def entry_point_tasks() -> dict[str, EntryPointTask]:
    """Returns the tasks of all installed packages by their names; imports no task's module."""
    found: dict[str, EntryPointTask] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        dist = entry.dist
        package = f"{dist.name} {dist.version}" if dist is not None else "of unknown name"
        task = EntryPointTask(entry.name, entry.value, package, None)
        problem = _problem(task)
        if entry.name in found:
            problem = f"the package {found[entry.name].package} has a task of this name too"
            package = f"{found[entry.name].package} and {package}"
        found[entry.name] = task._replace(package=package, problem=problem)
    return found


def _problem(task: EntryPointTask) -> str | None:
    if not _NAME.fullmatch(task.name):
        return "its name may have letters, digits, '.', '_', '-' and '/' only"
    if task.name.partition("/")[0] in CATALOG:
        return "its name is in a suite of m3po_jax; the package must choose another"
    if not _TARGET.fullmatch(task.target):
        return "it is not of the form package.module:Name"
    module = task.target.partition(":")[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:
        # Of a parent package, or of something that its __init__ imports.
        return f"there is no module {error.name!r}"
    except Exception as error:  # a parent package can raise anything when it is imported
        return f"importing the package of {module} raised {type(error).__name__}: {error}"
    return None if found else f"there is no module {module!r}"
