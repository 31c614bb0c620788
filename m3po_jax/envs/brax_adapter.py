"""Brax's environments as `Environment`, without any of Brax's training wrappers."""

import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from brax import envs, fluid

from m3po_jax.envs import adapting, base
from m3po_jax.envs.catalog import CATALOG


def make(env_name: str, *, backend: str | None) -> "BraxEnvironment":
    """Loads a task of Brax's registry.

    Args:
        env_name: Its name, for example `ant`.
        backend: Physics: `spring`, `generalized`, `positional` or `mjx`; None for `fast`, which
            has none.
    """
    if env_name == "swimmer":
        _restore_clip_keyword()
    options = {} if backend is None else {"backend": backend}
    with warnings.catch_warnings():
        # Brax prints at every import that it is no longer developed.
        warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
        environment = envs.get_environment(env_name, **options)
    facts = CATALOG["brax"][env_name]
    assert facts.episode_length is not None
    return BraxEnvironment(
        environment,
        name=env_name,
        episode_length=facts.episode_length,
        can_terminate=facts.can_terminate,
    )


class BraxEnvironment:
    """One Brax environment.

    Brax's `done` is a termination: its environments count no steps, their wrappers do. One that
    does says so with `truncation` in its info. Actions in [-1, 1] are scaled to the actuators
    inside those tasks whose actuators have another range.
    """

    def __init__(
        self,
        environment: envs.Env,
        *,
        name: str,
        episode_length: int,
        can_terminate: bool,
        observation_key: str | None = None,
    ):
        """Wraps an environment.

        Args:
            environment: Brax's, without its training wrappers.
            name: For messages.
            episode_length: Control steps until truncation.
            can_terminate: Whether `done` can become 1.
            observation_key: Which entry to take where the observation is a dictionary.

        Raises:
            ConfigError: If the observation, or the entry of it, is not one flat array.
        """
        self._env = environment
        first = jax.eval_shape(environment.reset, jax.random.key_data(jax.random.key(0)))
        self._states = adapting.LibraryStates(
            name, first, can_terminate=can_terminate, observation_key=observation_key
        )
        self.observation_size = self._states.observation_size
        self.action_size = int(environment.action_size)
        self.episode_length = episode_length
        self.can_terminate = can_terminate

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return self._states.ours(self._env.reset(jax.random.key_data(key)))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        return self._states.ours(self._env.step(self._states.library(state), action))

    @property
    def seconds_per_step(self) -> float:
        """Simulated time of one control step."""
        return float(self._env.dt)

    def pose(self, state: base.EnvState) -> Any:
        """What a picture of a state needs, as `viewer` takes it; traceable."""
        return state.physics.pipeline_state

    def viewer(self, poses: Any, *, seconds_per_pose: float) -> str:
        """Brax's own viewer of poses as an HTML page, which loads its program from a CDN.

        Args:
            poses: From `pose`, leaves `[T, ...]`.
            seconds_per_pose: Simulated time between two of them.
        """
        from brax.io import html

        length = jax.tree.leaves(poses)[0].shape[0]
        states = [jax.tree.map(lambda x, t=t: x[t], poses) for t in range(length)]
        system = self._env.sys.tree_replace({"opt.timestep": seconds_per_pose})
        return str(html.render(system, states))


def _restore_clip_keyword() -> None:
    """Lets Brax's fluid forces run: they call `jnp.clip(a_min=...)`, which JAX 0.10 dropped."""

    def clip(x: jax.Array, *, a_min: float) -> jax.Array:
        return jnp.clip(x, min=a_min)

    fluid.jp = types.SimpleNamespace(**{**vars(jnp), "clip": clip})
