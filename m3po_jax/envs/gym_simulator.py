"""Gymnasium environments as pure functions of snapshots; imports no JAX.

A snapshot holds the numbers among the attributes of the environment and of its wrappers, its random
generator, and MuJoCo's state where it has one. Whether that is all is found out by a trial.
"""

import dataclasses
import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from m3po_jax.config import ConfigError
from m3po_jax.envs import mujoco_log

# Of an attribute's numbers; larger arrays are taken for constants.
_MOST_NUMBERS = 4096
_GENERATOR = np.dtype([("state", "<u8", 2), ("inc", "<u8", 2), ("has", "<u8"), ("next", "<u8")])


class SnapshotError(ValueError):
    """A snapshot is not all that an environment depends on, or does not fit it."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a snapshot: how it is taken from an environment, and put back."""

    name: str
    take: Callable[[Any], np.ndarray]
    put: Callable[[Any, np.ndarray], None]


class GymSimulator:
    """One environment that goes wherever a snapshot says.

    Attributes:
        task: Name of the task, for messages.
        observation_size: Numbers of an observation.
        action_size: Numbers of an action.
        episode_length: Steps until truncation; None where none are registered.
        words: 32-bit words of a snapshot.
    """

    def __init__(self, task: str, env_id: str):
        """Makes the environment.

        Args:
            task: Name of the task.
            env_id: Gymnasium's, behind the module that registers it, if one is given.

        Raises:
            ConfigError: If it cannot be made, its spaces do not do, or a snapshot of it is not all
                that its next step depends on.
        """
        self.task = task
        mujoco_log.keep_out_of_folder()
        try:
            module, _, name = env_id.rpartition(":")
            if module:
                importlib.import_module(module)
            spec = gymnasium.spec(name)
            # Episodes are cut by the agent, which must tell that from a termination.
            self._env = gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True)
        except Exception as error:  # an environment's module can raise anything
            raise ConfigError(f"{task}: Gymnasium cannot make it: {error}") from error
        self.episode_length = spec.max_episode_steps
        self._low, self._high = self._action_bounds()
        self.action_size = self._low.size
        self.observation_size = self._checked_observation()
        self._layers = list(_layers(self._env))
        self._env.reset(seed=0)
        self._parts = list(self._attributes())
        self._shapes = [part.take(self._layers).shape for part in self._parts]
        self._sizes = [_num_words(part.take(self._layers)) for part in self._parts]
        model = getattr(self._env.unwrapped, "model", None)
        self._digest = np.uint32(zlib.crc32(self._description(model)))
        self.words = 1 + sum(self._sizes)

    def reset(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts an episode; returns its snapshot `[words]` uint32 and observation float32."""
        observation, _ = self._env.reset(seed=seed)
        return self.snapshot(), _flat(observation)

    def step(self, snapshot: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps on from a snapshot.

        Args:
            snapshot: `[words]` uint32.
            action: `[action_size]` in [-1, 1].

        Returns:
            The next snapshot, and float32 observation, reward, termination and truncation behind
            each other; an end by both is a termination.
        """
        self.restore(snapshot)
        space: Any = self._env.action_space
        scaled = self._low + (np.clip(action.astype(float), -1.0, 1.0) + 1.0) * 0.5 * (
            self._high - self._low
        )
        given = np.clip(scaled, self._low, self._high).astype(space.dtype).reshape(space.shape)
        observation, reward, terminated, truncated, _ = self._env.step(given)
        cut = truncated and not terminated
        rest = np.array([float(reward), float(terminated), float(cut)], np.float32)
        return self.snapshot(), np.concatenate([_flat(observation), rest])

    def snapshot(self) -> np.ndarray:
        """The present snapshot `[words]` uint32."""
        out = np.zeros(self.words, np.uint32)
        out[0] = self._digest
        start = 1
        for part, shape, size in zip(self._parts, self._shapes, self._sizes, strict=True):
            value = part.take(self._layers)
            if value.shape != shape or _num_words(value) > size:
                raise SnapshotError(f"{part.name} became {value.dtype}{list(value.shape)}")
            data = value.tobytes()
            # Its type can change, as between a reset and a step.
            out[start] = ord(value.dtype.char)
            row = out[start + 1 : start + size].view(np.uint8)
            row[: len(data)] = np.frombuffer(data, np.uint8)
            start += size
        return out

    def restore(self, snapshot: np.ndarray) -> None:
        """Puts a snapshot back."""
        if snapshot[0] != self._digest:
            raise SnapshotError(
                "the saved state is of another model or other attributes than the environment has "
                "now; install what the run began with, or start anew with --overwrite"
            )
        start = 1
        for part, shape, size in zip(self._parts, self._shapes, self._sizes, strict=True):
            char = chr(snapshot[start])
            dtype = _GENERATOR if char == _GENERATOR.char else np.dtype(char)
            data = snapshot[start + 1 : start + size].tobytes()
            number = int(np.prod(shape, dtype=int))
            part.put(self._layers, np.frombuffer(data, dtype, number).reshape(shape).copy())
            start += size

    def _description(self, model: Any) -> bytes:
        text = repr([(part.name, s) for part, s in zip(self._parts, self._shapes, strict=True)])
        return (text + self._env.unwrapped.__class__.__name__).encode() + _model_bytes(model)

    def _action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise ConfigError(
                f"{self.task}: its actions are {space}, and the agent's are continuous; choose an "
                "environment with a Box of actions"
            )
        if not space.is_bounded():
            raise ConfigError(
                f"{self.task}: its actions have no bounds to scale them by ({space}); wrap it in "
                "gymnasium.wrappers.RescaleAction with bounds and register that"
            )
        return space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float)

    def _checked_observation(self) -> int:
        space = self._env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ConfigError(
                f"{self.task}: its observation is {space}, and the agent takes one flat array of "
                "numbers, no images; wrap it, as in gymnasium.wrappers.FlattenObservation, and "
                "register that"
            )
        return int(space.shape[0])

    def _attributes(self) -> Iterator[_Part]:
        """The numbers among the attributes of all layers."""
        for depth, layer in enumerate(self._layers):
            for name, value in sorted(vars(layer).items()):
                if isinstance(value, np.random.Generator):
                    yield _generator_part(depth, name)
                elif _is_number(value) or _is_numbers(value):
                    yield _number_part(depth, name, type(value))
        inner = self._env.unwrapped
        if hasattr(inner, "model") and hasattr(inner, "data"):
            yield from _mujoco_parts(len(self._layers) - 1)


