"""Ablation: the policy learns from the fresh rollout instead of imagination.

The planner chose those actions, so the advantages carry importance weights, and a KL term draws the
policy to the planner; without it the weights of actions far from the policy leave little to learn.
"""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with real surrogate data.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.policy.objective = "likelihood_ratio"
    config.policy.trust_region = "clip"
    config.policy.epochs = 2
    config.policy.entropy_scale = 3e-2
    config.policy.data = "real"
    config.policy.planner_kl_scale = 0.1
    return config
