"""Four bodies with 32 variations each, which the agent is told; one agent for all."""

import ml_collections

from m3po_jax.presets.suites import family_config

FAMILIES = {
    "dmc/BallInCup": "string_length:0.8..1.2,ball_mass:0.5..1.5,gear:0.7..1.3",
    "dmc/CartpoleSwingup": "pole_length:0.6..1.4,gear:0.5..1.5",
    "dmc/PendulumSwingup": "length:0.7..1.3,mass:0.7..1.3,gear:0.7..1.5",
    "dmc/ReacherEasy": "arm_length:0.9..1.2,hand_length:0.9..1.2,gear:0.5..1.5",
}
TASKS = tuple(f"{name}?family={of}&size=32&context=given" for name, of in FAMILIES.items())


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for 3,000 env steps of each variation."""
    config = family_config(TASKS, num_variations=128)
    config.world_model.batch_size = 256
    return config
