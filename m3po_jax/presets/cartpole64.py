"""CartpoleSwingup with 64 pole lengths and gears, which the agent is told."""

import ml_collections

from m3po_jax.config import default_config

TASKS = ("dmc/CartpoleSwingup?family=pole_length:0.6..1.4,gear:0.5..1.5&size=64&context=given",)


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 3,000 env steps of each variation."""
    config = default_config()
    config.tasks = TASKS
    # Of each variation.
    config.env.num_envs = 1
    config.train.eval_episodes = 1
    config.train.total_env_steps = 192_000
    config.train.eval_every = 48_000
    config.train.checkpoint_every = 48_000
    return config
