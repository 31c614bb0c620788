"""Ablation: no exploration bonus, and so neither explorers nor a value of novelty."""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with a bonus weight of zero.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.exploration.scale = 0.0
    return config
