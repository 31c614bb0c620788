"""The values that a setting may have, as its type says: `Annotated[float, above(0)]`, `Literal`."""

import dataclasses
import math
import typing
from typing import Any

from m3po_jax.config.errors import nearest, setting_error


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of finite numbers.

    Attributes:
        low: Lower end.
        high: Upper end; infinite for none.
        ends: As in mathematics: `[` and `]` include an end, `(` and `)` do not.
    """

    low: float
    high: float = math.inf
    ends: str = "[]"

    def __contains__(self, value: float) -> bool:
        above = value > self.low or (value == self.low and self.ends[0] == "[")
        below = value < self.high or (value == self.high and self.ends[1] == "]")
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        """The interval in words."""
        if self.high == math.inf:
            return f"{'at least' if self.ends[0] == '[' else 'above'} {self.low}"
        return {
            "[]": f"from {self.low} to {self.high}",
            "[)": f"from {self.low} to below {self.high}",
            "(]": f"above {self.low} and at most {self.high}",
            "()": f"above {self.low} and below {self.high}",
        }[self.ends]


def at_least(low: float) -> Range:
    """All numbers from `low` on."""
    return Range(low)


def above(low: float) -> Range:
    """All numbers greater than `low`."""
    return Range(low, ends="()")


def rule_of(field: dataclasses.Field) -> Range | tuple[str, ...] | None:
    """Returns what a setting may be: a range, or the choices for a name or for each of several.

    None where its type says nothing: for flags, and for names that the registry knows.
    """
    kind: Any = field.type
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return next((item for item in getattr(kind, "__metadata__", ()) if type(item) is Range), None)


def check(group: Any, name: str = "") -> None:
    """Checks every value of a group of settings, and of the groups in it, against its type.

    Args:
        group: A dataclass of settings, names and types already right.
        name: Its name in the config, as `policy`; empty for the whole config.

    Raises:
        ConfigError: Names the first setting that is wrong, its value and a remedy.
    """
    for field in dataclasses.fields(group):
        value, key = getattr(group, field.name), f"{name}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            check(value, key)
            continue
        rule = rule_of(field)
        if isinstance(rule, Range):
            # A sweep can put a traced array in place of a number; its value comes later.
            if isinstance(value, int | float) and value not in rule:
                raise setting_error(key, value, f"must be {rule}")
        elif rule is not None:
            for item in value if isinstance(value, tuple) else (value,):
                if item not in rule:
                    what = "is not a choice" if item is value else f"has the unknown name {item!r}"
                    raise setting_error(key, value, f"{what}; {nearest(item, rule)}")
