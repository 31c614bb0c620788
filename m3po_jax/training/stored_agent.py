"""What a run's checkpoint holds, read without the run's simulators."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.config import Config
from m3po_jax.envs import registry
from m3po_jax.learning.optimizers import make_optimizers
from m3po_jax.learning.state import AgentState, init_agent, trajectory_shapes
from m3po_jax.networks.factory import Networks, make_networks
from m3po_jax.policy.trust_region import TrustRegionState
from m3po_jax.replay import buffer
from m3po_jax.training import jax_settings
from m3po_jax.types import BatchLayout, TaskSpec, action_masks
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError
from m3po_jax.workdir.folder import read_config
from m3po_jax.workload import task_load

ACTING = ("params", "statistics")
LEARNED = (*ACTING, "target_q", "target_exploration")


@dataclasses.dataclass(frozen=True)
class StoredAgent:
    """A run's agent and what must be known of the run to use it.

    Attributes:
        config: Settings of the run.
        specs: Its tasks, in the order of their ids.
        networks: The modules.
        state: The agent on the first device; what was not asked for is empty.
        env_steps: Simulator steps of training behind it.
    """

    config: Config
    specs: tuple[TaskSpec, ...]
    networks: Networks
    state: AgentState
    env_steps: int

    @property
    def layout(self) -> BatchLayout:
        """Where the environments of the run stood in its batch."""
        load = task_load(self.config)
        each = zip(load.num_envs, load.sizes, strict=True)
        return BatchLayout(tuple(n for n, size in each for _ in range(size)), load.sizes)


def restore_agent(
    workdir: str | os.PathLike[str], *, fields: Sequence[str] = LEARNED, step: int | None = None
) -> StoredAgent:
    """Restores the agent of a run's checkpoint.

    Args:
        workdir: Folder of the run.
        fields: Fields of `AgentState` to read, `ACTING` or `LEARNED`.
        step: Iteration of the checkpoint; None takes the newest.

    Raises:
        WorkdirError: There is no run, or one of another version.
        CheckpointError: There is no checkpoint or it cannot be read.
        ConfigError: JAX has a setting that agents cannot be computed with.
    """
    jax_settings.require_usable()
    config = read_config(workdir)
    with Checkpointer(workdir) as checkpointer:
        step = checkpointer.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{workdir} holds no checkpoint; train longer first")
        meta = checkpointer.meta(step)
        specs = _specs(config, meta)
        networks = make_networks(
            specs,
            action_masks(specs),
            max(spec.observation_size for spec in specs),
            config.network,
            num_explorers=config.exploration.num_explorers if config.has_bonus else 0,
            explorer_width=config.exploration.explorer_width,
            decoder=config.world_model.reconstruction_scale > 0.0,
        )
        optimizers = make_optimizers(config, iterations=1, transitions=1)  # of these none is read
        init = functools.partial(init_agent, networks, optimizers)
        abstract = jax.eval_shape(init, jax.random.key(0))
        restored = checkpointer.restore_part(
            "agent", {name: getattr(abstract, name) for name in fields}, step=step
        )
    unread = {
        **{"target_q": {}, "target_exploration": {}, "world_model_opt": (), "critic_opt": ()},
        **{"exploration_opt": (), "policy_opt": TrustRegionState((), jnp.ones(()))},
    }
    state = AgentState(**{**unread, **restored})
    return StoredAgent(config, specs, networks, state, int(meta["env_steps"]))


def restore_replay(workdir: str | os.PathLike[str], agent: StoredAgent) -> buffer.ReplayState:
    """Restores the replay of a run's newest checkpoint.

    Args:
        workdir: Folder of the run.
        agent: What `restore_agent` gave for it, with a world model.

    Raises:
        CheckpointError: There is no checkpoint or it cannot be read.
    """
    config, batch_size = agent.config, sum(agent.layout.num_envs)
    length = config.env.unroll_length
    shapes = trajectory_shapes(
        (length, batch_size), agent.networks.observation_size, agent.networks.action_size
    )
    capacity = buffer.capacity_per_env(config.replay.capacity, batch_size, length)
    init = functools.partial(buffer.init, batch_size=batch_size, capacity_per_env=capacity)
    abstract = jax.eval_shape(init, shapes)
    parts = {field.name: getattr(abstract, field.name) for field in dataclasses.fields(abstract)}
    with Checkpointer(workdir) as checkpointer:
        return buffer.ReplayState(**checkpointer.restore_part("replay", parts))


def _specs(config: Config, meta: Mapping[str, Any]) -> tuple[TaskSpec, ...]:
    """Facts of the tasks from the checkpoint; of the environments where it is too old to say."""
    if "tasks" in meta:
        return tuple(
            TaskSpec(**{**spec, "context": tuple(spec.get("context", ()))})
            for spec in meta["tasks"]
        )
    return registry.make(config.tasks, config.env).specs
