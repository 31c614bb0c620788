"""What the observation, reward and success of a Meta-World task are computed from.

All of it is in double precision, as in Meta-World itself: margins of its rewards shrink to nothing,
where the rounding of single precision would show.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Fields = Mapping[str, jax.Array]
# Numbers of one frame of the observation: the hand, the gripper's opening, two objects.
FRAME = 18
_OBJECTS = 14
_SIZES = {
    "xpos": 3,
    "xquat": 4,
    "xmat": 9,
    "geom_xpos": 3,
    "geom_xmat": 9,
    "site_xpos": 3,
    "site_xmat": 9,
    "qpos": 1,
    "touch": 1,
}


class Read(NamedTuple):
    """Numbers of the simulation that a task reads.

    Attributes:
        field: Array of `mujoco.MjData`, or `touch` for the force of a geom on the main object.
        name: Of the body, geom, site or joint.
    """

    field: str
    name: str

    @property
    def size(self) -> int:
        """How many numbers."""
        return _SIZES[self.field]


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object of the observation.

    Attributes:
        position: Where it is.
        turn: A rotation matrix (passed as x, y, z, w), a quaternion (passed unchanged), numbers
            that replace it, or zeros if not given.
        offset: Added to the position; or a function of all that is read.
    """

    position: Read
    turn: Read | tuple[float, ...] | None = None
    offset: tuple[float, float, float] | Callable[[Fields], jax.Array] | None = None


class Scene(NamedTuple):
    """One state of a task as its reward sees it; all arrays are of one environment.

    Attributes:
        now: What was read of the simulation.
        start: What the reset fixed, by the names of the attributes of Meta-World's environment.
        observation: `[39]`, clipped as Meta-World does.
        action: `[4]`, the one that led here.
        remembered: `[]`, see `Definition.remember`.
    """

    now: Fields
    start: Fields
    observation: jax.Array
    action: jax.Array
    remembered: jax.Array

    @property
    def hand(self) -> jax.Array:
        """Position of the hand, clipped to its space."""
        return self.observation[:3]

    @property
    def opening(self) -> jax.Array:
        """How far the gripper is open, 0 to 1."""
        return self.observation[3]

    @property
    def obj(self) -> jax.Array:
        """Position of the first object."""
        return self.observation[4:7]

    @property
    def obj_quat(self) -> jax.Array:
        """Orientation of the first object as observed."""
        return self.observation[7:11]

    @property
    def second(self) -> jax.Array:
        """Position of the second object."""
        return self.observation[11:14]

    @property
    def tcp(self) -> jax.Array:
        """Centre between the fingers."""
        return tcp(self.now)

    @property
    def target(self) -> jax.Array:
        """The goal's position."""
        return self.start["_target_pos"]

    @property
    def obj_init(self) -> jax.Array:
        """Where the object was."""
        return self.start["obj_init_pos"]

    @property
    def tcp_init(self) -> jax.Array:
        """Where the centre between the fingers was."""
        return self.start["init_tcp"]

    @property
    def closing(self) -> jax.Array:
        """How strongly the action closes the gripper, 0 to 1."""
        return jnp.clip(self.action[3], 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Definition:
    """One task.

    Attributes:
        things: Its objects, one or two.
        evaluate: Reward and success `[]` of a scene.
        reads: What else of the simulation `evaluate` needs, by the names that it uses.
        starts: Attributes of Meta-World's environment that a reset fixes and `evaluate` needs, with
            their sizes, beside those of every task.
        goal: Name in `reads` of the goal's position where it is part of the simulation.
        remember: Number that the first step after a reset fixes.
    """

    things: tuple[Thing, ...]
    evaluate: Callable[[Scene], tuple[jax.Array, jax.Array]]
    reads: Mapping[str, Read] = dataclasses.field(default_factory=dict)
    starts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    goal: str | None = None
    remember: Callable[[Scene], jax.Array] | None = None

    @property
    def all_reads(self) -> dict[str, Read]:
        """All that is read of the simulation, in the order of the numbers of a row."""
        found = {**_EVERY_READ, **self.reads}
        for index, thing in enumerate(self.things):
            found[f"position {index}"] = thing.position
            if isinstance(thing.turn, Read):
                found[f"turn {index}"] = thing.turn
        return found

    @property
    def all_starts(self) -> dict[str, int]:
        """All attributes that a reset fixes, with their sizes, in the order of a row."""
        return {**_EVERY_START, **self.starts}


_EVERY_READ = {
    "hand": Read("xpos", "hand"),
    "right claw": Read("xpos", "rightclaw"),
    "left claw": Read("xpos", "leftclaw"),
    "right pad": Read("xpos", "rightpad"),
    "left pad": Read("xpos", "leftpad"),
    "right finger": Read("site_xpos", "rightEndEffector"),
    "left finger": Read("site_xpos", "leftEndEffector"),
}
_EVERY_START = {"_target_pos": 3, "obj_init_pos": 3, "init_tcp": 3}


def tcp(now: Fields) -> jax.Array:
    """Centre between the fingers `[3]`."""
    return (now["right finger"] + now["left finger"]) / 2.0


def frame(definition: Definition, now: Fields) -> jax.Array:
    """One frame of the observation `[18]`.

    Args:
        definition: The task.
        now: What was read of the simulation.
    """
    apart = jnp.linalg.norm(now["right claw"] - now["left claw"])
    opening = jnp.clip(apart / 0.1, 0.0, 1.0)
    parts = [now["hand"], opening[None]]
    for index, thing in enumerate(definition.things):
        parts += [_position(thing, index, now), _turn(thing, index, now)]
    missing = jnp.zeros(_OBJECTS - 7 * len(definition.things), apart.dtype)
    return jnp.concatenate([*parts, missing])


def _position(thing: Thing, index: int, now: Fields) -> jax.Array:
    position = now[f"position {index}"]
    if thing.offset is None:
        return position
    offset = thing.offset(now) if callable(thing.offset) else jnp.asarray(thing.offset)
    return position + offset


def _turn(thing: Thing, index: int, now: Fields) -> jax.Array:
    if not isinstance(thing.turn, Read):
        return jnp.asarray(thing.turn or (0.0,) * 4)
    turn = now[f"turn {index}"]
    return turn if turn.shape == (4,) else quaternion(turn.reshape(3, 3))


def quaternion(matrix: jax.Array) -> jax.Array:
    """Quaternion `[4]` (x, y, z, w) of a rotation matrix `[3, 3]`, with the signs of SciPy's.

    Source: Markley, "Unit quaternion from rotation matrix", 2008, as in
    `scipy.spatial.transform.Rotation.from_matrix`.
    """
    (a, b, c), (d, e, f), (g, h, i) = ((row[0], row[1], row[2]) for row in matrix)
    trace = a + e + i
    # Each is a multiple of the quaternion; the one that divides by the largest number is exact.
    by_x = jnp.stack([1.0 - trace + 2.0 * a, d + b, g + c, h - f])
    by_y = jnp.stack([d + b, 1.0 - trace + 2.0 * e, h + f, c - g])
    by_z = jnp.stack([g + c, h + f, 1.0 - trace + 2.0 * i, d - b])
    by_w = jnp.stack([h - f, c - g, d - b, 1.0 + trace])
    chosen = jnp.where(i >= trace, by_z, by_w)
    chosen = jnp.where((e >= i) & (e >= trace), by_y, chosen)
    chosen = jnp.where((a >= e) & (a >= i) & (a >= trace), by_x, chosen)
    return chosen / jnp.linalg.norm(chosen)
