"""Baseline: multi-task PPO (arXiv 1707.06347) in the same loop.

No world model, no planner, no replay: policy and critic read observations that are normalised by
running moments of each task, and one-hot task ids. Advantages are normalised per task, and the
critic's two-hot symlog head accepts rewards of any scale.

The agent's trust region is kept: besides clipping the ratio, an update stops where the KL passes
1.5 * policy.kl_target = 0.075, and is then shortened until the KL on all data is within. Plain PPO
is not policy.trust_region = "none" (or "kl"): that drops the clip of the ratio as well.
"""

import ml_collections

from m3po_jax.presets.suites import suite_config


def get_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns settings that make the agent PPO.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = suite_config(tasks)
    config.network.encoder = "observation"
    config.network.log_std_min = -3.0
    config.network.log_std_max = 2.0
    config.planner.collect = False
    config.policy.objective = "likelihood_ratio"
    config.policy.trust_region = "clip"
    config.policy.data = "real"
    config.policy.epochs = 8
    config.policy.minibatches = 4
    config.critic.epochs = 8
    config.critic.minibatches = 4
    config.exploration.scale = 0.0
    config.env.unroll_length = 16
    # The best of experiments/results/ppo_sweep.csv at 120,000 env steps, mean of two seeds.
    config.policy.learning_rate = 3e-4
    config.policy.entropy_scale = 1e-4
    config.train.warmup_env_steps = 0
    config.train.updates_per_transition = 0.0
    config.train.final_learning_rate_scale = 1.0
    config.train.eval_policy = "prior"
    return config
