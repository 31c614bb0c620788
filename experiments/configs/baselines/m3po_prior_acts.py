"""Ablation: the policy prior collects; the planner acts in evaluations alone.

Nothing seeks novelty either: that is the collecting planner's work.

The running scale of returns, in which planner.temperature is measured, is a statistic of collecting
with the planner. Here it is never measured, and the planner of the evaluations takes 1: in units of
return its temperature is not the whole agent's, whose scales `plan/return_scale` in metrics.csv
shows.
"""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings without a planner while collecting.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.planner.collect = False
    config.exploration.scale = 0.0
    return config
