"""Twelve DM Control tasks and eight Brax environments, with and without termination; one agent."""

import ml_collections

from m3po_jax.config import default_config
from m3po_jax.presets.suites import BRAX8_TASKS

DMC = (
    "dmc/AcrobotSwingup",
    "dmc/BallInCup",
    "dmc/CartpoleBalance",
    "dmc/CartpoleSwingup",
    "dmc/CheetahRun",
    "dmc/FingerSpin",
    "dmc/HopperStand",
    "dmc/PendulumSwingup",
    "dmc/PointMass",
    "dmc/ReacherEasy",
    "dmc/WalkerStand",
    "dmc/WalkerWalk",
)


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for about 250,000 env steps per task; a GPU is recommended."""
    config = default_config()
    # Brax's control step is longer than that of DM Control.
    config.tasks = (*DMC, *(f"{task}?action_repeat=2" for task in BRAX8_TASKS))
    config.world_model.batch_size = 256
    config.train.total_env_steps = 5_000_000
    config.train.warmup_env_steps = 62_500
    config.train.updates_per_transition = 0.25
    config.train.eval_every = 500_000
    config.train.checkpoint_every = 250_000
    return config
