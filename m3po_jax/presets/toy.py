"""The whole agent on the toy suite in under a minute after compile: for tests and quick checks."""

import ml_collections

from m3po_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for the three toy tasks that train in under a minute."""
    config = default_config()
    config.tasks = ("toy/PointReachA", "toy/PointReachB", "toy/TerminatingPole")
    config.env.action_repeat = 2
    config.network.encoder_width = 64
    config.network.mlp_width = 64
    config.network.latent_size = 32
    config.train.total_env_steps = 24_000
    config.train.warmup_env_steps = 1_500
    config.train.updates_per_transition = 0.25
    config.train.eval_every = 6_000
    config.train.checkpoint_every = 12_000
    return config
