"""The smallest agent on tasks with physics on the host."""

from tests.integration import tiny_config


def get_config():
    config = tiny_config.get_config()
    config.tasks = (
        "tests.integration.host_tasks:Falling",
        "dmc/PendulumSwingup?impl=c&episode_length=16&action_repeat=2",
    )
    return config
