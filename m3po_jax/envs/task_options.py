"""Options behind a task's name: which a task has, and what their values may be."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from m3po_jax.envs import bodies, families

BRAX_BACKENDS = ("spring", "generalized", "positional", "mjx")
PLAYGROUND_IMPLS = ("jax", "warp")
DMC_IMPLS = (*PLAYGROUND_IMPLS, "c")
# Suite of tasks named by a dotted path.
PYTHON = "python"
# Suite of all that Gymnasium knows.
GYM = "gym"
# Suite of tasks that installed packages name.
INSTALLED = "installed"
# Brax's test environment has no physics and its swimmer has drag, which one backend models.
_BRAX_BACKENDS_OF = {"fast": (), "swimmer": ("generalized",)}


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _discount(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise ValueError
    return value


_COMMON_OPTIONS: dict[str, tuple[Callable[[str], int | float], str]] = {
    "num_envs": (_positive_int, "a positive whole number"),
    "action_repeat": (_positive_int, "a positive whole number"),
    "episode_length": (_positive_int, "a positive whole number (control steps)"),
    "discount": (_discount, "a number between 0 and 1, both excluded"),
    "distractors": (_positive_int, "a positive whole number (observation dims)"),
    "replay_weight": (_positive_int, "a positive whole number"),
}
# Of tasks whose observation can be a dictionary.
OBSERVATION = "observation"


def parse(name: str, suite: str, env_name: str, key: str, text: str) -> Any:
    """The value of one option.

    Args:
        name: Name of the task without options, for messages.
        suite: Its suite.
        env_name: Its name in the suite.
        key: Name of the option.
        text: Its value.

    Raises:
        ValueError: The task has no such option, or it cannot have this value.
    """
    choices = choices_of(suite, env_name)
    if key in families.OPTIONS:
        return families.parse_option(name, bodies.parameters(suite, env_name), key, text)
    if key == OBSERVATION and suite in (PYTHON, INSTALLED, "playground"):
        return text
    if key in choices:
        if text not in choices[key]:
            raise ValueError(f"{name}: {key}={text!r} is not known; {nearest(text, choices[key])}")
        return text
    if key not in _COMMON_OPTIONS:
        of_family = families.OPTIONS if bodies.parameters(suite, env_name) else ()
        known = (*_COMMON_OPTIONS, *choices, *of_family)
        raise ValueError(f"{name} has no option {key!r}; {nearest(key, known)}")
    read, meaning = _COMMON_OPTIONS[key]
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"{name}: {key}={text!r} must be {meaning}") from None


def choices_of(suite: str, env_name: str) -> dict[str, tuple[str, ...]]:
    """Returns the choices of the options that only this task has; the first one is the default."""
    if suite in ("dmc", "playground"):
        return {"impl": DMC_IMPLS if suite == "dmc" else PLAYGROUND_IMPLS}
    backends = _BRAX_BACKENDS_OF.get(env_name, BRAX_BACKENDS) if suite == "brax" else ()
    return {"backend": backends} if backends else {}


def physics_of(suite: str, env_name: str) -> tuple[str, ...]:
    """Returns the choices of a task's physics, the default first; empty where there is one only."""
    return next(iter(choices_of(suite, env_name).values()), ())


def nearest(text: str, choices: Iterable[str]) -> str:
    """Returns the end of an error message that names the nearest choices."""
    known = tuple(choices)
    folded = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(text.lower(), folded, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(folded[match] for match in close)}?"
    shown = known if len(known) <= 8 else (*known[:3], "...", *known[-3:])
    return f"known are {', '.join(shown)}"
