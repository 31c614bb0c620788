"""Physics of Meta-World's tasks in C MuJoCo, as functions of rows of numbers; imports no JAX."""

import contextlib
import copy
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import mujoco
import numpy as np
from mujoco import batch as mujoco_batch

from m3po_jax.envs import mujoco_log
from m3po_jax.envs.metaworld import library
from m3po_jax.envs.metaworld.scene import Definition, Read

SUBSTEPS = 5
# With the forward pass behind the last step, which Meta-World takes as well.
_STAGE = int(mujoco.mjtStage.mjSTAGE_ACC)
# All else of the simulator's state is constant, or set in every step.
_STATE_FIELDS = ("qpos", "qvel", "qacc_warmstart", "mocap_pos")
_MOCAP_QUAT = (1.0, 0.0, 1.0, 0.0)
_OBJECTS = {
    "xpos": mujoco.mjtObj.mjOBJ_BODY,
    "xquat": mujoco.mjtObj.mjOBJ_BODY,
    "xmat": mujoco.mjtObj.mjOBJ_BODY,
    "geom_xpos": mujoco.mjtObj.mjOBJ_GEOM,
    "geom_xmat": mujoco.mjtObj.mjOBJ_GEOM,
    "site_xpos": mujoco.mjtObj.mjOBJ_SITE,
    "site_xmat": mujoco.mjtObj.mjOBJ_SITE,
    "qpos": mujoco.mjtObj.mjOBJ_JOINT,
    "touch": mujoco.mjtObj.mjOBJ_SENSOR,
}
# C MuJoCo continues after these: from a reset, without control, or without some of the contacts.
_FAULTS = [
    int(getattr(mujoco.mjtWarning, f"mjWARN_{name}"))
    for name in ("CONTACTFULL", "CNSTRFULL", "BADQPOS", "BADQVEL", "BADQACC", "BADCTRL")
]
# Fewer environments are not worth waking a thread for.
_ROWS_PER_THREAD = 4


class Start(NamedTuple):
    """The state after a reset.

    Attributes:
        state: `[state_size]`.
        fixed: What the reset fixed, in the order of `Definition.all_starts`.
        observation: `[39]`.
    """

    state: np.ndarray
    fixed: np.ndarray
    observation: np.ndarray


