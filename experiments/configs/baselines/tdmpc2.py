"""Baseline: multi-task TD-MPC2 (arXiv 2310.16828) in the same loop, at the same sizes.

The policy follows the gradient of Q without a trust region, Q learns from one-step targets with the
minimum of two heads, there is no bonus and so no model-free critic. Settings that
differ in TD-MPC2 are set here; widths, batch, the model's step size, population of the planner,
environments and updates per transition are shared with the agent that it is compared with.

Other differences from TD-MPC2's published code are those of the agent:
- The planner's temperature has the opposite sense. Elites weigh softmax(G / (s_k * temperature))
  with s_k the task's running spread of returns; there, exp(temperature * (G - max G)) on unscaled
  returns.
- The policy's loss has no rho^t over the window, takes encoded latents and not rolled-out ones,
  does not multiply the entropy by the number of action dims, and scales Q per task, at the mean
  action.
- The policy's pre-tanh mean m is bounded to 5 tanh(m / 5).
"""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns settings that make the agent TD-MPC2.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.policy.trust_region = "none"
    config.policy.learning_rate = 3e-4
    config.train.final_learning_rate_scale = 1.0
    config.exploration.scale = 0.0
    config.world_model.value_target = "td"
    config.network.log_std_min = -10.0
    config.network.log_std_max = 2.0
    return config
