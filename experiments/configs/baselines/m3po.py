"""The whole agent at its defaults: the reference for the baselines and ablations."""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    return suite_config(tasks)
