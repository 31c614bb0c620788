"""Meta-World's tasks of reaching, pushing, sweeping and sliding."""

import jax
import jax.numpy as jnp

from m3po_jax.envs.metaworld.rewards import both, caging, distance, near, pinching
from m3po_jax.envs.metaworld.scene import Definition, Read, Scene, Thing

Outcome = tuple[jax.Array, jax.Array]

BODY = Thing(Read("xpos", "obj"), Read("geom_xmat", "objGeom"))
GEOM = Thing(Read("geom_xpos", "objGeom"), Read("geom_xmat", "objGeom"))
_MUG = Thing(Read("xpos", "obj"), Read("geom_xmat", "mug"))
_PUCK = Thing(Read("geom_xpos", "puck"), Read("geom_xmat", "puck"))


def _reach(scene: Scene) -> Outcome:
    left = distance(scene.tcp, scene.target)
    margin = distance(scene.start["hand_init_pos"], scene.target)
    return 10.0 * near(left, 0.05, margin), left <= 0.05


def _push(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    reward = 2.0 * caging(scene, scene.obj, radius=0.015, pads=0.05, xz=0.005)
    held = (distance(scene.obj, scene.tcp) < 0.02) & (scene.opening > 0.0)
    reward = reward + jnp.where(held, 1.0 + reward + 5.0 * in_place, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.05


def _push_wall(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    beside = jnp.stack([jnp.full_like(left, -0.05), jnp.full_like(left, 0.77), scene.obj[2]])
    scale = (3.0, 1.0, 1.0)
    part_way = near(
        distance(scene.obj, beside, scale), 0.05, distance(scene.obj_init, beside, scale)
    )
    grasped = 2.0 * caging(scene, scene.obj, radius=0.015, pads=0.05, xz=0.005)
    held = (distance(scene.obj, scene.tcp) < 0.02) & (scene.opening > 0.0)
    passed = scene.obj[1] > 0.75
    more = jnp.where(passed, 5.0 + 3.0 * in_place, 1.0 + 4.0 * part_way)
    reward = grasped + jnp.where(held, more, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.07


def _push_back(scene: Scene) -> Outcome:
    left, left_init = distance(scene.obj, scene.target), distance(scene.obj_init, scene.target)
    in_place = near(left, 0.05, left_init)
    grasped = pinching(scene, scene.obj, radius=0.007, xz=0.01, grip=0.003)
    closed = (scene.opening > 0.0) & (scene.opening < 0.55)
    held = (distance(scene.obj, scene.tcp) < 0.01) & closed & (left_init - left > 0.01)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 5.0 * in_place, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.07


def _mug(scene: Scene) -> Outcome:
    scale = (2.0, 2.0, 1.0)
    scaled = distance(scene.obj, scene.target, scale)
    in_place = near(scaled, 0.05, distance(scene.obj_init, scene.target, scale))
    grasped = caging(
        scene,
        scene.obj,
        radius=0.02,
        pads=0.05,
        xz=0.05,
        effort=0.7,
        density="medium",
        reach=0.04,
    )
    held = (distance(scene.obj, scene.tcp) < 0.04) & (scene.opening > 0.0)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 5.0 * in_place, 0.0)
    done = distance(scene.obj, scene.target) <= 0.07
    return jnp.where(scaled < 0.05, 10.0, reward), done


def _soccer(scene: Scene) -> Outcome:
    scale = (3.0, 1.0, 1.0)
    scaled = distance(scene.obj, scene.target, scale)
    in_place = near(scaled, 0.07, distance(scene.obj, scene.obj_init, scale))
    line = scene.target[1] - 0.1
    missed = (scene.obj[1] > line) & (jnp.abs(scene.obj[0] - scene.target[0]) > 0.1)
    beyond = 2.0 * ((scene.obj[1] - line) / (1.0 - line))
    in_place = jnp.where(missed, jnp.clip(in_place - beyond, 0.0, 1.0), in_place)
    grasped = pinching(scene, scene.obj, radius=0.013, xz=0.005, grip=0.01)
    reward = jnp.where(scaled < 0.07, 10.0, 3.0 * grasped + 6.5 * in_place)
    return reward, distance(scene.obj, scene.target) <= 0.07


def _sweep(scene: Scene) -> Outcome:
    grasped = pinching(scene, scene.obj, radius=0.02, xz=0.005, grip=0.01)
    return _swept(scene, scene.target, grasped)


def _sweep_into(scene: Scene) -> Outcome:
    grasped = pinching(scene, scene.obj, radius=0.02, xz=0.01, grip=0.005)
    return _swept(scene, scene.target.at[2].set(scene.obj[2]), grasped)


def _swept(scene: Scene, target: jax.Array, grasped: jax.Array) -> Outcome:
    left = distance(scene.obj, target)
    in_place = near(left, 0.05, distance(scene.obj_init, target))
    reward = 2.0 * grasped + 6.0 * both(grasped, in_place)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.05


def _plate_slide(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    reached = near(distance(scene.tcp, scene.obj), 0.05, distance(scene.tcp_init, scene.obj_init))
    return jnp.where(left < 0.05, 10.0, 8.0 * both(reached, in_place)), left <= 0.07


def _plate_slide_on(scene: Scene) -> Outcome:
    radius = 0.05
    left, away = distance(scene.obj, scene.target), distance(scene.tcp, scene.obj)
    in_place = near(left, radius, distance(scene.obj_init, scene.target) - radius)
    reached = near(away, radius, distance(scene.tcp_init, scene.obj_init) - radius)
    down = (scene.tcp[2] <= 0.03) & (away < 0.07)
    reward = jnp.where(down, 2.0 + 7.0 * in_place, 1.5 * reached)
    return jnp.where(left < radius, 10.0, reward), left <= 0.07


_REACH = Definition((BODY,), _reach, starts={"hand_init_pos": 3})
TASKS = {
    "reach-v3": _REACH,
    "reach-wall-v3": _REACH,
    "push-v3": Definition((BODY,), _push),
    "push-wall-v3": Definition((GEOM,), _push_wall),
    "push-back-v3": Definition((GEOM,), _push_back),
    "coffee-push-v3": Definition((_MUG,), _mug),
    "coffee-pull-v3": Definition((_MUG,), _mug),
    "soccer-v3": Definition(
        (Thing(Read("xpos", "soccer_ball"), Read("xmat", "soccer_ball")),), _soccer
    ),
    "sweep-v3": Definition((Thing(Read("xpos", "obj"), Read("xquat", "obj")),), _sweep),
    "sweep-into-v3": Definition((BODY,), _sweep_into),
    "plate-slide-v3": Definition((_PUCK,), _plate_slide),
    "plate-slide-side-v3": Definition((_PUCK,), _plate_slide_on),
    "plate-slide-back-v3": Definition((_PUCK,), _plate_slide_on),
    "plate-slide-back-side-v3": Definition((_PUCK,), _plate_slide_on),
}
