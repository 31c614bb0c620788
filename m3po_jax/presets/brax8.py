"""Eight Brax environments with different bodies, some of which terminate; one agent."""

import ml_collections

from m3po_jax.config import default_config
from m3po_jax.presets.suites import BRAX8_TASKS


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for about 500,000 env steps per task; a GPU is recommended."""
    config = default_config()
    config.tasks = BRAX8_TASKS
    # Brax's control step is longer than that of DM Control.
    config.env.action_repeat = 2
    config.world_model.batch_size = 256
    config.train.total_env_steps = 4_000_000
    config.train.warmup_env_steps = 40_000
    config.train.updates_per_transition = 0.25
    config.train.eval_every = 500_000
    config.train.checkpoint_every = 250_000
    return config
