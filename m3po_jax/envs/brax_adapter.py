"""Brax's environments as `Environment`, without any of Brax's training wrappers."""

import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from brax import envs, fluid

from m3po_jax.envs import base, wrappers
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

    Brax's `done` is a termination: its environments count no steps, their wrappers do. Actions in
    [-1, 1] are scaled to the actuators inside those tasks whose actuators have another range.
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
            ValueError: If the observation, or the entry of it, is not one flat array.
        """
        self._env = environment
        self.episode_length = episode_length
        self.can_terminate = can_terminate
        self.action_size = int(environment.action_size)
        self._template = jax.eval_shape(environment.reset, jax.random.key_data(jax.random.key(0)))
        self._observation = wrappers.ObservationPart(name, self._template.obs, observation_key)
        self.observation_size = self._observation.size

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return self._strip(self._env.reset(jax.random.key_data(key)))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        pipeline_state, info, parts = state.physics
        library_state = envs.State(
            pipeline_state=pipeline_state,
            obs=self._observation.whole(state.observation, parts),
            reward=state.reward,
            done=jnp.zeros((), jnp.float32),
            # The task overwrites the metrics in place, so it gets a dictionary of its own.
            metrics={k: jnp.zeros(v.shape, v.dtype) for k, v in self._template.metrics.items()},
            info=dict(info),
        )
        return self._strip(self._env.step(library_state, action))

    @property
    def seconds_per_step(self) -> float:
        """Simulated time of one control step."""
        return float(self._env.dt)

    def pose(self, state: base.EnvState) -> Any:
        """What a picture of a state needs, as `viewer` takes it; traceable."""
        return state.physics[0]

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

    def _strip(self, library_state: Any) -> base.EnvState:
        """Keeps what the next step needs, in constant dtypes."""
        template = self._template
        observation, parts = self._observation.split(wrappers.like(library_state.obs, template.obs))
        pipeline_state, info = wrappers.like(
            (library_state.pipeline_state, library_state.info),
            (template.pipeline_state, template.info),
        )
        state = base.EnvState(
            physics=(pipeline_state, info, parts),
            observation=observation,
            reward=jnp.asarray(library_state.reward, jnp.float32),
            termination=jnp.asarray(library_state.done, jnp.float32),
        )
        return wrappers.with_success(state, library_state.metrics)


def _restore_clip_keyword() -> None:
    """Lets Brax's fluid forces run: they call `jnp.clip(a_min=...)`, which JAX 0.10 dropped."""

    def clip(x: jax.Array, *, a_min: float) -> jax.Array:
        return jnp.clip(x, min=a_min)

    fluid.jp = types.SimpleNamespace(**{**vars(jnp), "clip": clip})
