"""DM Control tasks of MuJoCo Playground (MJX) as `Environment`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import mujoco_playground
import numpy as np
from mujoco_playground import dm_control_suite

from m3po_jax.envs import base, wrappers


class PlaygroundEnvironment:
    """One DM Control task.

    These tasks never terminate: Playground's `done` means that the state holds a NaN. The adapter
    turns it into a NaN reward, the sign of a fault, even where no NaN reached the observation.
    """

    can_terminate = False

    def __init__(self, env_name: str, *, impl: str):
        """Loads the task.

        Args:
            env_name: Name in Playground's DM Control suite, for example `CartpoleSwingup`.
            impl: MJX implementation: `jax` (everywhere) or `warp` (NVIDIA GPUs).

        Raises:
            ValueError: If actions of the task are not in [-1, 1] or its observation is not flat.
        """
        with _comparable_mujoco_version():
            self._env = dm_control_suite.load(env_name, config_overrides={"impl": impl})
        self.episode_length = int(dm_control_suite.get_default_config(env_name).episode_length)
        limits = self._env.mj_model.actuator_ctrlrange
        if not np.array_equal(limits, np.tile([-1.0, 1.0], (len(limits), 1))):
            raise ValueError(f"{env_name}: actions are not in [-1, 1] but in {limits.tolist()}")
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
        data, info = state.physics
        # The task overwrites the metrics in place, so it gets a dictionary of its own.
        metrics = {k: jnp.zeros(v.shape, v.dtype) for k, v in self._template.metrics.items()}
        library_state = mujoco_playground.State(
            data=data,
            obs=state.observation,
            reward=state.reward,
            done=jnp.zeros((), jnp.float32),
            metrics=metrics,
            info=dict(info),
        )
        return self._strip(self._env.step(library_state, action))

    def _strip(self, library_state: Any) -> base.EnvState:
        """Keeps what the next step needs, in constant dtypes."""
        template = self._template
        reward = jnp.where(library_state.done > 0.0, jnp.nan, library_state.reward)
        return base.EnvState(
            physics=wrappers.like(
                (library_state.data, library_state.info), (template.data, template.info)
            ),
            observation=wrappers.like(library_state.obs, template.obs),
            reward=jax.lax.convert_element_type(reward, jnp.float32),
            termination=jnp.zeros((), jnp.float32),
        )


@contextlib.contextmanager
def _comparable_mujoco_version() -> Iterator[None]:
    """Lets Playground's reacher load with MuJoCo 3.10 to 3.29.

    It compares versions as text (`mujoco.__version__ >= "3.3.0"`), by which 3.17.0 is older than
    3.3.0, and then calls a method that MuJoCo dropped.
    """
    version = mujoco.__version__
    newer = tuple(int(part) for part in version.split(".")[:2]) >= (3, 3)
    mujoco.__version__ = "3.3.0" if newer else version
    try:
        yield
    finally:
        mujoco.__version__ = version
