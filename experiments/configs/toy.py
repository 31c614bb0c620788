"""The whole agent on the toy suite in under a minute after compile: for tests and quick checks."""

import ml_collections

from m3po_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns settings for the three toy tasks that train in under a minute."""
    config = default_config()
    config.tasks = ("toy/PointReachA", "toy/PointReachB", "toy/TerminatingPole")
    return config
