"""C MuJoCo as the physics of MuJoCo Playground's tasks, instead of MJX's.

A task's reward, observation and first states stay Playground's own. Its calls of the physics go to
`mujoco.batch.Batch` on the host: the steps of a control step, the forward pass of a reset, and what
makes the data that both begin with. That data is the simulator's state, in float64, as words;
beside it cross those fields alone that the task reads, as float32.
"""

import contextlib
import functools
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import batch as mujoco_batch

from m3po_jax.envs import host, mjx_physics, mujoco_log, physics

_PARTS = mujoco.mjtState
_WHOLE = int(_PARTS.mjSTATE_INTEGRATION)
# Forces from outside, user data and which constraints are on: no task sets them.
_FIXED = (
    *(_PARTS.mjSTATE_QFRC_APPLIED, _PARTS.mjSTATE_XFRC_APPLIED),
    *(_PARTS.mjSTATE_EQ_ACTIVE, _PARTS.mjSTATE_USERDATA),
)
_STATE = functools.reduce(lambda spec, part: spec & ~int(part), _FIXED, _WHOLE)
# What a task can set, and read, of the state.
_SETTABLE = {
    "time": int(_PARTS.mjSTATE_TIME),
    "qpos": int(_PARTS.mjSTATE_QPOS),
    "qvel": int(_PARTS.mjSTATE_QVEL),
    "act": int(_PARTS.mjSTATE_ACT),
    "ctrl": int(_PARTS.mjSTATE_CTRL),
    "mocap_pos": int(_PARTS.mjSTATE_MOCAP_POS),
    "mocap_quat": int(_PARTS.mjSTATE_MOCAP_QUAT),
}
# What a step and a forward pass compute for every model, whatever its sensors; other fields may
# hold what another environment left there.
_COMPUTED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis"),
    *("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat"),
    *("subtree_com", "cvel", "sensordata", "actuator_length", "actuator_velocity"),
    *("actuator_force", "qfrc_actuator", "qacc", "ten_length", "ten_velocity"),
)
# C MuJoCo continues after these: from a reset, without control, or without some of the contacts.
_FAULTS = [
    int(getattr(mujoco.mjtWarning, f"mjWARN_{name}"))
    for name in ("CONTACTFULL", "CNSTRFULL", "BADQPOS", "BADQVEL", "BADQACC", "BADCTRL")
]
# Fewer environments are not worth waking a thread for.
_ROWS_PER_THREAD = 4


