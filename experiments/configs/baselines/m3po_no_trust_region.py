"""Ablation: the plain gradient through Q, without a penalty and never shortened."""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings without a trust region.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.policy.trust_region = "none"
    return config
