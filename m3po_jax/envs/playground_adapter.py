"""Tasks of MuJoCo Playground (MJX) as `Environment`."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import mujoco_playground
import numpy as np
from mujoco_playground import dm_control_suite, locomotion, manipulation

from m3po_jax.envs import adapting, base, bodies, mjx_physics, model_variations, mujoco_c
from m3po_jax.envs.families import Variation

# Where the state of a family's environment carries the index of its variation.
_VARIATION = "variation"


def make_dmc(
    env_name: str, *, impl: str, variations: Sequence[Variation] = ()
) -> "PlaygroundEnvironment":
    """Loads a task of the DM Control suite.

    Args:
        env_name: Its name, for example `CartpoleSwingup`.
        impl: Physics: `c` (C MuJoCo, on the host), or MJX's implementation `jax` (everywhere) or
            `warp` (NVIDIA GPUs).
        variations: Those of a family.

    Raises:
        ConfigError: If a variation cannot be compiled into the program of the others.
        ValueError: If actions of the task are not in [-1, 1].
    """
    with _comparable_mujoco_version():
        overrides = {"impl": "jax" if impl == "c" else impl}
        environment = dm_control_suite.load(env_name, config_overrides=overrides)
    limits = environment.mj_model.actuator_ctrlrange
    if not np.array_equal(limits, np.tile([-1.0, 1.0], (len(limits), 1))):
        raise ValueError(f"{env_name}: actions are not in [-1, 1] but in {limits.tolist()}")
    length = int(dm_control_suite.get_default_config(env_name).episode_length)
    known = bodies.parameters("dmc", env_name)
    models = model_variations.compile_all(environment, variations, known) if variations else []
    backend: mjx_physics.Backend
    if impl == "c":
        backend = mujoco_c.CPhysics(f"dmc/{env_name}", environment, models)
    else:
        names = [variation.name for variation in variations]
        base_model = environment.mjx_model
        varied = model_variations.stack(base_model, models, names) if models else None
        # In Warp the arrays of contacts belong to all environments of a batch in common.
        backend = mjx_physics.MjxPhysics(environment, shared=impl == "jax", varied=varied)
    return PlaygroundEnvironment(
        environment,
        name=env_name,
        episode_length=length,
        can_terminate=False,
        backend=backend,
        models=models,
    )


def make_robot(
    env_name: str, *, impl: str, observation_key: str | None = None
) -> "PlaygroundEnvironment":
    """Loads a locomotion or manipulation task; its meshes must be there already.

    Args:
        env_name: Its name, for example `Go1JoystickFlatTerrain`.
        impl: As for `make_dmc`.
        observation_key: Which part of the observation the agent sees; what a robot's own sensors
            tell (`state`) if not given.
    """
    suite = locomotion if env_name in locomotion.ALL_ENVS else manipulation
    settings = suite.get_default_config(env_name)
    overrides = {"impl": impl} if "impl" in settings else {}
    environment = suite.load(env_name, config_overrides=overrides)
    is_dictionary = isinstance(environment.observation_size, Mapping)
    return PlaygroundEnvironment(
        environment,
        name=env_name,
        episode_length=int(settings.episode_length),
        can_terminate=True,
        observation_key=observation_key or ("state" if is_dictionary else None),
    )


class PlaygroundEnvironment:
    """One MJX environment of MuJoCo Playground's kind.

    DM Control tasks never terminate: there `done` means that the state holds a NaN, and the reward
    becomes NaN, the sign of a fault, even where no NaN reached the observation.

    Attributes:
        backend: Where its physics comes from.
    """

    def __init__(
        self,
        environment: mujoco_playground.MjxEnv,
        *,
        name: str,
        episode_length: int,
        can_terminate: bool,
        observation_key: str | None = None,
        backend: mjx_physics.Backend | None = None,
        models: Sequence[mujoco.MjModel] = (),
    ):
        """Wraps an environment.

        Args:
            environment: Playground's, without its training wrappers.
            name: For messages.
            episode_length: Control steps until truncation.
            can_terminate: Whether `done` is a termination; otherwise it is a fault.
            observation_key: Which entry to take where the observation is a dictionary.
            backend: Where its physics comes from; MJX, for this environment alone, if not given.
            models: Those of a family's variations, which `backend` has too.

        Raises:
            ConfigError: If the observation, or the entry of it, is not one flat array.
        """
        self._env = environment
        self._models = tuple(models)
        self.episode_length = episode_length
        self.can_terminate = can_terminate
        self.action_size = int(environment.action_size)
        self.backend = backend or mjx_physics.MjxPhysics(environment, shared=False)
        with self.backend.asked_for():
            first = jax.eval_shape(environment.reset, jax.random.key_data(jax.random.key(0)))
        self.body = self.backend.body(first.data)
        if models:
            index = jax.ShapeDtypeStruct((), jnp.int32)
            first = first.replace(info={**first.info, _VARIATION: index})
        self._states = adapting.LibraryStates(
            name,
            jax.eval_shape(self._kept, first),
            can_terminate=can_terminate,
            observation_key=observation_key,
        )
        self.observation_size = self._states.observation_size

    def reset(self, key: jax.Array, variation: jax.Array | None = None) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        with self.backend.asked_for(variation):
            first = self._env.reset(jax.random.key_data(key))
        if variation is not None:
            first = first.replace(info={**first.info, _VARIATION: variation})
        return self._states.ours(self._kept(first))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        last = self._states.library(state)
        last = last.replace(data=self.backend.restore(last.data))
        with self.backend.asked_for(last.info.get(_VARIATION)):
            new = self._env.step(last, action)
        return self._states.ours(self._kept(new))

    def _kept(self, library_state: Any) -> Any:
        """The library's state with of its data what is carried."""
        return library_state.replace(data=self.backend.keep(library_state.data))

    @property
    def seconds_per_step(self) -> float:
        """Simulated time of one control step."""
        return float(self._env.dt)

    def pose(self, state: base.EnvState) -> dict[str, jax.Array]:
        """What a picture of a state needs, as `frames` takes it; traceable."""
        return self.backend.pose(state.physics.data)

    def frames(
        self, poses: Mapping[str, np.ndarray], *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws poses offscreen with MuJoCo's renderer, which `MUJOCO_GL` chooses.

        Args:
            poses: From `pose`, leaves `[T, ...]`.
            width: Pixels.
            height: Pixels.

        Yields:
            One picture `[height, width, 3]` uint8 per pose.
        """
        # Of a family, its first variation.
        model = self._models[0] if self._models else self._env.mj_model
        # The picture is drawn into a buffer, which the model declares too small for a video.
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        data = mujoco.MjData(model)
        with mujoco.Renderer(model, height=height, width=width) as renderer:
            for step in range(len(next(iter(poses.values())))):
                self.backend.place(data, {name: values[step] for name, values in poses.items()})
                mujoco.mj_forward(model, data)
                # The first camera of a model, where it has one, is the one made for watching.
                renderer.update_scene(data, camera=0 if model.ncam else -1)
                yield renderer.render()


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