class CPhysics:
    """C MuJoCo for the environments of one task or family; a `mjx_physics.Backend`."""

    def __init__(self, task: str, environment: Any, variations: Sequence[mujoco.MjModel] = ()):
        """Finds the fields that cross, by tracing a reset and a step of the task.

        Args:
            task: Its name, for messages.
            environment: Playground's, loaded for MJX.
            variations: The models of a family, of the same sizes.

        Raises:
            ValueError: If the task reads or sets what cannot cross; names it.
        """
        mujoco_log.keep_out_of_folder()
        self.task = task
        self._model = environment.mj_model
        self._models = tuple(variations) or (self._model,)
        self._body = host.HostBody(host.mujoco_cost(self._model.nv, environment.n_substeps))
        data = mujoco.MjData(self._model)
        self._shapes = {name: _shape(data, name) for name in (*_SETTABLE, *_COMPUTED)}
        start = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, data, start, _STATE)
        # Behind the state stands whose it is, plus the index of its variation: one of a run with
        # another model must not go unseen.
        self._digest = np.uint32(functools.reduce(_digest, self._models, 0))
        self._start = np.append(start.view(np.uint32), self._digest)
        whole = np.concatenate([np.full(n, part & _STATE) for part, n in _sizes(self._model)])
        self._columns = np.flatnonzero(whole)
        self._idle: dict[bytes, list[mujoco_batch.Batch]] = {}
        self.read = set(self._shapes)
        self._calls: dict[int, host.HostCall] = {}
        self.crossing = tuple(self._shapes)
        self._trace(environment)
        self._calls.clear()
        self.crossing = tuple(name for name in self._shapes if name in self.read)

    def asked_for(
        self, variation: jax.Array | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Has Playground's tasks ask for this physics, while they are traced."""
        make_data = functools.partial(self._make_data, variation=variation)
        return mjx_physics.replaced(
            step=self._ask_step, forward=self._ask_forward, make_data=make_data
        )

    def body(self, data: Any) -> host.HostBody:
        """What all tasks with physics on the host have in common."""
        return self._body

    def keep(self, data: "CData") -> jax.Array:
        """The state, as words."""
        return data.words

    def restore(self, kept: jax.Array) -> "CData":
        """What a control step begins with."""
        return CData(kept, {}, self)

    def pose(self, kept: jax.Array) -> dict[str, jax.Array]:
        """What places the bodies in a picture."""
        return {"words": kept}

    def place(self, data: mujoco.MjData, pose: Mapping[str, np.ndarray]) -> None:
        """Places the bodies."""
        state = np.ascontiguousarray(pose["words"][:-1]).view(np.float64)
        mujoco.mj_setState(self._model, data, state, _STATE)

    def parts(self, words: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of a state by MuJoCo's names, float64."""
        data = mujoco.MjData(self._model)
        self.place(data, {"words": words})
        return {name: np.array(getattr(data, name)) for name in (*_SETTABLE, "qacc_warmstart")}

    def set(self, words: jax.Array, name: str, value: jax.Array) -> jax.Array:
        """The words of a state with one part replaced by float32 values."""
        sizes = [(part, n) for part, n in _sizes(self._model) if part & _STATE]
        start = sum(n for part, n in sizes if part < _SETTABLE[name])
        new = as_float64(jnp.broadcast_to(value, self._shapes[name]).reshape(-1))
        return jax.lax.dynamic_update_slice(words, new, (2 * start,))

    def _trace(self, environment: Any) -> None:
        self.read = set()

        def play(key: jax.Array, action: jax.Array) -> Any:
            first = environment.reset(key)
            kept = first.replace(data=self.restore(self.keep(first.data)))
            return environment.step(kept, action).obs

        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        action = jax.ShapeDtypeStruct((environment.action_size,), jnp.float32)
        with self.asked_for():
            jax.eval_shape(play, key, action)

    def _make_data(self, model: Any, *, variation: jax.Array | None, **settings: Any) -> "CData":
        """Replaces Playground's `make_data`; only MJX has sizes of buffers."""
        start = {name: self._start_of(name) for name in _SETTABLE if name in self.crossing}
        words = jnp.asarray(self._start)
        if variation is not None:
            words = words.at[-1].add(variation.astype(jnp.uint32))
        data = CData(words, start, self)
        values = {name: settings[name] for name in _SETTABLE if settings.get(name) is not None}
        return data.replace(**values)

    def _start_of(self, name: str) -> jax.Array:
        data = mujoco.MjData(self._model)
        return jnp.asarray(np.reshape(getattr(data, name), self._shapes[name]), jnp.float32)

    def _ask_forward(self, model: Any, data: "CData") -> "CData":
        return self._ask(0, data.words)

    def _ask_step(
        self, model: Any, data: "CData", action: jax.Array, n_substeps: int = 1
    ) -> "CData":
        control = jax.lax.bitcast_convert_type(jnp.asarray(action, jnp.float32), jnp.uint32)
        return self._ask(n_substeps, jnp.concatenate([data.words, control]))

    def _ask(self, n_substeps: int, row: jax.Array) -> "CData":
        answer = physics.call(self.call(n_substeps), None, row)
        words, values = jnp.split(answer, [self._start.size])
        shapes = [self._shapes[name] for name in self.crossing]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1].tolist()
        parts = jnp.split(jax.lax.bitcast_convert_type(values, jnp.float32), ends)
        given = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return CData(words, dict(zip(self.crossing, given, strict=True)), self)

    def call(self, n_substeps: int) -> host.HostCall:
        """What the host computes: so many steps of the simulator, or with none a forward pass."""
        known = self._calls.get(n_substeps)
        if known is None:
            state, control = self._start.size, self._model.nu if n_substeps else 0
            values = sum(math.prod(self._shapes[name]) for name in self.crossing)
            run = functools.partial(self._run, n_substeps=n_substeps)
            known = host.HostCall(self.task, state, state + control, state + values, run)
            self._calls[n_substeps] = known
        return known

    def _run(self, rows: np.ndarray, *, n_substeps: int) -> np.ndarray:
        """Steps, or with no substeps a forward pass, of states with their controls `[n, ...]`."""
        state = self._start.size
        variation = rows[:, state - 1] - self._digest
        if np.any(variation >= len(self._models)):
            raise ValueError(
                "the saved state is of another model than the task has now; install the versions "
                "that config.json names, or start anew with --overwrite"
            )
        idle = self._idle.setdefault(variation.tobytes(), [])
        # A Batch serves one thread at a time; on several devices there are several.
        try:
            batch = idle.pop()
        except IndexError:
            batch = self._new_batch(variation)
        batch.state[:, self._columns] = np.ascontiguousarray(rows[:, : state - 1]).view(np.float64)
        warnings = batch.warning[:, _FAULTS, 1].copy()
        try:
            if n_substeps:
                batch.bind("ctrl")[:] = rows[:, state:].view(np.float32)
                batch.step(nstep=n_substeps)
            else:
                batch.forward()
        except mujoco_batch.SimulationError:
            pass  # such environments are as they were, and faulty
        faulty = np.any(batch.warning[:, _FAULTS, 1] != warnings, axis=1) | (batch.status != 0)
        out = np.concatenate(
            [
                np.ascontiguousarray(batch.state[:, self._columns]).view(np.uint32),
                rows[:, state - 1 : state],
                _as_float32([batch.bind(name) for name in self.crossing], faulty).view(np.uint32),
            ],
            axis=1,
        )
        idle.append(batch)
        return out

    def _new_batch(self, variation: np.ndarray) -> mujoco_batch.Batch:
        """Simulators for rows of these variations `[n]`."""
        number = len(variation)
        threads = min(len(os.sched_getaffinity(0)), max(1, number // _ROWS_PER_THREAD))
        batch = mujoco_batch.Batch(self._models[0], nsim=number, nthread=threads)
        if len(self._models) > 1:
            batch.set_models([self._models[k] for k in variation])
        for name in self.crossing:
            batch.bind(name)
        return batch


@jax.tree_util.register_pytree_node_class
class CData:
    """What Playground's tasks take for MJX's data: the state, and the fields that cross."""

    def __init__(self, words: jax.Array, fields: Mapping[str, jax.Array], owner: CPhysics):
        """Takes the words `[W]` of a state and fields by their names."""
        self.words, self._fields, self._owner = words, dict(fields), owner

    def __getattr__(self, name: str) -> jax.Array:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._fields:
            raise ValueError(
                f"{self._owner.task}: the task reads {name} of the simulator, which C MuJoCo does "
                "not hand over there; choose ?impl=jax"
            )
        self._owner.read.add(name)
        return self._fields[name]

    def replace(self, **values: Any) -> "CData":
        """The data with parts of the state replaced."""
        words, fields = self.words, dict(self._fields)
        for name, value in values.items():
            if name not in _SETTABLE:
                raise ValueError(
                    f"{self._owner.task}: the task sets {name} of the simulator, which C MuJoCo "
                    "does not take over; choose ?impl=jax"
                )
            value = jnp.asarray(value, jnp.float32)
            words = self._owner.set(words, name, value)
            if name in fields:
                fields[name] = value
        return CData(words, fields, self._owner)

    def tree_flatten(self) -> tuple[tuple[jax.Array, ...], tuple[Any, ...]]:
        """For JAX."""
        return (self.words, *self._fields.values()), (tuple(self._fields), self._owner)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], leaves: tuple[jax.Array, ...]) -> "CData":
        """For JAX."""
        return cls(leaves[0], dict(zip(static[0], leaves[1:], strict=True)), static[1])


def as_float64(x: jax.Array) -> jax.Array:
    """The words of float32 numbers `[n]` as float64 numbers, `[2 n]` uint32; exact.

    JAX has no float64 here. A float64 has 11 bits of exponent in place of 8 and 52 of fraction in
    place of 23.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign, exponent = bits & jnp.uint32(0x80000000), (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    # A subnormal number is normal there: its leading one moves to the place of the hidden one.
    shift = jnp.where(fraction > 0, jax.lax.clz(fraction) - 8, 0)
    subnormal = exponent == 0
    fraction = jnp.where(subnormal, (fraction << shift) & 0x7FFFFF, fraction)
    wide = jnp.where(subnormal, 897 - shift, exponent + 896)
    wide = jnp.where(exponent == 0xFF, jnp.uint32(0x7FF), wide)
    wide = jnp.where((bits & 0x7FFFFFFF) == 0, jnp.uint32(0), wide)
    high = sign | (wide << 20) | (fraction >> 3)
    return jnp.stack([fraction << 29, high], axis=-1).reshape(-1)


def _digest(before: int, model: mujoco.MjModel) -> int:
    """A checksum of a model and of those before it."""
    model_bytes = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, model_bytes)
    return zlib.crc32(model_bytes.tobytes(), before)


def _sizes(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """The parts of a whole state in order, and how many numbers each has."""
    bits = [1 << k for k in range(_WHOLE.bit_length()) if _WHOLE >> k & 1]
    return [(bit, mujoco.mj_stateSize(model, bit)) for bit in bits]


def _shape(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """The shape of a field in MJX, where matrices have two axes."""
    shape = np.shape(getattr(data, name))
    return (*shape[:-1], 3, 3) if name.endswith("mat") else shape


def _as_float32(fields: list[np.ndarray], faulty: np.ndarray) -> np.ndarray:
    """Fields `[n, ...]` behind each other `[n, V]`, NaN where the physics failed."""
    # What is too large becomes infinite, a fault too.
    with np.errstate(over="ignore", invalid="ignore"):
        flat = [np.reshape(field, (len(faulty), -1)).astype(np.float32) for field in fields]
        values = np.concatenate(flat, axis=1)
    values[faulty] = np.nan
    return values
