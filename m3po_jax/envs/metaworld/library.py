"""Meta-World's own Python, for scenes, goals and resets; imports no JAX.

What a reset of Meta-World does takes fifty steps of the hand and code of its own for every task; it
is run here unchanged, once for each goal. Everything after a reset is this package's.
"""

import pickle
import warnings
from typing import Any

import mujoco
import numpy as np

from m3po_jax.config import ConfigError
from m3po_jax.envs.metaworld.installed import INSTALL

NUM_GOALS = 50
# Goals are those of `metaworld.MT1(name, seed=42).train_tasks`.
_GOAL_SEED = 42
EPISODE_LENGTH = 500


class _MendedWelds:
    """Welds for a MuJoCo whose rows of `eq_data` hold one number more than Meta-World writes."""

    model: Any

    def reset_mocap_welds(self) -> None:
        """As `SawyerMocapBase.reset_mocap_welds`, whatever a row holds behind."""
        if self.model.nmocap > 0:
            welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
            self.model.eq_data[welds, :11] = (*(0.0,) * 6, -1.0, *(0.0,) * 3, 5.0)


def make(name: str) -> Any:
    """One of Meta-World's environments, not set to a goal.

    Args:
        name: Meta-World's name of the task, for example `reach-v3`.

    Raises:
        ConfigError: A file of the scene is missing.
    """
    cls = _class_of(name)
    try:
        return type(cls.__name__, (_MendedWelds, cls), {})()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"metaworld/{name}: its scene does not load ({error}); {INSTALL}"
        ) from error


def goals(name: str) -> list[np.ndarray]:
    """The random numbers of each goal, as Meta-World draws them for one task."""
    env = make(name)
    # Goals do not depend on where the hand settles.
    env.do_simulation = lambda *_: mujoco.mj_kinematics(env.model, env.data)
    env._freeze_rand_vec, env._set_task_called = False, True
    before = np.random.get_state()
    np.random.seed(_GOAL_SEED)
    try:
        found = []
        for _ in range(NUM_GOALS):
            env.reset()
            found.append(np.array(env._last_rand_vec))
    finally:
        np.random.set_state(before)
    env.close()
    return found


def set_goal(env: Any, name: str, goal: np.ndarray) -> None:
    """Sets an environment to a goal, which the next reset takes up; the goal is observed."""
    from metaworld.types import Task

    data = {"rand_vec": goal, "env_cls": _class_of(name), "partially_observable": False}
    env.set_task(Task(name, pickle.dumps(data)))


def _class_of(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from metaworld import env_dict

    return env_dict.ALL_V3_ENVIRONMENTS[name]
