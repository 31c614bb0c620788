"""Tasks that users bring: a class or function that makes one, by its dotted path or entry point."""

import difflib
import importlib
from typing import Any

import jax

from m3po_jax.config import ConfigError
from m3po_jax.envs import base, contract, training_wrappers
from m3po_jax.envs.entry_points import EntryPointTask

EPISODE_LENGTH = 1000
_MEMBERS = (
    *("observation_size", "action_size", "episode_length", "can_terminate"),
    *("reset", "step"),
)


def make(target: str, *, observation_key: str | None = None) -> base.Environment:
    """Makes the environment `package.module:Name`, `Name` called without arguments.

    What it returns is an `Environment`, or an environment of Brax's or MuJoCo Playground's kind,
    whose training wrappers are taken off. Of those two `done` is taken as a termination unless the
    info says `truncation`, and the episode has the length of the wrapper that was taken off or of
    the config of Playground's kind, or 1000 control steps; the task's option `episode_length` says
    otherwise. `contract.checked` holds the task to what it declares.

    Args:
        target: The dotted path.
        observation_key: Which entry to take where a library's observation is a dictionary.

    Raises:
        ConfigError: If the name is not there, cannot be called or returns something else, or the
            task is not what it declares.
    """
    module_name, _, attribute = target.partition(":")
    module = importlib.import_module(module_name)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [name for name, value in vars(module).items() if callable(value)]
        close = difflib.get_close_matches(attribute, public)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            f"task {target}: {module.__file__} has no class or function of that name{hint}"
        )
    try:
        made = factory()
    except TypeError as error:
        raise ConfigError(
            f"task {target} is called without arguments and raised: {error}; give a function that "
            "needs none"
        ) from error
    return _adapted(target, made, observation_key)


def make_installed(task: EntryPointTask, *, observation_key: str | None = None) -> base.Environment:
    """Makes the environment of an installed package, as `make` does.

    Args:
        task: What the package says of it.
        observation_key: See `make`.

    Raises:
        ConfigError: If the package's module or class does not do; names the package.
    """
    try:
        return make(task.target, observation_key=observation_key)
    except Exception as error:  # another's module can raise anything
        known = isinstance(error, ConfigError)
        reason = str(error) if known else f"it raised {type(error).__name__}: {error}"
        raise ConfigError(f"{task.origin}: {reason}") from error


def _adapted(target: str, made: Any, observation_key: str | None) -> base.Environment:
    import mujoco_playground
    from brax import envs as brax_envs

    if isinstance(made, mujoco_playground.MjxEnv | brax_envs.Env):
        return contract.checked(target, _of_library(target, made, observation_key))
    if isinstance(made, base.Environment):
        if observation_key is not None:
            raise ConfigError(f"task {target} has one observation; leave out observation=")
        return contract.checked(target, made)
    missing = [name for name in _MEMBERS if not hasattr(made, name)]
    raise ConfigError(
        f"task {target} made a {type(made).__name__}, which is not an environment: it lacks "
        f"{', '.join(missing)}; see Environment in m3po_jax/envs/base.py"
    )


def _of_library(target: str, made: Any, observation_key: str | None) -> base.Environment:
    """The environment of Brax's or Playground's kind in its adapter."""
    import mujoco_playground

    made, length = training_wrappers.unwrap(target, made)
    key = jax.random.key_data(jax.random.key(0))
    first = contract.traced(target, "reset", made.reset, key)
    training_wrappers.refuse_auto_reset(target, first.info)
    adapter: Any
    if isinstance(made, mujoco_playground.MjxEnv):
        from m3po_jax.envs import playground_adapter

        adapter = playground_adapter.PlaygroundEnvironment
        length = length or getattr(getattr(made, "_config", None), "episode_length", None)
    else:
        from m3po_jax.envs import brax_adapter

        adapter = brax_adapter.BraxEnvironment
    environment: base.Environment = adapter(
        made,
        name=target,
        episode_length=int(length or EPISODE_LENGTH),
        can_terminate=True,
        observation_key=observation_key,
    )
    return environment
