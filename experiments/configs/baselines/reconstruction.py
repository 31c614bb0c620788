"""Comparison: the whole agent, its world model also decodes observations (DreamerV3's kind).

The decoder reads the latents that the model is rolled forward through, so encoder and dynamics
also learn what the observation holds and no outcome needs. Everything else is the agent's default,
the latent consistency too: it is what Dreamer's dynamics loss is there. Reward and decoder have the
same scale, as in DreamerV3 (arXiv 2301.04104).
"""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with a decoder.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.world_model.reconstruction_scale = config.world_model.reward_scale
    return config
