"""Three real tasks at once: MuJoCo Playground's CartpoleBalance, CartpoleSwingup, ReacherEasy."""

import ml_collections

from m3po_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default settings with the tasks of the suite `classic`."""
    config = default_config()
    config.tasks = ("dmc/CartpoleBalance", "dmc/CartpoleSwingup", "dmc/ReacherEasy")
    return config
