"""Meta-World's tasks of picking up and placing."""

import jax
import jax.numpy as jnp

from m3po_jax.envs.metaworld.moving import BODY, GEOM
from m3po_jax.envs.metaworld.opening import floor_above
from m3po_jax.envs.metaworld.rewards import both, caging, distance, near, pinching
from m3po_jax.envs.metaworld.scene import Definition, Read, Scene, Thing

Outcome = tuple[jax.Array, jax.Array]

_BODY = Thing(Read("xpos", "obj"), Read("xquat", "obj"))


def _held(scene: Scene, within: float, lift: float = 0.01) -> jax.Array:
    """Whether the object is between the fingers and off the table."""
    close = distance(scene.obj, scene.tcp) < within
    return close & (scene.opening > 0.0) & (scene.obj[2] - lift > scene.obj_init[2])


def _pick_place(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    grasped = pinching(scene, scene.obj, radius=0.015, xz=0.005)
    reward = both(grasped, in_place) + jnp.where(_held(scene, 0.02), 1.0 + 5.0 * in_place, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.07


def _pick_place_wall(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    over = scene.target.at[1].set(0.77).at[2].set(0.25)
    scale = (1.0, 1.0, 3.0)
    part_way = near(distance(scene.obj, over, scale), 0.05, distance(scene.obj_init, over, scale))
    grasped = caging(scene, scene.obj, radius=0.015, pads=0.05, xz=0.005, density="low")
    passed = scene.obj[1] > 0.75
    more = jnp.where(passed, 5.0 + 3.0 * in_place, 1.0 + 4.0 * part_way)
    reward = both(grasped, part_way) + jnp.where(_held(scene, 0.02, 0.015), more, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.07


def _pick_out_of_hole(scene: Scene) -> Outcome:
    left, away = distance(scene.obj, scene.target), distance(scene.obj, scene.tcp)
    floor = floor_above(distance(scene.tcp[:2], scene.obj_init[:2]), 0.03, 0.015, 0.15)
    below = near(jnp.maximum(floor - scene.tcp[2], 0.0), 0.01, 0.02)
    above = jnp.where(scene.tcp[2] >= floor, 1.0, below)
    grasped = caging(scene, scene.obj, radius=0.015, pads=0.02, xz=0.03, effort=0.1)
    in_place = near(left, 0.02, distance(scene.obj_init, scene.target))
    lifted = scene.obj[2] - 0.02 > scene.obj_init[2]
    held = (away < 0.04) & lifted & (scene.opening >= 0.33)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 5.0 * both(in_place, above), 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.07


def _bin_picking(scene: Scene) -> Outcome:
    left = _bin_left(scene)
    in_place = near(left, 0.05, scene.remembered)
    hand = scene.hand
    floors = [
        floor_above(distance(hand[:2], place[:2]), 0.03, 0.02, 0.2)
        for place in (scene.obj_init, scene.target)
    ]
    floor = jnp.minimum(*floors)
    below = near(jnp.maximum(floor - hand[2], 0.0), 0.01, 0.05)
    above = jnp.where(hand[2] >= floor, 1.0, below)
    grasped = caging(scene, scene.obj, radius=0.015, pads=0.05, xz=0.01, effort=0.7)
    lifted = scene.obj[2] - 0.02 > scene.obj_init[2]
    held = (distance(scene.obj, hand) < 0.04) & lifted & (scene.opening >= 0.43)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 5.0 * both(above, in_place), 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.05


def _bin_left(scene: Scene) -> jax.Array:
    return distance(scene.obj, scene.target)


def _basketball(scene: Scene) -> Outcome:
    target = scene.now["goal"].at[2].set(0.3)
    scale = (1.0, 1.0, 2.0)
    left = distance(scene.obj, target, scale)
    in_place = near(left, 0.08, distance(scene.obj_init, target, scale))
    held = _held(scene, 0.035)
    grasped = caging(scene, scene.obj, radius=0.025, pads=0.06, xz=0.005)
    grasped = jnp.where(held, 1.0, grasped)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 5.0 * in_place, 0.0)
    return jnp.where(left < 0.08, 10.0, reward), left <= 0.08


def _hand_insert(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    grasped = caging(scene, scene.obj, radius=0.015, pads=0.05, xz=0.005)
    held = (distance(scene.obj, scene.tcp) < 0.02) & (scene.opening > 0.0)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 7.0 * in_place, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.05


def _shelf_place(scene: Scene) -> Outcome:
    obj, target, deep, high = scene.obj, scene.target, 0.15, 0.24
    left = distance(obj, target)
    in_place = near(left, 0.05, distance(scene.obj_init, target))
    grasped = caging(scene, obj, radius=0.02, pads=0.05, xz=0.01, density="low")
    reward = both(grasped, in_place)
    below = (obj[2] > 0.0) & (obj[2] < high) & (jnp.abs(obj[0] - target[0]) < 0.15)
    before = below & (target[1] - deep < obj[1]) & (obj[1] < target[1])
    loss = both((obj[1] - (target[1] - deep)) / deep, (high - obj[2]) / high)
    in_place = jnp.where(before, jnp.clip(in_place - loss, 0.0, 1.0), in_place)
    in_place = jnp.where(below & (obj[1] > target[1]), 0.0, in_place)
    reward = reward + jnp.where(_held(scene, 0.025), 1.0 + 5.0 * in_place, 0.0)
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.07


def _box_close(scene: Scene) -> Outcome:
    effort = (jnp.clip(scene.action[3], -1.0, 1.0) + 1.0) / 2.0
    ideal = jnp.asarray((0.707, 0.0, 0.0, 0.707))
    straight = jnp.maximum(1.0 - distance(scene.obj_quat, ideal) / 0.2, 0.0)
    hand, lid = scene.hand, scene.obj + jnp.asarray((0.0, 0.0, 0.02))
    floor = floor_above(distance(hand[:2], lid[:2]), 0.02, 0.04, 0.4)
    above = jnp.where(hand[2] >= floor, 1.0, near(floor - hand[2], 0.01, floor / 2.0))
    ready = both(above, near(distance(hand, lid), 0.02, 0.5))
    left = distance(scene.target, lid, (1.0, 1.0, 3.0))
    lifted = jnp.where(lid[2] > 0.04, 0.2, 0.0) + 0.8 * near(left, 0.05, 0.25)
    done = distance(scene.obj, scene.target) < 0.08
    reward = jnp.where(done, 10.0, 2.0 * both(effort, ready) + 8.0 * lifted)
    return reward * straight, done


_BALL = Thing(Read("xpos", "bsktball"), Read("xquat", "bsktball"))
TASKS = {
    "pick-place-v3": Definition((BODY,), _pick_place),
    "pick-place-wall-v3": Definition((GEOM,), _pick_place_wall),
    "pick-out-of-hole-v3": Definition((_BODY,), _pick_out_of_hole),
    "bin-picking-v3": Definition((_BODY,), _bin_picking, remember=_bin_left),
    "basketball-v3": Definition(
        (_BALL,), _basketball, {"goal": Read("site_xpos", "goal")}, goal="goal"
    ),
    "hand-insert-v3": Definition((_BODY,), _hand_insert),
    "shelf-place-v3": Definition((BODY,), _shelf_place),
    "box-close-v3": Definition(
        (Thing(Read("xpos", "top_link"), Read("xquat", "top_link")),), _box_close
    ),
}
