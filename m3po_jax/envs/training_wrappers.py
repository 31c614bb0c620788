"""Wrappers that Brax and MuJoCo Playground put around an environment to train in it.

They count steps, start episodes anew and run batches, all of which is done here. Behind them a time
limit looks like a termination, and the first observation of the next episode like the successor.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from m3po_jax.config import ConfigError

# What a wrapper that starts episodes anew keeps in the info: an observation and the physics.
_FIRST_OBSERVATION = "first_obs"
_FIRST_PHYSICS = ("first_pipeline_state", "first_data", "first_state", "first_qp")


class Bare(NamedTuple):
    """An environment without its training wrappers."""

    environment: Any
    episode_length: int | None  # control steps, where a wrapper had a limit


def unwrap(name: str, environment: Any) -> Bare:
    """Takes the libraries' own training wrappers off and says so.

    Args:
        name: Name of the task.
        environment: One of Brax's or MuJoCo Playground's kind.

    Raises:
        ConfigError: A wrapper cannot be taken off without a change of the task.
    """
    removable, others = _wrappers()
    from brax.envs.wrappers import training

    removed, lengths = [], []
    while type(environment) in removable:
        if isinstance(environment, training.EpisodeWrapper):
            _refuse_repeat(name, environment.action_repeat)
            lengths.append(int(environment.episode_length))
        removed.append(type(environment).__name__)
        environment = environment.env
    for outer, inner in _chain(environment):
        if isinstance(inner, (*removable, *others)):
            place = f"below {type(outer).__name__}" if outer is not None else "around it"
            raise ConfigError(
                f"task {name} has {type(inner).__name__} {place}, a training wrapper that cannot "
                "be taken off without changing the task; return the environment without it: steps "
                "are counted and episodes started anew here"
            )
    length = min(lengths, default=None)
    if removed:
        limit = "" if length is None else f"; its limit of {length} control steps is kept"
        warnings.warn(
            f"task {name}: the training wrappers {', '.join(removed)} were taken off{limit}",
            stacklevel=2,
        )
    return Bare(environment, length)


def refuse_auto_reset(name: str, info: Any) -> None:
    """Refuses a task that starts its episodes anew by itself, as its first `info` shows.

    Raises:
        ConfigError: It does.
    """
    keys = [key for key in info if isinstance(key, str)]
    found = [key for key in keys if key.endswith(_FIRST_OBSERVATION)]
    if found and any(key.endswith(_FIRST_PHYSICS) for key in keys):
        raise ConfigError(
            f"task {name} keeps {found[0]!r} in its info, so a wrapper of it starts episodes anew "
            "and hides their last observation; return the environment without that wrapper"
        )


def _wrappers() -> tuple[tuple[type, ...], tuple[type, ...]]:
    """Classes that can be taken off, and those that change the task."""
    from brax.envs.wrappers import training
    from mujoco_playground._src import wrapper

    removable = (
        training.VmapWrapper,
        training.EpisodeWrapper,
        training.AutoResetWrapper,
        training.EvalWrapper,
        wrapper.BraxAutoResetWrapper,
    )
    # They draw another model for each environment of a batch.
    others = (training.DomainRandomizationVmapWrapper, wrapper.BraxDomainRandomizationVmapWrapper)
    return removable, others


def _chain(environment: Any) -> Iterator[tuple[Any, Any]]:
    """Each environment of a chain of wrappers with the one around it, from the outside."""
    outer = None
    while environment is not None:
        yield outer, environment
        outer, environment = environment, getattr(environment, "__dict__", {}).get("env")


def _refuse_repeat(name: str, action_repeat: int) -> None:
    if action_repeat != 1:
        raise ConfigError(
            f"task {name} repeats actions in an EpisodeWrapper; return it with action_repeat=1 and "
            f"write ?action_repeat={action_repeat} behind the task's name"
        )
