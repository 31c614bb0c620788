"""Ablation: PPO's clipped likelihood ratio on imagined data, not the gradient through Q."""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with the surrogate of earlier defaults.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.policy.objective = "likelihood_ratio"
    config.policy.trust_region = "clip"
    config.policy.epochs = 2
    config.policy.entropy_scale = 3e-2
    return config