def check_round_trip(ours: GymSimulator, other: GymSimulator, *, steps: int) -> None:
    """Refuses an environment whose snapshots are not all that its next step depends on.

    Plays an episode through, and again step by step from the snapshots, out of order, in another
    instance that has come from elsewhere; both must agree in every bit.

    Args:
        ours: The simulator.
        other: Another one of the same environment.
        steps: Length of the episode.

    Raises:
        ConfigError: They differ.
    """
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1.0, 1.0, (steps, ours.action_size)).astype(np.float32)
    try:
        taken, _ = ours.reset(1)
        path = [taken]
        given = []
        for action in actions:
            taken, values = ours.step(taken, action)
            path.append(taken)
            given.append(values)
        elsewhere, _ = other.reset(2)
        for index in generator.permutation(steps):
            other.step(elsewhere, actions[index - 1])
            after, values = other.step(path[index], actions[index])
            if after.tobytes() != path[index + 1].tobytes() or values.tobytes() != (
                given[index].tobytes()
            ):
                raise SnapshotError(f"step {index + 1} of an episode went otherwise after it")
    except SnapshotError as error:
        raise ConfigError(
            f"{ours.task}: its state cannot be taken and put back exactly ({error}); the agent "
            "needs that to save and resume. Keep what changes in numbers or arrays of one shape "
            "that are attributes of the environment"
        ) from error
    except Exception as error:  # an environment can raise anything
        raise ConfigError(
            f"{ours.task}: its first steps raised {type(error).__name__}: {error}"
        ) from error


def _layers(env: Any) -> Iterator[Any]:
    """The wrappers from outside to inside, and the environment."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub" and 0 < value.size <= _MOST_NUMBERS
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= _MOST_NUMBERS
        and all(_is_number(x) for x in value)
    )


def _number_part(depth: int, name: str, kind: type) -> _Part:
    def take(layers: list[Any]) -> np.ndarray:
        return np.asarray(getattr(layers[depth], name))

    def put(layers: list[Any], value: np.ndarray) -> None:
        restored: Any = value
        if kind in (list, tuple):
            restored = kind(value.tolist())
        elif kind is not np.ndarray:
            restored = kind(value[()])
        setattr(layers[depth], name, restored)

    return _Part(name, take, put)


def _generator_part(depth: int, name: str) -> _Part:
    mask = (1 << 64) - 1

    def take(layers: list[Any]) -> np.ndarray:
        state = getattr(layers[depth], name).bit_generator.state
        inner = state["state"]
        numbers = [(inner[key] & mask, inner[key] >> 64) for key in ("state", "inc")]
        return np.array([(*numbers, state["has_uint32"], state["uinteger"])], _GENERATOR)

    def put(layers: list[Any], value: np.ndarray) -> None:
        (row,) = value
        bits = getattr(layers[depth], name).bit_generator
        inner = {key: int(row[key][0]) | int(row[key][1]) << 64 for key in ("state", "inc")}
        bits.state = {
            **bits.state,
            "state": inner,
            "has_uint32": int(row["has"]),
            "uinteger": int(row["next"]),
        }

    return _Part(name, take, put)


def _mujoco_parts(depth: int) -> Iterator[_Part]:
    """MuJoCo's state, and the fields that environments read before they step on."""
    import mujoco

    spec = mujoco.mjtState.mjSTATE_INTEGRATION

    def take(layers: list[Any]) -> np.ndarray:
        inner = layers[depth]
        state = np.empty(mujoco.mj_stateSize(inner.model, spec))
        mujoco.mj_getState(inner.model, inner.data, state, spec)
        return state

    def put(layers: list[Any], value: np.ndarray) -> None:
        mujoco.mj_setState(layers[depth].model, layers[depth].data, value, spec)

    yield _Part("MuJoCo's state", take, put)
    for name in (
        "xpos",
        "xmat",
        "xipos",
        "site_xpos",
        "geom_xpos",
        "cfrc_ext",
        "cinert",
        "cvel",
        "qfrc_actuator",
        "sensordata",
        "subtree_com",
    ):
        yield _field_part(depth, name)


def _field_part(depth: int, name: str) -> _Part:
    def take(layers: list[Any]) -> np.ndarray:
        return np.array(getattr(layers[depth].data, name))

    def put(layers: list[Any], value: np.ndarray) -> None:
        getattr(layers[depth].data, name)[:] = value

    return _Part(f"data.{name}", take, put)


def _model_bytes(model: Any) -> bytes:
    import mujoco

    if not isinstance(model, mujoco.MjModel):
        return b""
    data = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, data)
    return data.tobytes()


def _num_words(value: np.ndarray) -> int:
    """Words of a part: the letter of its type, and room for the widest one of each number."""
    return 1 + value.size * max(8, value.dtype.itemsize) // 4


def _flat(observation: Any) -> np.ndarray:
    return np.asarray(observation, np.float32).reshape(-1)
