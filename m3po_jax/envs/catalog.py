"""What is known of every registered task without loading a simulator."""

import importlib.util
import pathlib
from typing import NamedTuple

from m3po_jax.envs.metaworld import installed


class TaskFacts(NamedTuple):
    """Facts of one task.

    Attributes:
        observation_size: Size of the flat observation; `None` where the task must be loaded for it.
        action_size: Size of the action; `None` as above.
        episode_length: Control steps of the simulator until truncation; `None` as above.
        can_terminate: Whether the task itself can end an episode.
        control_step: Simulated seconds of one control step; `None` where it is not known or the
            task has no time.
    """

    observation_size: int | None
    action_size: int | None
    episode_length: int | None
    can_terminate: bool
    control_step: float | None = None


_DMC = {
    "AcrobotSwingup": TaskFacts(6, 1, 1000, False, 0.01),
    "AcrobotSwingupSparse": TaskFacts(6, 1, 1000, False, 0.01),
    "BallInCup": TaskFacts(8, 2, 1000, False, 0.02),
    "CartpoleBalance": TaskFacts(5, 1, 1000, False, 0.01),
    "CartpoleBalanceSparse": TaskFacts(5, 1, 1000, False, 0.01),
    "CartpoleSwingup": TaskFacts(5, 1, 1000, False, 0.01),
    "CartpoleSwingupSparse": TaskFacts(5, 1, 1000, False, 0.01),
    "CheetahRun": TaskFacts(17, 6, 1000, False, 0.01),
    "FingerSpin": TaskFacts(9, 2, 1000, False, 0.02),
    "FingerTurnEasy": TaskFacts(12, 2, 1000, False, 0.02),
    "FingerTurnHard": TaskFacts(12, 2, 1000, False, 0.02),
    "FishSwim": TaskFacts(24, 5, 1000, False, 0.04),
    "HopperHop": TaskFacts(15, 4, 1000, False, 0.02),
    "HopperStand": TaskFacts(15, 4, 1000, False, 0.02),
    "HumanoidRun": TaskFacts(67, 21, 1000, False, 0.025),
    "HumanoidStand": TaskFacts(67, 21, 1000, False, 0.025),
    "HumanoidWalk": TaskFacts(67, 21, 1000, False, 0.025),
    "PendulumSwingup": TaskFacts(3, 1, 1000, False, 0.02),
    "PointMass": TaskFacts(4, 2, 1000, False, 0.02),
    "ReacherEasy": TaskFacts(6, 2, 1000, False, 0.02),
    "ReacherHard": TaskFacts(6, 2, 1000, False, 0.02),
    "SwimmerSwimmer6": TaskFacts(25, 5, 1000, False, 0.03),
    "WalkerRun": TaskFacts(24, 6, 1000, False, 0.025),
    "WalkerStand": TaskFacts(24, 6, 1000, False, 0.025),
    "WalkerWalk": TaskFacts(24, 6, 1000, False, 0.025),
}
_BRAX = {
    "ant": TaskFacts(27, 8, 1000, True, 0.05),
    "fast": TaskFacts(2, 1, 1000, False),
    "halfcheetah": TaskFacts(17, 6, 1000, False, 0.05),
    "hopper": TaskFacts(11, 3, 1000, True, 0.008),
    "humanoid": TaskFacts(244, 17, 1000, True, 0.015),
    "humanoidstandup": TaskFacts(244, 17, 1000, False, 0.015),
    "inverted_double_pendulum": TaskFacts(8, 1, 1000, True, 0.02),
    "inverted_pendulum": TaskFacts(4, 1, 1000, True, 0.02),
    "pusher": TaskFacts(23, 7, 1000, False, 0.05),
    "reacher": TaskFacts(11, 2, 1000, False, 0.02),
    "swimmer": TaskFacts(8, 2, 1000, False, 0.04),
    "walker2d": TaskFacts(17, 6, 1000, True, 0.008),
}
_TOY = {
    "LinearQuadratic": TaskFacts(3, 2, 50, False),
    "PointReachA": TaskFacts(2, 2, 50, False),
    "PointReachB": TaskFacts(2, 2, 50, False),
    "TerminatingPole": TaskFacts(2, 1, 50, True),
}
# Brax steps this one more coarsely on two of its backends.
_CONTROL_STEP_OF_BACKEND = {
    ("inverted_pendulum", "generalized"): 0.04,
    ("inverted_pendulum", "mjx"): 0.04,
}
# Robots of MuJoCo Playground: without the meshes that it downloads, their sizes are not known.
_PLAYGROUND_NAMES = (
    "ApolloJoystickFlatTerrain",
    "BarkourJoystick",
    "BerkeleyHumanoidJoystickFlatTerrain",
    "BerkeleyHumanoidJoystickRoughTerrain",
    "G1JoystickFlatTerrain",
    "G1JoystickRoughTerrain",
    "Go1JoystickFlatTerrain",
    "Go1JoystickRoughTerrain",
    "Go1Getup",
    "Go1Handstand",
    "Go1Footstand",
    "H1InplaceGaitTracking",
    "H1JoystickGaitTracking",
    "Op3Joystick",
    "SpotFlatTerrainJoystick",
    "SpotGetup",
    "SpotJoystickGaitTracking",
    "T1JoystickFlatTerrain",
    "T1JoystickRoughTerrain",
    "AlohaHandOver",
    "AlohaSinglePegInsertion",
    "PandaPickCube",
    "PandaPickCubeOrientation",
    "PandaPickCubeCartesian",
    "PandaOpenCabinet",
    "PandaRobotiqPushCube",
    "LeapCubeReorient",
    "LeapCubeRotateZAxis",
    "AeroCubeRotateZAxis",
)
# The ten of Meta-World's MT10, in its order.
MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
# All fifty, by name. A task is here when its reward is.
MT50 = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "hand-insert-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-close-v3",
    "window-open-v3",
)
CATALOG: dict[str, dict[str, TaskFacts]] = {
    "dmc": _DMC,
    "brax": _BRAX,
    "toy": _TOY,
    "metaworld": {name: TaskFacts(39, 4, 500, False, 0.0125) for name in MT50},
    "playground": {name: TaskFacts(None, None, None, True) for name in _PLAYGROUND_NAMES},
}
_MODULES = {"dmc": "mujoco_playground", "playground": "mujoco_playground", "brax": "brax"}


