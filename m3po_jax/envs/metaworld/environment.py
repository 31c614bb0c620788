"""Meta-World's tasks as `Environment`."""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from m3po_jax.envs import base, host, physics
from m3po_jax.envs.metaworld import library, scene
from m3po_jax.envs.metaworld.definitions import DEFINITIONS
from m3po_jax.envs.metaworld.simulator import SUBSTEPS, Simulator

_OBSERVATION, _ACTION = 39, 4
# Of Meta-World's cameras the one that looks at the hand from the front.
_CAMERA = "corner2"


@flax.struct.dataclass
class _Physics:
    """What a step needs; double precision is carried as pairs of words."""

    state: jax.Array  # [2 * state_size] uint32
    fixed: jax.Array  # uint32, what the reset fixed
    remembered: jax.Array  # [2] uint32, NaN until the first step; see `Definition.remember`
    frame: jax.Array  # [18] float32, the last frame of the observation


class MetaWorldEnvironment:
    """One task; each episode has one of its 50 goals, which is observed.

    The physics is computed on the host, together with that of all other such tasks. Reward and
    success are those of Meta-World 3.1.1.
    """

    action_size = _ACTION
    observation_size = _OBSERVATION
    episode_length = library.EPISODE_LENGTH
    can_terminate = False

    def __init__(self, name: str):
        """Loads the task.

        Args:
            name: Meta-World's name of it, for example `reach-v3`.

        Raises:
            ConfigError: A file of the scene is missing.
        """
        task, definition = f"metaworld/{name}", DEFINITIONS[name]
        self._definition = definition
        self._simulator = Simulator(name, definition)
        self._limits = self._simulator.limits
        self._reads = {key: read.size for key, read in definition.all_reads.items()}
        state = 2 * self._simulator.state_size
        fixed, reads = (2 * sum(x.values()) for x in (definition.all_starts, self._reads))
        self._sizes = (state, state + fixed)
        self._call_step = host.HostCall(task, state, state + _ACTION, state + reads, self._run_step)
        self._call_start = host.HostCall(task, 0, 1, state + fixed + _OBSERVATION, self._run_start)
        self.body = host.HostBody(host.mujoco_cost(self._simulator.model.nv, SUBSTEPS))

    def reset(self, key: jax.Array) -> base.GoalState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        goal = jax.random.randint(key, (), 0, library.NUM_GOALS)
        return self.start(goal.astype(jnp.uint32))

    def start(self, goal: jax.Array) -> base.GoalState:
        """Starts an episode with one of the goals.

        Args:
            goal: Its number `[]` uint32.
        """
        words = physics.call(self._call_start, None, goal[None])
        state, fixed, seen = jnp.split(words, self._sizes)
        observation = jax.lax.bitcast_convert_type(seen, jnp.float32)
        nothing = jnp.asarray(np.full(1, np.nan).view(np.uint32))
        zero = jnp.zeros((), jnp.float32)
        return base.GoalState(
            physics=_Physics(state, fixed, nothing, observation[: scene.FRAME]),
            observation=observation,
            reward=zero,
            termination=zero,
            success=zero,
        )

    def step(self, state: base.EnvState, action: jax.Array) -> base.GoalState:
        """Advances by one control step; see `Environment.step`."""
        last: _Physics = state.physics
        control = jax.lax.bitcast_convert_type(jnp.asarray(action, jnp.float32), jnp.uint32)
        words = physics.call(self._call_step, None, jnp.concatenate([last.state, control]))
        new, reads = jnp.split(words, [last.state.size])
        frame, observation, reward, success, remembered = self._judge(last, reads, action)
        return base.GoalState(
            physics=_Physics(new, last.fixed, remembered, frame),
            observation=observation,
            reward=reward,
            termination=jnp.zeros((), jnp.float32),
            success=success,
        )

    @property
    def seconds_per_step(self) -> float:
        """Simulated time of one control step."""
        return self._simulator.seconds_per_step

    def pose(self, state: base.EnvState) -> dict[str, jax.Array]:
        """What a picture of a state needs, as `frames` takes it; traceable."""
        return {"state": state.physics.state, "fixed": state.physics.fixed}

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
        model = self._simulator.drawn_model()
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        data = mujoco.MjData(model)
        with mujoco.Renderer(model, height=height, width=width) as renderer:
            rows = (np.ascontiguousarray(poses[key]) for key in ("state", "fixed"))
            for words, fixed in zip(*rows, strict=True):
                # What comes first of what the reset fixed is the target.
                target = fixed.view(np.float64)[:3]
                self._simulator.place(model, data, words.view(np.float64), target)
                renderer.update_scene(data, camera=_CAMERA)
                # The camera hangs upside down.
                yield renderer.render()[::-1, ::-1]

    def _run_step(self, rows: np.ndarray) -> np.ndarray:
        size = self._sizes[0]
        states = np.ascontiguousarray(rows[:, :size]).view(np.float64)
        actions = np.ascontiguousarray(rows[:, size:]).view(np.float32)
        parts = self._simulator.step(states, actions)
        return np.concatenate([part.view(np.uint32) for part in parts], axis=1)

    def _run_start(self, rows: np.ndarray) -> np.ndarray:
        starts = [self._simulator.start(int(goal)) for goal in rows[:, 0]]
        states, fixed, seen = (np.stack(x) for x in zip(*starts, strict=True))
        parts = (states, fixed, seen.astype(np.float32))
        return np.concatenate([part.view(np.uint32) for part in parts], axis=1)

    def _judge(self, last: _Physics, reads: jax.Array, action: jax.Array) -> tuple[Any, ...]:
        """Frame, observation, reward, success and what is remembered, in the state reached.

        It computes in double precision, as Meta-World does: margins can be far smaller than the
        positions that they are differences of, and success is a comparison. Only the arithmetic is
        allowed that needs no constants of its own when it is lowered, which happens outside.
        """
        definition = self._definition
        low, high = self._limits
        with jax.enable_x64(True):
            now = _named(reads, self._reads)
            start = _named(last.fixed, definition.all_starts)
            frame = scene.frame(definition, now)
            goal = now[definition.goal] if definition.goal else start["_target_pos"]
            seen = jnp.concatenate([frame, last.frame.astype(jnp.float64), goal])
            observation = jnp.clip(seen, low, high)
            remembered = _doubles(last.remembered)[0]
            view = scene.Scene(now, start, observation, action.astype(jnp.float64), remembered)
            if definition.remember is not None:
                first = jnp.isnan(remembered)
                remembered = jnp.where(first, definition.remember(view), remembered)
                view = view._replace(remembered=remembered)
            reward, success = definition.evaluate(view)
            found = (frame, observation, reward, success)
            frame, observation, reward, success = (x.astype(jnp.float32) for x in found)
            remembered = jax.lax.bitcast_convert_type(remembered, jnp.uint32)
        # Not every task reads what shows a fault of the physics.
        sound = jnp.all(jnp.isfinite(frame))
        reward = jnp.where(sound, reward, jnp.nan)
        return frame, observation, reward, jnp.where(sound, success, 0.0), remembered


def _doubles(words: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(words.reshape(-1, 2), jnp.float64)


def _named(words: jax.Array, sizes: Mapping[str, int]) -> dict[str, jax.Array]:
    """A row as arrays `[size]`, or `[]` where the size is 1."""
    row, found, start = _doubles(words), {}, 0
    for name, size in sizes.items():
        found[name] = row[start] if size == 1 else row[start : start + size]
        start += size
    return found
