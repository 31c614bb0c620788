"""Ablation: the gradient through Q with an adaptive KL penalty, not the likelihood ratio."""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with a pathwise objective in a KL trust region.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.policy.objective = "pathwise"
    config.policy.trust_region = "kl"
    return config