def control_step(suite: str, env_name: str, backend: str | None = None) -> float | None:
    """Simulated seconds of a control step, or `None` where that is not known beforehand."""
    facts = CATALOG.get(suite, {}).get(env_name)
    known = None if facts is None else facts.control_step
    return _CONTROL_STEP_OF_BACKEND.get((env_name, backend or ""), known)


def task_names() -> tuple[str, ...]:
    """Returns all task names, without options."""
    return tuple(f"{suite}/{name}" for suite, names in CATALOG.items() for name in names)


def unavailable(suite: str) -> str | None:
    """Why the tasks of a suite cannot be made here and what to do, or `None`; imports nothing."""
    if suite == "metaworld":
        return installed.unavailable()
    if suite == "gym" and importlib.util.find_spec("gymnasium") is None:
        return "the package gymnasium is not installed; pip install 'm3po_jax[gymnasium]'"
    module = _MODULES.get(suite)
    if module is None:
        return None
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"the package {module} is not installed; pip install m3po_jax installs it"
    meshes = pathlib.Path(spec.origin).parent / "external_deps" / "mujoco_menagerie"
    if suite == "playground" and not meshes.is_dir():
        return (
            f"the robots' meshes are not in {meshes}; where there is a network, fetch them with "
            'python -c "from mujoco_playground._src import mjx_env; '
            'mjx_env.ensure_menagerie_exists()"'
        )
    return None
