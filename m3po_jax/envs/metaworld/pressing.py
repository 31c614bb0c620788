"""Meta-World's tasks of buttons and handles."""

import jax
import jax.numpy as jnp

from m3po_jax.envs.metaworld.rewards import both, caging, distance, near
from m3po_jax.envs.metaworld.scene import Definition, Read, Scene, Thing

Outcome = tuple[jax.Array, jax.Array]

# Where the button's end lies from its body.
_TOP = Thing(Read("xpos", "button"), Read("xquat", "button"), (0.0, 0.0, 0.193))
_FRONT = Thing(Read("xpos", "button"), Read("xquat", "button"), (0.0, -0.193, 0.0))
_BUTTON_STARTS = {"_obj_to_target_init": 1}


def _pressed(scene: Scene, axis: int) -> tuple[jax.Array, jax.Array]:
    """How far the button is from its end, and the reward for that."""
    left = jnp.abs(scene.target[axis] - scene.obj[axis])
    return left, near(left, 0.005, scene.start["_obj_to_target_init"])


def _reaching(scene: Scene, radius: float) -> tuple[jax.Array, jax.Array]:
    """Distance of the fingers to the button, and the reward for that."""
    away = distance(scene.obj, scene.tcp)
    return away, near(away, radius, distance(scene.obj, scene.tcp_init))


def _button_press(scene: Scene) -> Outcome:
    left, pressed = _pressed(scene, 1)
    away, reached = _reaching(scene, 0.05)
    reward = 2.0 * both(jnp.maximum(scene.opening, 0.0), reached)
    return reward + jnp.where(away <= 0.05, 8.0 * pressed, 0.0), left <= 0.02


def _button_press_wall(scene: Scene) -> Outcome:
    left, pressed = _pressed(scene, 1)
    away, reached = _reaching(scene, 0.01)
    before = 2.0 * both((1.0 - scene.opening) / 2.0, reached)
    after = 2.0 + 2.0 * (1.0 + scene.opening) + 4.0 * pressed**2
    return jnp.where(away > 0.07, before, after), left <= 0.03


def _button_press_topdown(scene: Scene) -> Outcome:
    return _topdown(scene, 1.0 - scene.opening)


def _button_press_topdown_wall(scene: Scene) -> Outcome:
    return _topdown(scene, jnp.maximum(scene.opening, 0.0))


def _topdown(scene: Scene, gripper: jax.Array) -> Outcome:
    left, pressed = _pressed(scene, 2)
    away, reached = _reaching(scene, 0.01)
    reward = 5.0 * both(gripper, reached) + jnp.where(away <= 0.03, 5.0 * pressed, 0.0)
    return reward, left <= 0.024


def _coffee_button(scene: Scene) -> Outcome:
    left = jnp.abs(scene.target[1] - scene.obj[1])
    away, reached = _reaching(scene, 0.05)
    reward = 2.0 * both(jnp.maximum(scene.opening, 0.0), reached)
    return reward + jnp.where(away <= 0.05, 8.0 * near(left, 0.005, 0.03), 0.0), left <= 0.02


def _handle_press(scene: Scene) -> Outcome:
    # Without the clipping of the observation.
    handle, radius = scene.now["position 0"], 0.02
    start = scene.start["_handle_init_pos"]
    left = jnp.abs(handle[2] - scene.target[2])
    left_init = jnp.abs(start[2] - scene.target[2])
    pressed = near(left, radius, jnp.abs(left_init - radius))
    margin = jnp.abs(distance(start, scene.tcp_init) - radius)
    reached = near(distance(handle, scene.tcp), radius, margin)
    done = left <= radius
    return 10.0 * jnp.where(done, 1.0, both(reached, pressed)), done


def _lifted_handle(
    scene: Scene, grasped: jax.Array, in_place: jax.Array, height: jax.Array
) -> jax.Array:
    away = distance(scene.obj, scene.tcp)
    lifting = (away < 0.035) & (scene.opening > 0.0) & (height - 0.01 > scene.obj_init[2])
    return both(grasped, in_place) + jnp.where(lifting, 1.0 + 5.0 * in_place, 0.0)


def _handle_pull(scene: Scene) -> Outcome:
    left = jnp.abs(scene.target[2] - scene.obj[2])
    in_place = near(left, 0.05, jnp.abs(scene.target[2] - scene.obj_init[2]))
    grasped = caging(scene, scene.obj, pads=0.05, radius=0.022, xz=0.01)
    # Meta-World compares y with a height here.
    reward = _lifted_handle(scene, grasped, in_place, scene.obj[1])
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.05


def _handle_pull_side(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target))
    grasped = caging(scene, scene.obj, pads=0.06, radius=0.032, xz=0.01)
    reward = _lifted_handle(scene, grasped, in_place, scene.obj[2])
    return jnp.where(left < 0.05, 10.0, reward), left <= 0.08


def _handle(site: str) -> tuple[Thing]:
    return (Thing(Read("site_xpos", site)),)


_HANDLE_STARTS = {"_handle_init_pos": 3}
TASKS = {
    "button-press-v3": Definition((_FRONT,), _button_press, starts=_BUTTON_STARTS),
    "button-press-wall-v3": Definition((_FRONT,), _button_press_wall, starts=_BUTTON_STARTS),
    "button-press-topdown-v3": Definition((_TOP,), _button_press_topdown, starts=_BUTTON_STARTS),
    "button-press-topdown-wall-v3": Definition(
        (_TOP,), _button_press_topdown_wall, starts=_BUTTON_STARTS
    ),
    "coffee-button-v3": Definition(
        (Thing(Read("site_xpos", "buttonStart"), (1.0, 0.0, 0.0, 0.0)),), _coffee_button
    ),
    "handle-press-v3": Definition(_handle("handleStart"), _handle_press, starts=_HANDLE_STARTS),
    "handle-press-side-v3": Definition(
        _handle("handleStart"), _handle_press, starts=_HANDLE_STARTS
    ),
    "handle-pull-v3": Definition(_handle("handleRight"), _handle_pull),
    "handle-pull-side-v3": Definition(_handle("handleCenter"), _handle_pull_side),
}
