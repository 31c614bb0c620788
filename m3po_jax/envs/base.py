"""The interface that every environment of the project has: unbatched, pure, without auto-reset."""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax


@flax.struct.dataclass
class EnvState:
    """State of one environment.

    All that `Environment.step` needs is in `physics`; the other fields are read by the callers.
    """

    physics: Any  # pytree of the library or of the toy task, of constant structure and dtypes
    observation: jax.Array  # [observation_size] float32
    reward: jax.Array  # [] float32, of the step that led here; 0 at a reset
    termination: jax.Array  # [] float32, 1 where the task itself ended the episode
    # [] float32, 1 where a time limit of the task's own ended it; None where the task has none
    truncation: jax.Array | None = None


@flax.struct.dataclass(kw_only=True)
class GoalState(EnvState):
    """State of an environment whose task has a goal, from both `reset` and `step`.

    Evaluations report the share of episodes in which a step met the goal; nothing learns from it.
    """

    success: jax.Array  # [] float32, 1 where the step that led here met the goal; 0 at a reset


@runtime_checkable
class Environment(Protocol):
    """One environment, not batched.

    Implementations are pure and traceable: same structure, shapes and dtypes out of `reset` and
    `step`, no weak types, so that a state can be the carry of `jax.lax.scan`. They need not count
    steps and never reset on their own. A time limit of their own is an `EnvState.truncation`, never
    a termination. Where the physics breaks down, the observation, the reward or the termination
    must be non-finite: `MultiTaskEnv` turns that into an invalid step, and so it does with an
    episode that begins so. One that asks for its physics by `physics.call` may say in a further
    attribute `body` whose it shares. `contract.checked` holds a user's task to all this. That of a
    family takes in `reset` behind the key the index `[]` of a variation, which its states carry.

    Attributes:
        observation_size: Size of the flat float32 observation.
        action_size: Size of the action; actions lie in [-1, 1].
        episode_length: Control steps of the simulator until truncation.
        can_terminate: Whether `EnvState.termination` can become 1.
    """

    @property
    def observation_size(self) -> int:
        """Size of the flat observation."""
        ...

    @property
    def action_size(self) -> int:
        """Size of the action."""
        ...

    @property
    def episode_length(self) -> int:
        """Control steps of the simulator until truncation."""
        ...

    @property
    def can_terminate(self) -> bool:
        """Whether an episode can end by termination."""
        ...

    def reset(self, key: jax.Array) -> EnvState:
        """Starts an episode.

        Args:
            key: Typed key `[]`, consumed.

        Returns:
            The first state; its reward and termination are 0.
        """
        ...

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        """Advances by one control step.

        Args:
            state: State of a running episode. After the end of an episode the result is undefined.
            action: `[action_size]` float32 in [-1, 1].

        Returns:
            The true successor state with the reward of this step.
        """
        ...
