"""Three real tasks at once: MuJoCo Playground's CartpoleBalance, CartpoleSwingup, ReacherEasy."""

import ml_collections

from m3po_jax.config import default_config
from m3po_jax.presets.suites import CLASSIC_TASKS


def get_config() -> ml_collections.ConfigDict:
    """Returns the default settings with the tasks of the suite `classic`."""
    config = default_config()
    config.tasks = CLASSIC_TASKS
    # The same for all three, so that each task has a third of the env steps.
    config.env.action_repeat = 4
    config.train.total_env_steps = 108_000
    config.train.eval_every = 36_000
    config.train.checkpoint_every = 18_000
    return config