class Simulator:
    """One task: a control step of all its environments is one call.

    A state is what the simulator itself would save, and where the goal put the one body of the
    scene that differs between goals.
    """

    def __init__(self, name: str, definition: Definition):
        """Loads the task's scene.

        Args:
            name: Meta-World's name of it.
            definition: What is read of the simulation and what a reset fixes.

        Raises:
            ConfigError: A file of the scene is missing.
        """
        mujoco_log.keep_out_of_folder()
        self._name, self._fixed = name, tuple(definition.all_starts)
        self._env = library.make(name)
        self._goals = library.goals(name)
        self._pristine = self._env.model.body_pos.copy()
        self._moved: int | None = None
        self._starts: dict[int, Start] = {}
        self._idle: list[mujoco_batch.Batch] = []
        self._lock = threading.Lock()
        self.model = _with_touch(self._env, definition.all_reads)
        self._columns = [self._column(read) for read in definition.all_reads.values()]
        self._sizes = [getattr(self._env.data, field).size for field in _STATE_FIELDS]
        self.start(0)

    @property
    def state_size(self) -> int:
        """Numbers of a state."""
        return sum(self._sizes) + 3

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest values `[39]` of an observation, to which Meta-World clips it."""
        space = self._env.sawyer_observation_space
        return space.low.copy(), space.high.copy()

    @property
    def seconds_per_step(self) -> float:
        """Simulated time of one control step."""
        return float(self.model.opt.timestep) * SUBSTEPS

    def start(self, goal: int) -> Start:
        """The state after a reset to a goal, which is computed once."""
        with self._lock:
            if goal not in self._starts:
                self._starts[goal] = self._reset(goal)
            return self._starts[goal]

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes one control step in every environment.

        Args:
            states: `[n, state_size]` float64.
            actions: `[n, 4]` float32.

        Returns:
            The next states and what is read of them, in the order of `Definition.all_reads`; NaN
            where the physics broke down.
        """
        n, env = len(states), self._env
        with self._batch(n) as batch:
            self._put(batch, states)
            # The product is in single precision, as in Meta-World.
            by = np.clip(actions[:, :3], -1.0, 1.0) * np.float32(env.action_scale)
            hand = np.clip(batch.mocap_pos[:n, 0] + by, env.mocap_low, env.mocap_high)
            batch.mocap_pos[:n, 0] = hand
            batch.mocap_quat[:n, 0] = _MOCAP_QUAT
            batch.ctrl[:n] = np.stack([actions[:, 3], -actions[:, 3]], axis=1)
            batch.warning[:n] = 0
            # Environments in which it raises are as they were, and faulty.
            with contextlib.suppress(mujoco_batch.SimulationError):
                batch.step(np.arange(n), nstep=SUBSTEPS, stage=_STAGE)
            after = states.copy()
            after[:, :-3] = np.concatenate(
                [getattr(batch, field)[:n].reshape(n, -1) for field in _STATE_FIELDS], axis=1
            )
            return after, self._read(batch, n)

    def drawn_model(self) -> mujoco.MjModel:
        """A model of the scene to draw."""
        return copy.copy(self.model)

    def place(
        self, model: mujoco.MjModel, data: mujoco.MjData, state: np.ndarray, target: np.ndarray
    ) -> None:
        """Puts a state into `data` of a model to draw, and the goal's marker to its place `[3]`."""
        start = 0
        for field, size in zip(_STATE_FIELDS, self._sizes, strict=True):
            getattr(data, field).flat = state[start : start + size]
            start += size
        data.mocap_quat[0] = _MOCAP_QUAT
        model.body_pos[:] = self._pristine
        if self._moved is not None:
            model.body_pos[self._moved] = state[-3:]
        mujoco.mj_forward(model, data)
        for name, _ in self._env._target_site_config[:1]:
            data.site(name).xpos = target

    def _reset(self, goal: int) -> Start:
        env = self._env
        library.set_goal(env, self._name, self._goals[goal])
        # What the goal before left there is no part of this one's start.
        env.model.body_pos[:] = self._pristine
        observation, _ = env.reset()
        moved = np.flatnonzero(np.any(env.model.body_pos != self._pristine, axis=1)).tolist()
        if self._moved is None and len(moved) == 1:
            self._moved = moved[0]
        if moved not in ([], [self._moved]):
            raise RuntimeError(f"metaworld/{self._name}: a goal moves several bodies: {moved}")
        place = np.zeros(3) if self._moved is None else env.model.body_pos[self._moved]
        parts = [getattr(env.data, field).ravel() for field in _STATE_FIELDS]
        fixed = [np.ravel(getattr(env, key)) for key in self._fixed]
        return Start(
            np.concatenate([*parts, place]),
            np.concatenate(fixed).astype(np.float64),
            np.asarray(observation),
        )

    @contextlib.contextmanager
    def _batch(self, n: int) -> Iterator[mujoco_batch.Batch]:
        """A batch of at least `n` environments, which serves one thread at a time.

        With one device there is one, grown to the largest number: each holds a copy of the model.
        """
        with self._lock:
            batch = self._idle.pop() if self._idle else None
        if batch is None or batch.nsim < n:
            batch = self._new_batch(n)
        yield batch
        with self._lock:
            self._idle.append(batch)

    def _new_batch(self, n: int) -> mujoco_batch.Batch:
        threads = min(len(os.sched_getaffinity(0)), max(1, n // _ROWS_PER_THREAD))
        batch = mujoco_batch.Batch(self.model, nsim=n, nthread=threads)
        batch.expand("body_pos")[:] = self._pristine
        # What is bound only after a step is not there until the next.
        for field, _, _ in self._columns:
            batch.bind(field)
        return batch

    def _put(self, batch: mujoco_batch.Batch, states: np.ndarray) -> None:
        n, start = len(states), 0
        for field, size in zip(_STATE_FIELDS, self._sizes, strict=True):
            rows = getattr(batch, field)
            rows[:n] = states[:, start : start + size].reshape(n, *rows.shape[1:])
            start += size
        if self._moved is not None:
            batch.expand("body_pos")[:n, self._moved] = states[:, -3:]

    def _read(self, batch: mujoco_batch.Batch, n: int) -> np.ndarray:
        found = np.concatenate(
            [
                getattr(batch, field)[:n, index].reshape(n, size)
                for field, index, size in self._columns
            ],
            axis=1,
        )
        faulty = batch.warning[:n, _FAULTS, 1].any(axis=1) | (batch.status[:n] != 0)
        found[faulty] = np.nan
        return found

    def _column(self, read: Read) -> tuple[str, int, int]:
        """Where numbers are: field of the batch, index in it and size."""
        index = mujoco.mj_name2id(self.model, _OBJECTS[read.field], read.name)
        if index < 0:
            raise RuntimeError(f"metaworld/{self._name}: the scene has no {read}")
        if read.field == "qpos":
            return "qpos", int(self.model.jnt_qposadr[index]), 1
        if read.field == "touch":
            return "sensordata", int(self.model.sensor_adr[index]), 1
        return read.field, index, read.size


def _with_touch(env: Any, reads: Mapping[str, Read]) -> mujoco.MjModel:
    """The environment's model, with a sensor for each geom whose force on the object is read."""
    pads = [read.name for read in reads.values() if read.field == "touch"]
    if not pads:
        return env.model
    spec = mujoco.MjSpec.from_file(env.model_name)
    for pad in pads:
        spec.add_sensor(
            name=pad,
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_GEOM,
            objname=pad,
            reftype=mujoco.mjtObj.mjOBJ_GEOM,
            refname="objGeom",
            # The force of the strongest contact; its first number is along the normal.
            intprm=(1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE), 2, 1),
        )
    model = spec.compile()
    model.eq_data[:] = env.model.eq_data
    return model
