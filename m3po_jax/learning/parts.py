"""What a training iteration is made of besides its state."""

import dataclasses

from m3po_jax.config import Config
from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.learning.optimizers import Optimizers
from m3po_jax.networks.factory import Networks


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a training iteration is made of besides its state; passed whole.

    Attributes:
        env: Environments of all tasks, or a device's share of them.
        networks: The bundle of modules.
        optimizers: One optimizer per set of parameters.
        config: The run's settings.
    """

    env: MultiTaskEnv
    networks: Networks
    optimizers: Optimizers
    config: Config

    @property
    def axis_name(self) -> tuple[str, ...]:
        """Mesh axes over which data are spread; losses and statistics are those of all data."""
        return self.env.axis_name

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.env.specs)

    @property
    def env_steps_per_iteration(self) -> int:
        """Simulator steps of one iteration over all tasks, action repeats counted."""
        return env_steps_per_iteration(self.env, self.config)

    @property
    def num_iterations(self) -> int:
        """Iterations until `train.total_env_steps` is reached or passed."""
        return num_iterations(self.env, self.config)


def env_steps_per_iteration(env: MultiTaskEnv, config: Config) -> int:
    """Simulator steps of one iteration, over all tasks and environments, repeats counted."""
    per_step = sum(n * spec.action_repeat for n, spec in zip(env.num_envs, env.specs, strict=True))
    return per_step * env.num_shards * config.env.unroll_length


def num_iterations(env: MultiTaskEnv, config: Config) -> int:
    """Iterations until `train.total_env_steps` is reached or passed."""
    return -(-config.train.total_env_steps // env_steps_per_iteration(env, config))
