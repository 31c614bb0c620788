"""Brax's environments as `Environment`, without any of Brax's training wrappers."""

import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from brax import envs, fluid

from m3po_jax.envs import base, wrappers

EPISODE_LENGTH = 1000
# The tasks whose `done` can become 1 (read in their sources, and held by a test).
TERMINATING = frozenset(
    {
        "ant",
        "hopper",
        "humanoid",
        "inverted_double_pendulum",
        "inverted_pendulum",
        "walker2d",
    }
)


class BraxEnvironment:
    """One Brax environment.

    Brax's `done` is a termination: its environments count no steps, their wrappers do. Actions in
    [-1, 1] are scaled to the actuators inside those tasks whose actuators have another range.
    """

    episode_length = EPISODE_LENGTH

    def __init__(self, env_name: str, *, backend: str | None):
        """Loads the task.

        Args:
            env_name: Name in Brax's registry, for example `ant`.
            backend: Physics: `spring`, `generalized`, `positional` or `mjx`; None for `fast`,
                which has none.

        Raises:
            ValueError: If the observation of the task is not flat.
        """
        if env_name == "swimmer":
            _restore_clip_keyword()
        options = {} if backend is None else {"backend": backend}
        with warnings.catch_warnings():
            # Brax says at every load that it is no longer developed; the README says it once.
            warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
            self._env = envs.get_environment(env_name, **options)
        self.can_terminate = env_name in TERMINATING
        self.action_size = int(self._env.action_size)
        self._template = jax.eval_shape(self._env.reset, jax.random.key_data(jax.random.key(0)))
        if not hasattr(self._template.obs, "shape") or len(self._template.obs.shape) != 1:
            raise ValueError(f"{env_name}: the observation is not one flat array")
        self.observation_size = int(self._template.obs.shape[0])

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return self._strip(self._env.reset(jax.random.key_data(key)))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        pipeline_state, info = state.physics
        library_state = envs.State(
            pipeline_state=pipeline_state,
            obs=state.observation,
            reward=state.reward,
            done=jnp.zeros((), jnp.float32),
            # The task overwrites the metrics in place, so it gets a dictionary of its own.
            metrics={k: jnp.zeros(v.shape, v.dtype) for k, v in self._template.metrics.items()},
            info=dict(info),
        )
        return self._strip(self._env.step(library_state, action))

    def _strip(self, library_state: Any) -> base.EnvState:
        """Keeps what the next step needs, in constant dtypes."""
        template = self._template
        return base.EnvState(
            physics=wrappers.like(
                (library_state.pipeline_state, library_state.info),
                (template.pipeline_state, template.info),
            ),
            observation=wrappers.like(library_state.obs, template.obs),
            reward=jnp.asarray(library_state.reward, jnp.float32),
            termination=jnp.asarray(library_state.done, jnp.float32),
        )


def _restore_clip_keyword() -> None:
    """Lets Brax's fluid forces run: they call `jnp.clip(a_min=...)`, which JAX 0.10 dropped."""

    def clip(x: jax.Array, *, a_min: float) -> jax.Array:
        return jnp.clip(x, min=a_min)

    fluid.jp = types.SimpleNamespace(**{**vars(jnp), "clip": clip})
