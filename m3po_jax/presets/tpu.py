"""Four DM Control tasks at size 5M in bfloat16, sized for a TPU slice."""

import ml_collections

from m3po_jax.presets.suites import accelerator_config


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 5 million env steps per task.

    docs/scaling.md says what they need of memory. They were not tuned on a TPU.
    """
    return accelerator_config(num_envs=512, batch_size=2_048)
