"""What the adapters of simulators share: a library's states as ours."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.config import ConfigError
from m3po_jax.envs import base


class LibraryStates:
    """Turns the states of an environment of Brax's kind into ours, and back.

    A state of ours holds that of the library as it is, so that a step sees all that the step before
    returned: the metrics and the reward as well. All have the dtypes of the first state.

    Attributes:
        observation_size: Size of what the agent sees.
    """

    def __init__(
        self, name: str, template: Any, *, can_terminate: bool, observation_key: str | None
    ):
        """Chooses the observation.

        Args:
            name: Name of the environment, for messages.
            template: Shapes of the library's first state.
            can_terminate: Whether `done` is a termination; otherwise it says that the physics
                broke.
            observation_key: Which entry to take where the observation is a dictionary.

        Raises:
            ConfigError: If the observation, or the entry of it, is not one flat array.
        """
        self._can_terminate = can_terminate
        self._template = template
        self._observation = ObservationPart(name, template.obs, observation_key)
        self.observation_size = self._observation.size

    def ours(self, library_state: Any) -> base.EnvState:
        """The library's state as ours.

        An end with `truncation` in the info is one by time, as Brax's wrappers have it.
        """
        reward = jnp.asarray(library_state.reward, jnp.float32)
        done = jnp.asarray(library_state.done, jnp.float32)
        truncation = library_state.info.get("truncation")
        if truncation is not None:
            truncation = jnp.asarray(truncation, jnp.float32)
            done = jnp.where(truncation > 0.0, 0.0 * done, done)  # a NaN stays one
        if not self._can_terminate:
            reward = jnp.where(done == 0.0, reward, jnp.nan)
            done = jnp.zeros_like(done)
        state = base.EnvState(
            physics=like(library_state, self._template),
            observation=self._observation.of(library_state.obs),
            reward=reward,
            termination=done,
            truncation=truncation,
        )
        return with_success(state, library_state.metrics)

    def library(self, state: base.EnvState) -> Any:
        """The library's state again, in containers of its own: tasks overwrite them in place."""
        return jax.tree.map(lambda x: x, state.physics)


class ObservationPart:
    """What the agent sees of a library's observation: all of it, or one entry of a dictionary."""

    def __init__(self, name: str, template: Any, key: str | None):
        """Checks what there is.

        Args:
            name: Name of the environment, for messages.
            template: The observation's `jax.ShapeDtypeStruct`, or a dictionary of them.
            key: The entry of the dictionary.

        Raises:
            ConfigError: If there is no such entry, or it is not one flat array.
        """
        self._key = key
        part = template
        if isinstance(template, Mapping):
            if key not in template:
                given = "no observation is chosen" if key is None else f"no observation {key!r}"
                known = ", ".join(template)
                raise ConfigError(
                    f"{name}: {given}, and there are several: {known}; choose one with "
                    f"?observation={next(iter(template))} behind the task's name"
                )
            part = template[key]
        elif key is not None:
            raise ConfigError(
                f"{name}: the observation is no dictionary; leave out observation={key}"
            )
        if not hasattr(part, "shape") or len(part.shape) != 1:
            shape = getattr(part, "shape", type(part).__name__)
            raise ConfigError(f"task {name}: the observation is not one flat array but {shape}")
        self.size = int(part.shape[0])

    def of(self, observation: Any) -> jax.Array:
        """What the agent sees `[size]` float32."""
        part = observation if self._key is None else observation[self._key]
        return jnp.asarray(part, jnp.float32)


def with_success(state: base.EnvState, metrics: Mapping[str, Any]) -> base.EnvState:
    """A `GoalState` where a library's metrics say `success`, or `reward/success`.

    These are the names in MuJoCo Playground's manipulation tasks.
    """
    name = next((name for name in ("success", "reward/success") if name in metrics), None)
    if name is None:
        return state
    success = (jnp.asarray(metrics[name]) > 0).astype(jnp.float32)
    return base.GoalState(**vars(state), success=success)


def like(tree: Any, template: Any) -> Any:
    """Casts every leaf to the dtype of `template`, without weak types.

    Libraries mix Python floats and arrays between `reset` and `step`; a scan carry must not change.

    Args:
        tree: Pytree of arrays or Python scalars.
        template: Pytree of the same structure, leaves with `dtype` and `shape`.

    Returns:
        `tree` with the dtypes of `template`.

    Raises:
        ValueError: If the structure or a shape differs, or a cast would lose numbers.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    expected, expected_structure = jax.tree_util.tree_flatten_with_path(template)
    structures: list[Any] = [structure, expected_structure]
    if structures[0] != structures[1]:
        raise ValueError(_structures_differ(leaves, expected))
    cast = [_cast(path, x, t) for (path, x), (_, t) in zip(leaves, expected, strict=True)]
    return jax.tree.unflatten(structure, cast)


def _structures_differ(leaves: list[Any], expected: list[Any]) -> str:
    new, old = ({jax.tree_util.keystr(path) for path, _ in side} for side in (leaves, expected))
    parts = [
        f"{word} {', '.join(sorted(paths)[:3])}"
        for word, paths in (("it lacks", old - new), ("it adds", new - old))
        if paths
    ]
    return f"the structure of the state changed: {' and '.join(parts) or 'other containers'}"


def _cast(path: Any, x: Any, t: Any) -> jax.Array:
    name = jax.tree_util.keystr(path)
    if jnp.shape(x) != t.shape:
        raise ValueError(
            f"shape of {name} changed from {list(t.shape)} to {list(jnp.shape(x))}; it must stay "
            "the same"
        )
    x = jnp.asarray(x)
    if x.dtype == t.dtype and not getattr(x, "weak_type", False):  # typed keys have none
        return x
    if not _holds(t.dtype, x):
        raise ValueError(
            f"dtype of {name} changed from {t.dtype} to {x.dtype}, and a cast back would lose "
            "numbers; give it one dtype from the reset on"
        )
    return jax.lax.convert_element_type(x, t.dtype)


def _holds(dtype: Any, x: jax.Array) -> bool:
    """Whether numbers like `x`, which may be Python's own, have a place in the dtype."""
    if x.weak_type:
        return bool(jnp.result_type(x, dtype) == dtype)
    if jnp.issubdtype(x.dtype, jnp.integer) and jnp.issubdtype(dtype, jnp.integer):
        return bool(np.can_cast(x.dtype, dtype))
    return bool(jnp.promote_types(x.dtype, dtype) == dtype)
