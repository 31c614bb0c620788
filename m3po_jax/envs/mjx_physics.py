"""MJX's physics as tasks of MuJoCo Playground ask for it."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import jax
from mujoco import mjx
from mujoco_playground._src import mjx_env

from m3po_jax.envs import physics

_library_step, _library_forward = mjx_env.step, mjx.forward
# With the model as an argument, all programs share one trace of it: that of collecting and that of
# evaluating, and those of tasks with the same body.
_forward = jax.jit(_library_forward)
_lock = threading.RLock()


@functools.cache
def _stepping(n_substeps: int) -> physics.Program:
    """One control step of so many steps of the simulator."""

    def step(model: mjx.Model, data: mjx.Data, action: jax.Array) -> mjx.Data:
        return _library_step(model, data, action, n_substeps)

    return jax.jit(step)


def body(model: mjx.Model, data: mjx.Data, n_substeps: int) -> physics.Body:
    """The body of tasks that call the physics once in a step, outside of loops and branches.

    Args:
        model: The task's.
        data: Shapes of it.
        n_substeps: Steps of the simulator in one control step.
    """
    action = jax.ShapeDtypeStruct((model.nu,), data.ctrl.dtype)
    return physics.Body(_stepping(n_substeps), model, (data, action))


@contextlib.contextmanager
def asked_for() -> Iterator[None]:
    """Has Playground's tasks ask for their physics by `physics.call`, while they are traced."""

    def step(model: mjx.Model, data: mjx.Data, action: jax.Array, n_substeps: int = 1) -> Any:
        return physics.call(_stepping(n_substeps), model, data, action)

    def forward(model: mjx.Model, data: mjx.Data) -> Any:
        return physics.call(_forward, model, data)

    # What is replaced is seen by all threads.
    with _lock:
        before = mjx_env.step, mjx.forward
        mjx_env.step, mjx.forward = step, forward
        try:
            yield
        finally:
            mjx_env.step, mjx.forward = before
