"""The physics that tasks of MuJoCo Playground ask for, and MJX's as one that can be shared."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import mujoco
import numpy as np
from mujoco import mjx
from mujoco_playground._src import mjx_env

from m3po_jax.envs import model_variations, physics

_library_step, _library_forward = mjx_env.step, mjx.forward
# With the model as an argument, all programs share one trace of it: that of collecting and that of
# evaluating, and those of tasks with the same body.
_forward = jax.jit(_library_forward)
_lock = threading.RLock()
# What of the physics places the bodies.
_POSE = ("qpos", "qvel", "mocap_pos", "mocap_quat")


class Backend(Protocol):
    """Where the physics of a task of Playground's kind comes from."""

    def asked_for(
        self, variation: jax.Array | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """A block in which a task that is traced asks for this physics, of a family's variation."""

    def body(self, data: Any) -> physics.AnyBody | None:
        """What is shared with other tasks, if anything; of shapes of the task's data."""

    def keep(self, data: Any) -> Any:
        """What of the task's data the next step needs."""

    def restore(self, kept: Any) -> Any:
        """The task's data again."""

    def pose(self, kept: Any) -> dict[str, jax.Array]:
        """What a picture needs of it; traceable."""

    def place(self, data: mujoco.MjData, pose: Mapping[str, np.ndarray]) -> None:
        """Places the bodies of a picture as one of its poses says."""


class MjxPhysics:
    """MJX's physics, whichever its implementation; see `Backend`."""

    def __init__(
        self,
        environment: Any,
        *,
        shared: bool,
        varied: model_variations.Varied | None = None,
    ):
        """Takes the task's own calls.

        Args:
            environment: Playground's.
            shared: Whether the task calls the physics once in a step, outside of loops and
                branches, and so can have it computed with that of others of the same body.
            varied: The models of a family, which is `shared`.
        """
        self._environment = environment
        self._shared = shared
        self._varied = varied

    def asked_for(
        self, variation: jax.Array | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """See `Backend`."""
        if not self._shared:
            return contextlib.nullcontext()
        if self._varied is None or variation is None:
            return replaced(step=_ask_step, forward=_ask_forward)
        model = self._varied.at(variation)

        def step(_: mjx.Model, data: mjx.Data, action: jax.Array, n_substeps: int = 1) -> Any:
            return _ask_step(model, data, action, n_substeps)

        return replaced(step=step, forward=lambda _, data: _ask_forward(model, data))

    def body(self, data: Any) -> physics.Body | None:
        """See `Backend`."""
        if not self._shared:
            return None
        model = self._environment.mjx_model
        action = jax.ShapeDtypeStruct((model.nu,), data.ctrl.dtype)
        return physics.Body(_stepping(self._environment.n_substeps), model, (data, action))

    def keep(self, data: Any) -> Any:
        """See `Backend`."""
        return data

    def restore(self, kept: Any) -> Any:
        """See `Backend`."""
        return kept

    def pose(self, kept: Any) -> dict[str, jax.Array]:
        """See `Backend`."""
        return {name: getattr(kept, name) for name in _POSE}

    def place(self, data: mujoco.MjData, pose: Mapping[str, np.ndarray]) -> None:
        """See `Backend`."""
        for name, value in pose.items():
            getattr(data, name)[:] = value


@functools.cache
def _stepping(n_substeps: int) -> physics.Program:
    """One control step of so many steps of the simulator."""

    def step(model: mjx.Model, data: mjx.Data, action: jax.Array) -> mjx.Data:
        return _library_step(model, data, action, n_substeps)

    return jax.jit(step)


def _ask_step(model: mjx.Model, data: mjx.Data, action: jax.Array, n_substeps: int = 1) -> Any:
    return physics.call(_stepping(n_substeps), model, data, action)


def _ask_forward(model: mjx.Model, data: mjx.Data) -> Any:
    return physics.call(_forward, model, data)


@contextlib.contextmanager
def replaced(
    *,
    step: Callable[..., Any],
    forward: Callable[..., Any],
    make_data: Callable[..., Any] = mjx_env.make_data,
) -> Iterator[None]:
    """Has Playground's tasks call these for their physics, while they are traced."""
    # What is replaced is seen by all threads.
    with _lock:
        before = mjx_env.step, mjx.forward, mjx_env.make_data
        mjx_env.step, mjx.forward, mjx_env.make_data = step, forward, make_data
        try:
            yield
        finally:
            mjx_env.step, mjx.forward, mjx_env.make_data = before
