"""Meta-World's tasks of tools: wrench, hammer, peg and stick."""

import jax
import jax.numpy as jnp

from m3po_jax.envs.metaworld.opening import floor_above
from m3po_jax.envs.metaworld.rewards import both, caging, distance, near, prism
from m3po_jax.envs.metaworld.scene import Definition, Read, Scene, Thing

Outcome = tuple[jax.Array, jax.Array]

_UPRIGHT = (0.707, 0.0, 0.0, 0.707)


def _straight(scene: Scene, ideal: tuple[float, ...]) -> jax.Array:
    error = distance(scene.obj_quat, jnp.asarray(ideal))
    return jnp.maximum(1.0 - error / 0.4, 0.0)


def _along_handle(scene: Scene, half_length: float) -> jax.Array:
    """Where the hand may grasp: anywhere along the handle, which lies in x."""
    over = jnp.abs(scene.obj[0] - scene.hand[0]) < half_length
    return scene.obj.at[0].set(jnp.where(over, scene.hand[0], scene.obj[0]))


def _assembly(scene: Scene) -> Outcome:
    nut, target = scene.now["nut"], scene.target
    place = _along_handle(scene, 0.01)
    grabbed = caging(scene, place, radius=0.015, pads=0.02, xz=0.01, density="medium")
    radius = distance(target[:2], nut[:2])
    done = (radius < 0.02) & (target[2] - nut[2] > 0.0)
    threshold = jnp.where(done, 0.02, 0.01)
    height = jnp.where(
        done, floor_above(radius, 0.02, 0.02, 0.2), floor_above(radius, 0.01, 0.02, 0.2)
    )
    left = distance(target.at[2].set(height), nut, (1.0, 1.0, 3.0))
    lifted = (nut[2] > 0.02) | (radius < threshold)
    in_place = jnp.where(lifted, 0.1, 0.0) + 0.9 * near(left, 0.02, 0.4)
    reward = (2.0 * grabbed + 6.0 * in_place) * _straight(scene, _UPRIGHT)
    return jnp.where(done, 10.0, reward), done


def _disassemble(scene: Scene) -> Outcome:
    nut = scene.now["nut"]
    grabbed = caging(scene, _along_handle(scene, 0.01), radius=0.015, pads=0.02, xz=0.01)
    left = distance(scene.target + jnp.asarray((0.0, 0.0, 0.1)), nut)
    in_place = jnp.where(nut[2] > 0.02, 0.1, 0.0) + 0.9 * near(left, 0.02, 0.2)
    reward = (2.0 * grabbed + 6.0 * in_place) * _straight(scene, _UPRIGHT)
    done = scene.obj[2] > scene.target[2]
    return jnp.where(done, 10.0, reward), done


def _hammer(scene: Scene) -> Outcome:
    head = scene.obj + jnp.asarray((0.16, 0.06, 0.0))
    grabbed = caging(scene, _along_handle(scene, 0.07), radius=0.015, pads=0.02, xz=0.01)
    in_place = jnp.where(head[2] > 0.02, 0.1, 0.0) + 0.9 * near(
        distance(scene.target, head), 0.02, 0.2
    )
    straight = _straight(scene, (1.0, 0.0, 0.0, 0.0))
    reward = (2.0 * grabbed + 6.0 * in_place) * straight
    done = scene.now["nail"] > 0.09
    return jnp.where(done & (reward > 5.0), 10.0, reward), done


def _peg_insert(scene: Scene) -> Outcome:
    head, scale = scene.now["head"], (1.0, 2.0, 2.0)
    left = distance(head, scene.target, scale)
    in_place = near(left, 0.07, distance(scene.start["peg_head_pos_init"], scene.target, scale))
    boxes = [prism(head, scene.now[f"low {k}"], scene.now[f"high {k}"]) for k in (1, 2)]
    in_place = both(in_place, both(boxes[1], boxes[0]))
    lifted = scene.obj[2] - 0.01 > scene.obj_init[2]
    held = (distance(scene.obj, scene.tcp) < 0.08) & (scene.opening > 0.0) & lifted
    grasped = caging(scene, scene.obj, radius=0.0075, pads=0.03, xz=0.005)
    grasped = jnp.where(held, 1.0, grasped)
    reward = both(grasped, in_place) + jnp.where(held, 1.0 + 5.0 * in_place, 0.0)
    return jnp.where(left <= 0.07, 10.0, reward), left <= 0.07


