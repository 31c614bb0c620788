"""The terms that rewards of Meta-World tasks are made of.

Source: Meta-World 3.1.1 (https://github.com/Farama-Foundation/Metaworld, MIT), `reward_utils.py`
and `sawyer_xyz_env.py`. MTCWorldMJX 0.4.0 (https://pypi.org/project/mtcworldmjx, Apache-2.0) has
the rewards in JAX too, for MuJoCo Warp.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from m3po_jax.envs.metaworld.scene import Scene

Shape = Literal["long_tail", "gaussian"]

# The value of `tolerance` at the margin is 0.1.
_LONG_TAIL = math.sqrt(1.0 / 0.1 - 1.0)
_GAUSSIAN = math.sqrt(-2.0 * math.log(0.1))
# Between the pads lies the object where they are this near, in metres.
_PAD_RADIUS = 0.05


def distance(one: jax.Array, other: jax.Array, scale: tuple[float, ...] | None = None) -> jax.Array:
    """Euclidean distance `[]`, with each dimension scaled."""
    difference = one - other
    return jnp.linalg.norm(difference if scale is None else difference * jnp.asarray(scale))


def tolerance(
    x: jax.Array,
    bounds: tuple[float, float],
    margin: jax.Array | float,
    shape: Shape = "long_tail",
) -> jax.Array:
    """1 inside the bounds, 0.1 at the margin beyond them, falling further on.

    Args:
        x: `[]`.
        bounds: Lowest and highest `x` that counts as inside.
        margin: Distance from the bounds at which the value is 0.1; with 0 it is 0 outside.
        shape: How it falls.
    """
    lower, upper = bounds
    inside = (lower <= x) & (x <= upper)
    margin = jnp.asarray(margin, x.dtype)
    far = jnp.where(x < lower, lower - x, x - upper) / jnp.where(margin == 0.0, 1.0, margin)
    if shape == "long_tail":
        value = 1.0 / ((far * _LONG_TAIL) ** 2 + 1.0)
    else:
        value = jnp.exp(-0.5 * (far * _GAUSSIAN) ** 2)
    return jnp.where(inside, 1.0, jnp.where(margin == 0.0, 0.0, value))


def near(
    x: jax.Array,
    radius: float,
    margin: jax.Array | float,
    shape: Shape = "long_tail",
) -> jax.Array:
    """`tolerance` of a distance that counts as none up to `radius`."""
    return tolerance(x, (0.0, radius), margin, shape)


def both(a: jax.Array, b: jax.Array | float) -> jax.Array:
    """The Hamacher product of two numbers in [0, 1]: near 1 where both are."""
    b = jnp.asarray(b, a.dtype)
    denominator = a + b - a * b
    positive = denominator > 0.0
    return jnp.where(positive, a * b / jnp.where(positive, denominator, 1.0), 0.0)


def prism(x: jax.Array, zero: jax.Array, one: jax.Array) -> jax.Array:
    """Outside a box 1, inside it from 0 at one corner to 1 at the opposite one.

    Args:
        x: `[3]`.
        zero: Corner with value 0.
        one: Corner with value 1.
    """
    inside = jnp.all((jnp.minimum(zero, one) <= x) & (x <= jnp.maximum(zero, one)))
    return jnp.where(inside, jnp.prod((x - zero) / (one - zero)), 1.0)


def caging(
    scene: Scene,
    obj: jax.Array,
    *,
    radius: float,
    pads: float,
    xz: float,
    effort: float = 1.0,
    density: Literal["high", "medium", "low"] = "high",
    reach: float = 0.01,
    obj_init: jax.Array | None = None,
) -> jax.Array:
    """Reward for having the object between the fingers and closing them.

    Args:
        scene: The scene.
        obj: Position of the object.
        radius: Of the object.
        pads: Distance of a pad to the object, sideways, that is near enough.
        xz: Distance of the fingers' centre to the object in x and z that is near enough.
        effort: How much closing is enough.
        density: `high` adds the caging itself, `medium` the distance to the object.
        reach: Distance to the object that is near enough, of density `medium`.
        obj_init: Where the object was, if not `scene.obj_init`.
    """
    start = scene.obj_init if obj_init is None else obj_init
    sides = []
    for pad in (scene.now["left pad"], scene.now["right pad"]):
        margin = jnp.abs(jnp.abs(pad[1] - start[1]) - pads)
        sides.append(tolerance(jnp.abs(pad[1] - obj[1]), (radius, pads), margin))
    tcp, tcp_init = scene.tcp, scene.tcp_init
    margin_xz = distance(start[::2], tcp_init[::2]) - xz
    caged = both(both(*sides), near(distance(tcp[::2], obj[::2]), xz, margin_xz))
    closed = jnp.clip(scene.action[3], 0.0, effort) / effort
    grasped = both(caged, jnp.where(caged > 0.97, closed, 0.0))
    if density == "high":
        return (grasped + caged) / 2.0
    if density == "low":
        return grasped
    margin = jnp.abs(distance(start, tcp_init) - reach)
    return (grasped + near(distance(obj, tcp), reach, margin)) / 2.0


def pinching(
    scene: Scene, obj: jax.Array, *, radius: float, xz: float, grip: float | None = None
) -> jax.Array:
    """The form of `caging` that five tasks have of their own.

    Its margins move with the pads: Meta-World means where these were at the start, but holds a view
    of where they are.

    Args:
        scene: The scene.
        obj: Position of the object.
        radius: Of the object.
        xz: As in `caging`.
        grip: How far beyond the radius a pad may be and still grips. Where not given, closing the
            gripper counts in its place.
    """
    start, tcp_init = scene.obj_init, scene.tcp_init
    gaps = (obj[1] - scene.now["right pad"][1], scene.now["left pad"][1] - obj[1])
    margins = [jnp.abs(jnp.abs(gap) - _PAD_RADIUS) for gap in gaps]

    def sides(reach: float) -> jax.Array:
        right, left = (tolerance(g, (radius, reach), m) for g, m in zip(gaps, margins, strict=True))
        return both(right, left)

    margin_xz = distance(start[::2], tcp_init[::2]) - xz
    caged = both(sides(_PAD_RADIUS), near(distance(scene.tcp[::2], obj[::2]), xz, margin_xz))
    if grip is None:
        grasped = both(caged, jnp.where(caged > 0.97, scene.closing, 0.0))
    else:
        grasped = jnp.where(caged > 0.95, sides(radius + grip), 0.0)
    return (caged + grasped) / 2.0
