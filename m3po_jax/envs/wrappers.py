"""Action repeat, distractors and padding, and when an episode can go on."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from m3po_jax.envs import base


class ActionRepeat:
    """Holds each action for several control steps of the simulator.

    Rewards are summed. After the end of the episode or a fault inside the repeat, all but the
    physics stays as it was there and no reward is added; the physics runs on, which is cheaper than
    a select over all of it, and nobody reads it: an episode that ended is reset. Success in any
    step of the repeat counts.

    Attributes:
        environment: What is repeated.
        num_repeats: Control steps per action.
        episode_length: Control steps of the simulator until truncation.
    """

    def __init__(
        self, environment: base.Environment, num_repeats: int, *, episode_length: int | None = None
    ):
        """Wraps an environment.

        Args:
            environment: Environment to wrap.
            num_repeats: Control steps per action, at least 1.
            episode_length: Control steps until truncation; the environment's own if not given.

        Raises:
            ValueError: If `num_repeats` is below 1.
        """
        if num_repeats < 1:
            raise ValueError(f"num_repeats must be at least 1, got {num_repeats}")
        self.environment = environment
        self.num_repeats = num_repeats
        self.episode_length = (
            environment.episode_length if episode_length is None else episode_length
        )

    @property
    def observation_size(self) -> int:
        """Size of the flat observation."""
        return self.environment.observation_size

    @property
    def action_size(self) -> int:
        """Size of the action."""
        return self.environment.action_size

    @property
    def can_terminate(self) -> bool:
        """Whether an episode can end by termination."""
        return self.environment.can_terminate

    def reset(self, key: jax.Array, *variation: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return self.environment.reset(key, *variation)

    def steps_left(self, agent_steps: jax.Array) -> jax.Array | None:
        """Control steps until truncation, after so many agent steps of an episode.

        None where the repeat divides the episode, so that no step is ever cut.
        """
        if self.episode_length % self.num_repeats == 0:
            return None
        return self.episode_length - self.num_repeats * agent_steps

    def step(
        self, state: base.EnvState, action: jax.Array, steps_left: jax.Array | None = None
    ) -> base.EnvState:
        """Advances by `num_repeats` control steps; see `Environment.step`.

        Args:
            state: See `Environment.step`.
            action: See `Environment.step`.
            steps_left: `[]` control steps after which the episode is over and no more count.
        """

        def advance(last: list[base.EnvState]) -> list[base.EnvState]:
            new = self.environment.step(last[0], action)
            if type(new) is not type(last[0]):
                raise ValueError(
                    f"{type(self.environment).__name__} must return the same kind of state from "
                    f"reset and step, not {type(last[0]).__name__} and {type(new).__name__}"
                )
            return [new]

        return repeat(advance, [state], self.num_repeats, [steps_left])[0]


def repeat(
    advance: Callable[[list[base.EnvState]], list[base.EnvState]],
    states: list[base.EnvState],
    num_repeats: int,
    steps_left: Sequence[jax.Array | None],
) -> list[base.EnvState]:
    """Advances environments as `ActionRepeat` does.

    Args:
        advance: Takes one control step of all of them.
        states: For each task those of one environment or, with leaves `[N_k, ...]`, of several.
        num_repeats: Control steps.
        steps_left: For each task the steps `[]` or `[N_k]` that count, None for all.

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
        if last.truncation is not None and new.truncation is not None:
            kept = kept.replace(truncation=jnp.where(live, new.truncation, last.truncation))
        if isinstance(last, base.GoalState) and isinstance(new, base.GoalState):
            success = jnp.where(live, jnp.maximum(last.success, new.success), last.success)
            kept = kept.replace(success=success)
        return kept, live & goes_on(kept)

    def body(carry: tuple[list, list], step: jax.Array) -> tuple[tuple[list, list], None]:
        states, alive = carry
        live = [
            here if left is None else here & (step < left)
            for here, left in zip(alive, steps_left, strict=True)
        ]
        kept = list(map(keep, states, live, advance(states)))
        return ([state for state, _ in kept], [live for _, live in kept]), None

    def begin(state: base.EnvState) -> base.EnvState:
        state = state.replace(reward=jnp.zeros_like(state.reward))
        if isinstance(state, base.GoalState):
            state = state.replace(success=jnp.zeros_like(state.success))
        return state

    start = list(map(begin, states))
    alive = [jnp.ones(state.reward.shape, bool) for state in states]
    (last, _), _ = jax.lax.scan(body, (start, alive), jnp.arange(num_repeats))
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

    def reset(self, key: jax.Array, *variation: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        key, phase_key, speed_key = jax.random.split(key, 3)
        size = (self._num_distractors,)
        phase = jax.random.uniform(phase_key, size, maxval=2.0 * jnp.pi)
        speed = jax.random.uniform(speed_key, size, minval=0.05, maxval=0.5)
        return self._join(self._environment.reset(key, *variation), phase, speed)

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


def is_finite(state: base.EnvState) -> jax.Array:
    """Returns `[...]` whether a state, of leaves `[..., observation_size]` and `[...]`, is finite.

    All that callers read is looked at, and what is wrong in the physics gets there.
    """
    finite = jnp.all(jnp.isfinite(state.observation), axis=-1) & jnp.isfinite(state.reward)
    finite &= jnp.isfinite(state.termination)
    if state.truncation is not None:
        finite &= jnp.isfinite(state.truncation)
    if isinstance(state, base.GoalState):
        finite &= jnp.isfinite(state.success)
    return finite


def is_truncated(state: base.EnvState) -> jax.Array:
    """Returns `[...]` whether a time limit of the task's own ended the episode."""
    if state.truncation is None:
        return jnp.zeros(state.reward.shape, bool)
    return state.truncation > 0.0


def goes_on(state: base.EnvState) -> jax.Array:
    """Returns `[...]` whether an episode can go on from a state: it is finite and has no end."""
    return is_finite(state) & ~((state.termination > 0.0) | is_truncated(state))


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
