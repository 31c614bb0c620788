"""Meta-World's tasks of doors, drawers, windows, faucets, the dial and the lever."""

import math

import jax
import jax.numpy as jnp

from m3po_jax.envs.metaworld.rewards import Shape, both, distance, near
from m3po_jax.envs.metaworld.scene import Definition, Fields, Read, Scene, Thing

Outcome = tuple[jax.Array, jax.Array]

_DOOR = Thing(Read("geom_xpos", "handle"), Read("geom_xmat", "handle"))
# From the hand to the part of the arm that pushes.
_SHOULDER = (0.0, 0.055, 0.07)
_DIAL_PUSH = (0.05, 0.02, 0.09)


def floor_above(radius: jax.Array, threshold: float, slope: float, height: float) -> jax.Array:
    """Lowest good height at a distance: 0 up to the threshold, rising with its logarithm beyond."""
    beyond = radius > threshold
    return jnp.where(
        beyond, slope * jnp.log(jnp.where(beyond, radius - threshold, 1.0)) + height, 0.0
    )


def _door_open(scene: Scene) -> Outcome:
    angle = scene.now["angle"]
    effort = (jnp.clip(scene.action[3], -1.0, 1.0) + 1.0) / 2.0
    handle = scene.obj + jnp.asarray((-0.05, 0.0, 0.0))
    floor = floor_above(distance(scene.hand[:2], handle[:2]), 0.12, 0.04, 0.4)
    below = near(floor - scene.hand[2], 0.01, floor / 2.0)
    above = jnp.where(scene.hand[2] >= floor, 1.0, below)
    away = distance(scene.hand - handle, jnp.asarray((0.05, 0.03, -0.01)))
    ready = both(above, near(away, 0.06, 0.5))
    left = math.pi / 2.0 + math.pi / 6.0 + angle
    opened = jnp.where(angle < -math.pi / 90.0, 0.2, 0.0) + 0.8 * near(left, 0.5, math.pi / 3.0)
    done = jnp.abs(scene.obj[0] - scene.target[0]) <= 0.08
    return jnp.where(done, 10.0, 2.0 * both(ready, effort) + 8.0 * opened), done


def _door_close(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.05, distance(scene.obj_init, scene.target), "gaussian")
    margin = distance(scene.start["hand_init_pos"], scene.obj) + 0.1
    hand = near(distance(scene.tcp, scene.target), 0.0125, margin, "gaussian")
    return jnp.where(left < 0.05, 10.0, 3.0 * hand + 6.0 * in_place), left <= 0.08


def _door_lock(scene: Scene) -> Outcome:
    # The margin moves with the pad: Meta-World means where it was, but holds a view of where it is.
    away = distance(scene.obj, scene.now["left pad"], (0.25, 1.0, 0.5))
    left = jnp.abs(scene.target[2] - scene.obj[2])
    reward = 2.0 * both(jnp.maximum(scene.opening, 0.0), near(away, 0.01, away))
    return reward + 8.0 * near(left, 0.005, 0.1), left <= 0.02


def _door_unlock(scene: Scene) -> Outcome:
    offset, scale = jnp.asarray(_SHOULDER), (0.25, 1.0, 0.5)
    # The same with the lock.
    margin = distance(scene.tcp_init + offset, scene.now["lock"], scale)
    ready = near(distance(scene.hand + offset, scene.obj, scale), 0.02, margin)
    left = jnp.abs(scene.target[0] - scene.obj[0])
    return 2.0 * ready + 8.0 * near(left, 0.005, 0.1), left <= 0.02


def _drawer_open(scene: Scene) -> Outcome:
    left = distance(scene.obj, scene.target)
    scale, longest = (3.0, 3.0, 1.0), 0.2
    closed = scene.target + jnp.asarray((0.0, longest, 0.0))
    margin = distance(closed, scene.tcp_init, scale)
    reached = near(distance(scene.obj, scene.hand, scale), 0.01, margin)
    return 5.0 * (reached + near(left, 0.02, longest)), left <= 0.03


def _drawer_close(scene: Scene) -> Outcome:
    radius = 0.05
    left = distance(scene.obj, scene.target)
    in_place = near(left, radius, jnp.abs(distance(scene.obj_init, scene.target) - radius))
    reached = both(_reach(scene, scene.obj_init, 0.005, "gaussian"), scene.closing)
    done = left <= radius + 0.015
    return 10.0 * jnp.where(done, 1.0, both(reached, in_place)), done


def _reach(scene: Scene, start: jax.Array, radius: float, shape: Shape) -> jax.Array:
    """Reward for the fingers' distance to the object, which was at `start`."""
    margin = jnp.abs(distance(start, scene.tcp_init) - radius)
    away = distance(scene.obj, scene.tcp)
    return near(away, radius, margin, shape)


