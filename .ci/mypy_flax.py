"""mypy plugin: `flax.struct.dataclass` adds a `replace` method, which its type does not tell."""

from collections.abc import Callable

from mypy.nodes import ARG_STAR2, Argument, Var
from mypy.plugin import ClassDefContext, Plugin
from mypy.plugins.common import add_method_to_class
from mypy.types import AnyType, TypeOfAny
from mypy.typevars import fill_typevars


def _add_replace(context: ClassDefContext) -> None:
    changes = Var("changes", AnyType(TypeOfAny.explicit))
    add_method_to_class(
        context.api,
        context.cls,
        "replace",
        args=[Argument(changes, changes.type, None, ARG_STAR2)],
        return_type=fill_typevars(context.cls.info),
    )


class FlaxStruct(Plugin):
    """Adds `replace` to the classes that `flax.struct.dataclass` decorates."""

    def get_class_decorator_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        """Returns the hook for flax's decorator alone."""
        return _add_replace if fullname == "flax.struct.dataclass" else None


def plugin(_: str) -> type[Plugin]:
    """Entry point of mypy."""
    return FlaxStruct
