"""Action repeat, padding, and what the adapters share."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.envs import base


class ActionRepeat:
    """Holds each action for several control steps of the simulator.

    Rewards are summed. After a termination or a fault (a non-finite observation or reward) inside
    the repeat, the observation and the termination stay as they were there and no reward is added;
    the physics runs on, which is cheaper than a select over all of it, and nobody reads it:
    an episode that ended is reset. Success in any step of the repeat counts. `episode_length` still
    counts control steps.

    Attributes:
        environment: What is repeated.
        num_repeats: Control steps per action.
    """

    def __init__(self, environment: base.Environment, num_repeats: int):
        """Wraps an environment.

        Args:
            environment: Environment to wrap.
            num_repeats: Control steps per action, at least 1.

        Raises:
            ValueError: If `num_repeats` is below 1.
        """
        if num_repeats < 1:
            raise ValueError(f"num_repeats must be at least 1, got {num_repeats}")
        self.environment = environment
        self.num_repeats = num_repeats

    @property
    def observation_size(self) -> int:
        """Size of the flat observation."""
        return self.environment.observation_size

    @property
    def action_size(self) -> int:
        """Size of the action."""
        return self.environment.action_size

    @property
    def episode_length(self) -> int:
        """Control steps of the simulator until truncation."""
        return self.environment.episode_length

    @property
    def can_terminate(self) -> bool:
        """Whether an episode can end by termination."""
        return self.environment.can_terminate

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return self.environment.reset(key)

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by `num_repeats` control steps; see `Environment.step`."""

        def advance(last: list[base.EnvState]) -> list[base.EnvState]:
            new = self.environment.step(last[0], action)
            if type(new) is not type(last[0]):
                raise ValueError(
                    f"{type(self.environment).__name__} must return the same kind of state from "
                    f"reset and step, not {type(last[0]).__name__} and {type(new).__name__}"
                )
            return [new]

        return repeat(advance, [state], self.num_repeats)[0]


def repeat(
    advance: Callable[[list[base.EnvState]], list[base.EnvState]],
    states: list[base.EnvState],
    num_repeats: int,
) -> list[base.EnvState]:
    """Advances environments as `ActionRepeat` does.

    Args:
        advance: Takes one control step of all of them.
        states: For each task those of one environment or, with leaves `[N_k, ...]`, of several.
        num_repeats: Control steps.

    Returns:
        The last states.
    """

    def keep(
        last: base.EnvState, live: jax.Array, new: base.EnvState
    ) -> tuple[base.EnvState, jax.Array]:
        kept = new.replace(
            observation=jnp.where(live[..., None], new.observation, last.observation),
            reward=last.reward + jnp.where(live, new.reward, 0.0),
            termination=jnp.where(live, new.termination, last.termination),
        )
        if isinstance(last, base.GoalState) and isinstance(new, base.GoalState):
            success = jnp.where(live, jnp.maximum(last.success, new.success), last.success)
            kept = kept.replace(success=success)
        return kept, live & (kept.termination == 0.0) & is_finite(kept)

    def body(carry: tuple[list, list], _: None) -> tuple[tuple[list, list], None]:
        states, alive = carry
        kept = list(map(keep, states, alive, advance(states)))
        return ([state for state, _ in kept], [live for _, live in kept]), None

    def begin(state: base.EnvState) -> base.EnvState:
        state = state.replace(reward=jnp.zeros_like(state.reward))
        if isinstance(state, base.GoalState):
            state = state.replace(success=jnp.zeros_like(state.success))
        return state

    start = list(map(begin, states))
    alive = [jnp.ones(state.reward.shape, bool) for state in states]
    (last, _), _ = jax.lax.scan(body, (start, alive), None, length=num_repeats)
    return last


class Distractors:
    """Appends observation dims that have nothing to do with the task but look predictable.

    Each is an oscillator `sin(phase)` whose phase and angular speed (0.05 to 0.5 rad per control
    step) are drawn at the reset: smooth, of the size of real observations, and independent of
    actions and rewards. A model that predicts observations spends itself on them.
    """

    def __init__(self, environment: base.Environment, num_distractors: int):
        """Wraps an environment.

        Args:
            environment: Environment to wrap.
            num_distractors: Dims to append, at least 1.

        Raises:
            ValueError: If `num_distractors` is below 1.
        """
        if num_distractors < 1:
            raise ValueError(f"num_distractors must be at least 1, got {num_distractors}")
        self._environment = environment
        self._num_distractors = num_distractors
        self.observation_size = environment.observation_size + num_distractors
        self.action_size = environment.action_size
        self.episode_length = environment.episode_length
        self.can_terminate = environment.can_terminate
        # What it appends is not part of the physics.
        self.body = getattr(environment, "body", None)

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        key, phase_key, speed_key = jax.random.split(key, 3)
        size = (self._num_distractors,)
        phase = jax.random.uniform(phase_key, size, maxval=2.0 * jnp.pi)
        speed = jax.random.uniform(speed_key, size, minval=0.05, maxval=0.5)
        return self._join(self._environment.reset(key), phase, speed)

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        inner, phase, speed = state.physics
        # Wrapped, so that it keeps its digits over a long episode.
        phase = jnp.mod(phase + speed, 2.0 * jnp.pi)
        return self._join(self._environment.step(inner, action), phase, speed)

    def _join(self, inner: base.EnvState, phase: jax.Array, speed: jax.Array) -> base.EnvState:
        state: base.EnvState = inner.replace(
            physics=(inner, phase, speed),
            observation=jnp.concatenate([inner.observation, jnp.sin(phase)]),
        )
        return state


