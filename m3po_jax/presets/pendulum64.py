"""PendulumSwingup with 64 lengths, masses and gears, which the agent is told."""

import ml_collections

from m3po_jax.presets.suites import family_config

TASKS = (
    "dmc/PendulumSwingup?family=length:0.7..1.3,mass:0.7..1.3,gear:0.7..1.5&size=64&context=given",
)


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 3,000 env steps of each variation."""
    return family_config(TASKS, num_variations=64)
