"""The smallest agent, one without a model, on tasks with physics on the host."""

from tests.integration import tiny_config


def get_config():
    config = tiny_config.get_config()
    config.tasks = (
        "tests.integration.host_tasks:Falling",
        "dmc/PendulumSwingup?impl=c&episode_length=16&action_repeat=2",
    )
    config.network.encoder = "observation"
    config.policy.objective = "likelihood_ratio"
    config.policy.data = "real"
    config.policy.minibatches = 1
    config.planner.collect = False
    config.exploration.scale = 0.0
    config.train.eval_policy = "prior"
    config.train.warmup_env_steps = 0
    config.train.updates_per_transition = 0.0
    return config