class ObservationPart:
    """What the agent sees of a library's observation: all of it, or one entry of a dictionary."""

    def __init__(self, name: str, template: Any, key: str | None):
        """Checks what there is.

        Args:
            name: Name of the environment, for messages.
            template: The observation's `jax.ShapeDtypeStruct`, or a dictionary of them.
            key: The entry of the dictionary.

        Raises:
            ValueError: If there is no such entry, or it is not one flat array.
        """
        self._key = key
        part = template
        if isinstance(template, Mapping):
            if key not in template:
                given = "no observation is chosen" if key is None else f"no observation {key!r}"
                known = ", ".join(template)
                raise ValueError(
                    f"{name}: {given}, and there are several: {known}; choose one with "
                    f"?observation={next(iter(template))} after the task's name"
                )
            part = template[key]
        elif key is not None:
            raise ValueError(f"{name}: the observation is not a dictionary; omit observation={key}")
        if not hasattr(part, "shape") or len(part.shape) != 1:
            shape = getattr(part, "shape", type(part).__name__)
            raise ValueError(f"{name}: the observation is not one flat array but {shape}")
        self.size = int(part.shape[0])

    def split(self, observation: Any) -> tuple[jax.Array, Any]:
        """What the agent sees `[size]` float32, and what else the library needs back."""
        if self._key is None:
            return jnp.asarray(observation, jnp.float32), None
        rest = {k: v for k, v in observation.items() if k != self._key}
        return jnp.asarray(observation[self._key], jnp.float32), rest

    def whole(self, observation: jax.Array, rest: Any) -> Any:
        """The library's observation again."""
        return observation if self._key is None else {**rest, self._key: observation}


def with_success(state: base.EnvState, metrics: Mapping[str, Any]) -> base.EnvState:
    """A `GoalState` where a library's metrics say `success`, or `reward/success`.

    These are the names in MuJoCo Playground's manipulation tasks.
    """
    name = next((name for name in ("success", "reward/success") if name in metrics), None)
    if name is None:
        return state
    return base.GoalState(
        physics=state.physics,
        observation=state.observation,
        reward=state.reward,
        termination=state.termination,
        success=(jnp.asarray(metrics[name]) > 0).astype(jnp.float32),
    )


def is_finite(state: base.EnvState) -> jax.Array:
    """Returns `[...]` whether a state, of leaves `[..., observation_size]` and `[...]`, is finite.

    Only observation and reward are looked at: what is wrong in the physics gets there.
    """
    return jnp.all(jnp.isfinite(state.observation), axis=-1) & jnp.isfinite(state.reward)


def pad_last(x: jax.Array, size: int) -> jax.Array:
    """Appends zeros to the last axis.

    Args:
        x: `[..., n]`.
        size: New size of the last axis, at least `n`.

    Returns:
        `[..., size]`.

    Raises:
        ValueError: If `size` is below `n`.
    """
    missing = size - x.shape[-1]
    if missing < 0:
        raise ValueError(f"cannot pad a last axis of {x.shape[-1]} to {size}")
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def like(tree: Any, template: Any) -> Any:
    """Casts every leaf to the dtype of `template`, without weak types.

    Libraries mix Python floats and arrays between `reset` and `step`; a scan carry must not change.

    Args:
        tree: Pytree of arrays or Python scalars.
        template: Pytree of the same structure, leaves with `dtype` and `shape`.

    Returns:
        `tree` with the dtypes of `template`.

    Raises:
        ValueError: If structure or a shape differs.
    """

    def cast(path: Any, x: Any, t: Any) -> jax.Array:
        if jnp.shape(x) != t.shape:
            raise ValueError(
                f"shape of {jax.tree_util.keystr(path)} changed from {t.shape} to {jnp.shape(x)}"
            )
        return jax.lax.convert_element_type(x, t.dtype)

    return jax.tree_util.tree_map_with_path(cast, tree, template)
