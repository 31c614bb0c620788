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
    """

    observation_size: int | None
    action_size: int | None
    episode_length: int | None
    can_terminate: bool


_DMC = {
    "AcrobotSwingup": TaskFacts(6, 1, 1000, False),
    "AcrobotSwingupSparse": TaskFacts(6, 1, 1000, False),
    "BallInCup": TaskFacts(8, 2, 1000, False),
    "CartpoleBalance": TaskFacts(5, 1, 1000, False),
    "CartpoleBalanceSparse": TaskFacts(5, 1, 1000, False),
    "CartpoleSwingup": TaskFacts(5, 1, 1000, False),
    "CartpoleSwingupSparse": TaskFacts(5, 1, 1000, False),
    "CheetahRun": TaskFacts(17, 6, 1000, False),
    "FingerSpin": TaskFacts(9, 2, 1000, False),
    "FingerTurnEasy": TaskFacts(12, 2, 1000, False),
    "FingerTurnHard": TaskFacts(12, 2, 1000, False),
    "FishSwim": TaskFacts(24, 5, 1000, False),
    "HopperHop": TaskFacts(15, 4, 1000, False),
    "HopperStand": TaskFacts(15, 4, 1000, False),
    "HumanoidRun": TaskFacts(67, 21, 1000, False),
    "HumanoidStand": TaskFacts(67, 21, 1000, False),
    "HumanoidWalk": TaskFacts(67, 21, 1000, False),
    "PendulumSwingup": TaskFacts(3, 1, 1000, False),
    "PointMass": TaskFacts(4, 2, 1000, False),
    "ReacherEasy": TaskFacts(6, 2, 1000, False),
    "ReacherHard": TaskFacts(6, 2, 1000, False),
    "SwimmerSwimmer6": TaskFacts(25, 5, 1000, False),
    "WalkerRun": TaskFacts(24, 6, 1000, False),
    "WalkerStand": TaskFacts(24, 6, 1000, False),
    "WalkerWalk": TaskFacts(24, 6, 1000, False),
}
_BRAX = {
    "ant": TaskFacts(27, 8, 1000, True),
    "fast": TaskFacts(2, 1, 1000, False),
    "halfcheetah": TaskFacts(17, 6, 1000, False),
    "hopper": TaskFacts(11, 3, 1000, True),
    "humanoid": TaskFacts(244, 17, 1000, True),
    "humanoidstandup": TaskFacts(244, 17, 1000, False),
    "inverted_double_pendulum": TaskFacts(8, 1, 1000, True),
    "inverted_pendulum": TaskFacts(4, 1, 1000, True),
    "pusher": TaskFacts(23, 7, 1000, False),
    "reacher": TaskFacts(11, 2, 1000, False),
    "swimmer": TaskFacts(8, 2, 1000, False),
    "walker2d": TaskFacts(17, 6, 1000, True),
}
_TOY = {
    "LinearQuadratic": TaskFacts(3, 2, 50, False),
    "PointReachA": TaskFacts(2, 2, 50, False),
    "PointReachB": TaskFacts(2, 2, 50, False),
    "TerminatingPole": TaskFacts(2, 1, 50, True),
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
    "metaworld": {name: TaskFacts(39, 4, 500, False) for name in MT50},
    "playground": {name: TaskFacts(None, None, None, True) for name in _PLAYGROUND_NAMES},
}
_MODULES = {"dmc": "mujoco_playground", "playground": "mujoco_playground", "brax": "brax"}


def task_names() -> tuple[str, ...]:
    """Returns all task names, without options."""
    return tuple(f"{suite}/{name}" for suite, names in CATALOG.items() for name in names)


def unavailable(suite: str) -> str | None:
    """Why the tasks of a suite cannot be made here and what to do, or `None`; imports nothing."""
    if suite == "metaworld":
        return installed.unavailable()
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
