"""Sets of tasks that belong together, and the default settings with one of them."""

import ml_collections

from m3po_jax.config import default_config
from m3po_jax.envs import families

# Three real tasks of MuJoCo Playground that two CPU cores can learn.
CLASSIC_TASKS = ("dmc/CartpoleBalance", "dmc/CartpoleSwingup", "dmc/ReacherEasy")
# Four of different bodies, easy to hard, as many as split over the devices of a slice.
ACCELERATOR_TASKS = ("dmc/CartpoleSwingup", "dmc/ReacherEasy", "dmc/CheetahRun", "dmc/WalkerWalk")
# Eight Brax environments with different bodies, some of which terminate.
BRAX8_TASKS = (
    "brax/ant",
    "brax/halfcheetah",
    "brax/hopper",
    "brax/humanoid",
    "brax/inverted_double_pendulum",
    "brax/inverted_pendulum",
    "brax/reacher",
    "brax/walker2d",
)


def suite_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with the tasks of `--config=FILE:NAME,NAME`.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = default_config()
    config.tasks = tuple(families.split_names(tasks)) if tasks else CLASSIC_TASKS
    return config


def family_config(tasks: tuple[str, ...], *, num_variations: int) -> ml_collections.ConfigDict:
    """Returns settings for 3,000 env steps of each variation of families of tasks.

    Args:
        tasks: Registry names of the families.
        num_variations: Variations of all of them.
    """
    config = default_config()
    config.tasks = tasks
    # Of each variation.
    config.env.num_envs = 1
    config.train.eval_episodes = 1
    config.train.total_env_steps = 3_000 * num_variations
    config.train.eval_every = config.train.checkpoint_every = 750 * num_variations
    return config


def accelerator_config(*, num_envs: int, batch_size: int) -> ml_collections.ConfigDict:
    """Returns settings with wide batches for accelerators, on four DM Control tasks.

    Whatever the batch, a transition has 64 samples in updates, half as many as by default: updates
    take most of the time, and few wide ones keep an accelerator busier than many narrow ones.

    Args:
        num_envs: Environments of each task.
        batch_size: Windows per update.
    """
    config = default_config()
    config.tasks = ACCELERATOR_TASKS
    config.env.num_envs = num_envs
    config.network.size = "5M"
    config.network.precision = "bfloat16"
    config.world_model.batch_size = batch_size
    config.replay.capacity = 4_000_000
    config.train.total_env_steps = 20_000_000
    config.train.warmup_env_steps = 200_000
    config.train.updates_per_transition = 64 / batch_size
    config.train.eval_every = 2_000_000
    config.train.eval_episodes = 32
    config.train.checkpoint_every = 1_000_000
    return config
