"""ReacherEasy with 64 pairs of links and gears, which the agent is told."""

import ml_collections

from m3po_jax.presets.suites import family_config

TASKS = (
    "dmc/ReacherEasy?family=arm_length:0.9..1.2,hand_length:0.9..1.2,gear:0.5..1.5"
    "&size=64&context=given",
)


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 3,000 env steps of each variation."""
    return family_config(TASKS, num_variations=64)