def _peg_unplug(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    grasped = 2.0 * caging(scene, scene.obj, radius=0.025, pads=0.05, xz=0.005, effort=0.8)
    pulled = (scene.opening > 0.5) & (scene.obj[0] - scene.obj_init[0] > 0.015)
    held = pulled & (distance(scene.obj, scene.tcp) < 0.035)
    reward = grasped + jnp.where(held, 1.0 + 5.0 * in_place, 0.0)
    return jnp.where(left <= 0.05, 10.0, reward), left <= 0.07


def _stick_pull(scene: Scene) -> Outcome:
    stick, handle, target = scene.obj, scene.second, scene.target
    stick_init, end, aside = scene.start["stick_init_pos"], scene.now["end"], (0.05, 0.0, 0.0)
    box, box_init = handle + jnp.asarray(aside), scene.obj_init + jnp.asarray(aside)
    scale = (1.0, 1.0, 2.0)
    reached = near(distance(stick, box, scale), 0.05, distance(stick_init, box_init, scale))
    pulled = near(distance(stick, target), 0.05, distance(stick_init, target))
    in_place = near(distance(box, target), 0.05, distance(scene.obj_init, target))
    lifted = stick[2] - 0.01 > stick_init[2]
    held = (distance(stick, scene.tcp) < 0.02) & (scene.opening > 0.0) & lifted
    grasped = caging(scene, stick, radius=0.014, pads=0.05, xz=0.01)
    reward = both(jnp.where(held, 1.0, grasped), reached)
    beside = (jnp.abs(end[1] - handle[1]) <= 0.04) & (jnp.abs(end[2] - handle[2]) <= 0.06)
    inserted = (end[0] >= handle[0]) & beside
    arrived = distance(handle, target) <= 0.12
    more = jnp.where(inserted, 6.0 + 2.0 * pulled + in_place, 1.0 + 5.0 * reached)
    more = jnp.where(held, reward + more, reward)
    return jnp.where(held & inserted & arrived, 10.0, more), arrived & inserted


def _stick_push(scene: Scene) -> Outcome:
    radius, target, stick_init = 0.12, scene.target, scene.start["stick_init_pos"]
    stick, box = scene.obj + jnp.asarray((0.015, 0.0, 0.0)), scene.second
    stick_margin = distance(stick_init, target) - radius
    stick_in_place = near(distance(stick, target), radius, stick_margin)
    left = distance(box, target)
    in_place = near(left, radius, distance(scene.obj_init, target) - radius)
    grasped = caging(scene, stick, radius=0.04, pads=0.05, xz=0.01, obj_init=stick_init)
    opened, lifted = scene.opening > 0.0, stick[2] - 0.01 > stick_init[2]
    held = (distance(stick, scene.tcp) < 0.02) & opened & lifted
    more = jnp.where(left <= radius, 10.0, 2.0 + 5.0 * stick_in_place + 3.0 * in_place)
    touched = (scene.now["left force"] > 0.0) & (scene.now["right force"] > 0.0)
    return jnp.where(held, more, grasped), touched & opened & lifted & (left <= radius)


_NUT = {"nut": Read("site_xpos", "RoundNut")}
_WRENCH = (Thing(Read("site_xpos", "RoundNut-8"), Read("xquat", "RoundNut")),)
_BOXES = {
    name: Read("site_xpos", f"{corner}_corner_collision_box_{k}")
    for k in (1, 2)
    for name, corner in ((f"low {k}", "bottom_right"), (f"high {k}", "top_left"))
}
_STICK = Thing(Read("xpos", "stick"), Read("xmat", "stick"))
_STICK_STARTS = {"stick_init_pos": 3}
TASKS = {
    "assembly-v3": Definition(_WRENCH, _assembly, _NUT),
    "disassemble-v3": Definition(_WRENCH, _disassemble, _NUT),
    "hammer-v3": Definition(
        (
            Thing(Read("xpos", "hammer"), Read("xquat", "hammer")),
            Thing(Read("xpos", "nail_link"), Read("xquat", "nail_link")),
        ),
        _hammer,
        {"nail": Read("qpos", "NailSlideJoint")},
    ),
    "peg-insert-side-v3": Definition(
        (Thing(Read("site_xpos", "pegGrasp"), Read("site_xmat", "pegGrasp")),),
        _peg_insert,
        {"head": Read("site_xpos", "pegHead"), **_BOXES},
        {"peg_head_pos_init": 3},
    ),
    "peg-unplug-side-v3": Definition(
        (Thing(Read("site_xpos", "pegEnd"), Read("xquat", "plug1")),), _peg_unplug
    ),
    "stick-pull-v3": Definition(
        (_STICK, Thing(Read("site_xpos", "insertion"))),
        _stick_pull,
        {"end": Read("site_xpos", "stick_end")},
        _STICK_STARTS,
    ),
    "stick-push-v3": Definition(
        (_STICK, Thing(Read("site_xpos", "insertion"), None, (0.0, 0.09, 0.0))),
        _stick_push,
        {
            "left force": Read("touch", "leftpad_geom"),
            "right force": Read("touch", "rightpad_geom"),
        },
        _STICK_STARTS,
    ),
}
