"""Sets of tasks that belong together, and the default settings with one of them."""

import ml_collections

from m3po_jax.config import default_config

# Three real tasks of MuJoCo Playground that two CPU cores can learn.
CLASSIC_TASKS = ("dmc/CartpoleBalance", "dmc/CartpoleSwingup", "dmc/ReacherEasy")
# Eight Brax environments with different bodies, some of which terminate.
BRAX8_TASKS = (
    "brax/ant",
    "brax/halfcheetah",
    "brax/hopper",
    "brax/humanoid",
    "brax/inverted_double_pendulum",
    "brax/inverted_pendulum",
    "brax/reacher",
    "brax/walker2d",
)


def suite_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with the tasks of `--config=FILE:NAME,NAME`.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = default_config()
    config.tasks = tuple(tasks.split(",")) if tasks else CLASSIC_TASKS
    return config
