"""All 25 DM Control tasks of MuJoCo Playground, one agent."""

import ml_collections

from m3po_jax.config import default_config
from m3po_jax.envs.catalog import CATALOG


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for about 100,000 env steps per task; a GPU is recommended.

    At the default size they also run on a CPU, where the physics of the humanoids is the slowest
    part and compilation takes minutes.
    """
    config = default_config()
    config.tasks = tuple(f"dmc/{name}" for name in CATALOG["dmc"])
    config.world_model.batch_size = 256
    config.train.total_env_steps = 2_500_000
    config.train.warmup_env_steps = 62_500
    config.train.updates_per_transition = 0.25
    config.train.eval_every = 500_000
    config.train.checkpoint_every = 250_000
    return config
