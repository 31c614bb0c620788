"""The ten Meta-World tasks of MT10, one agent; needs Meta-World."""

import ml_collections

from m3po_jax.config import default_config
from m3po_jax.envs.catalog import MT10


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 100,000 env steps per task, with the action repeat of published runs.

    It suits a CPU, where the physics is computed in any case.
    """
    config = default_config()
    config.tasks = tuple(f"metaworld/{name}" for name in MT10)
    config.env.action_repeat = 2
    config.world_model.batch_size = 256
    config.train.total_env_steps = 1_000_000
    config.train.warmup_env_steps = 25_000
    config.train.updates_per_transition = 0.25
    config.train.eval_every = 200_000
    config.train.checkpoint_every = 100_000
    return config
