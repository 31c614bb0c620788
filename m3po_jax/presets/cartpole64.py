"""CartpoleSwingup with 64 pole lengths and gears, which the agent is told."""

import ml_collections

from m3po_jax.presets.suites import family_config

TASKS = ("dmc/CartpoleSwingup?family=pole_length:0.6..1.4,gear:0.5..1.5&size=64&context=given",)


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 3,000 env steps of each variation."""
    return family_config(TASKS, num_variations=64)