def _faucet(scene: Scene, offset: tuple[float, float, float]) -> Outcome:
    obj, radius = scene.obj + jnp.asarray(offset), 0.07
    left = distance(obj, scene.target)
    in_place = near(left, radius, jnp.abs(distance(scene.obj_init, scene.target) - radius))
    margin = jnp.abs(distance(scene.obj_init, scene.tcp_init) - 0.01)
    reached = near(distance(obj, scene.tcp), 0.01, margin, "gaussian")
    done = left <= radius
    return jnp.where(done, 10.0, 2.0 * (2.0 * reached + 3.0 * in_place)), left <= 0.07


def _faucet_open(scene: Scene) -> Outcome:
    return _faucet(scene, (-0.04, 0.0, 0.03))


def _faucet_close(scene: Scene) -> Outcome:
    return _faucet(scene, (0.0, 0.0, 0.0))


def _window_open(scene: Scene) -> Outcome:
    return _window(scene, scene.obj_init, "long_tail")


def _window_close(scene: Scene) -> Outcome:
    return _window(scene, scene.start["window_handle_pos_init"], "gaussian")


def _window(scene: Scene, start: jax.Array, shape: Shape) -> Outcome:
    radius = 0.05
    left = jnp.abs(scene.obj[0] - scene.target[0])
    in_place = near(left, radius, jnp.abs(jnp.abs(start[0] - scene.target[0]) - radius))
    reached = _reach(scene, scene.start["window_handle_pos_init"], 0.02, shape)
    return 10.0 * both(reached, in_place), left <= radius


def _dial_offset(now: Fields) -> jax.Array:
    """From the dial's centre to its mark."""
    angle = now["angle"]
    return 0.05 * jnp.stack([jnp.sin(angle), -jnp.cos(angle), jnp.zeros_like(angle)])


def _dial_turn(scene: Scene) -> Outcome:
    radius, start = 0.07, scene.start["dial_push_position"]
    left = distance(scene.obj, scene.target)
    in_place = near(left, radius, jnp.abs(distance(start, scene.target) - radius))
    margin = jnp.abs(distance(start, scene.tcp_init) - 0.005)
    away = distance(scene.obj + jnp.asarray(_DIAL_PUSH), scene.tcp)
    reached = both(near(away, 0.005, margin, "gaussian"), scene.closing)
    return 10.0 * both(reached, in_place), left <= radius


def _lever_pull(scene: Scene) -> Outcome:
    offset, scale = jnp.asarray(_SHOULDER), (4.0, 1.0, 4.0)
    start = scene.start["_lever_pos_init"]
    margin = distance(scene.tcp_init + offset, start, scale)
    ready = near(distance(scene.hand + offset, scene.obj, scale), 0.02, margin)
    left = distance(scene.obj, scene.target)
    in_place = near(left, 0.04, distance(start, scene.target))
    turned = jnp.abs(-scene.now["angle"] - math.pi / 2.0)
    return 10.0 * both(ready, in_place), turned <= math.pi / 24.0


def _lock(site: str) -> tuple[Thing]:
    return (Thing(Read("site_xpos", site), Read("xquat", "door_link")),)


def _faucet_handle(site: str) -> tuple[Thing]:
    return (Thing(Read("site_xpos", site), Read("xquat", "faucetBase"), (0.0, 0.0, -0.01)),)


_WINDOW_STARTS = {"window_handle_pos_init": 3}
TASKS = {
    "door-open-v3": Definition((_DOOR,), _door_open, {"angle": Read("qpos", "doorjoint")}),
    "door-close-v3": Definition((_DOOR,), _door_close, starts={"hand_init_pos": 3}),
    "door-lock-v3": Definition(_lock("lockStartLock"), _door_lock),
    "door-unlock-v3": Definition(
        _lock("lockStartUnlock"), _door_unlock, {"lock": Read("xpos", "lock_link")}
    ),
    "drawer-open-v3": Definition(
        (Thing(Read("xpos", "drawer_link"), Read("xquat", "drawer_link"), (0.0, -0.16, 0.0)),),
        _drawer_open,
    ),
    "drawer-close-v3": Definition(
        (Thing(Read("xpos", "drawer_link"), None, (0.0, -0.16, 0.05)),), _drawer_close
    ),
    "faucet-open-v3": Definition(_faucet_handle("handleStartOpen"), _faucet_open),
    "faucet-close-v3": Definition(_faucet_handle("handleStartClose"), _faucet_close),
    "window-open-v3": Definition(
        (Thing(Read("site_xpos", "handleOpenStart")),), _window_open, starts=_WINDOW_STARTS
    ),
    "window-close-v3": Definition(
        (Thing(Read("site_xpos", "handleCloseStart")),), _window_close, starts=_WINDOW_STARTS
    ),
    "dial-turn-v3": Definition(
        (Thing(Read("xpos", "dial"), Read("xquat", "dial"), _dial_offset),),
        _dial_turn,
        {"angle": Read("qpos", "knob_Joint_1")},
        {"dial_push_position": 3},
    ),
    "lever-pull-v3": Definition(
        (Thing(Read("site_xpos", "leverStart"), Read("geom_xmat", "objGeom")),),
        _lever_pull,
        {"angle": Read("qpos", "LeverAxis")},
        {"_lever_pos_init": 3},
    ),
}
