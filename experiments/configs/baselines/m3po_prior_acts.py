"""Ablation: the policy prior collects; the planner acts in evaluations alone."""

import ml_collections

from m3po_jax.config import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings without a planner while collecting.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.planner.collect = False
    return config
