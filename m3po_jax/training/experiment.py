"""A config brought to life: environments, networks, optimizers and devices."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax import workload
from m3po_jax.config import Config, resolve_network
from m3po_jax.envs import registry
from m3po_jax.envs.by_task import placement_text
from m3po_jax.learning.optimizers import make_optimizers
from m3po_jax.learning.parts import Parts, num_iterations
from m3po_jax.learning.state import TrainState, init_train_state
from m3po_jax.networks.factory import make_networks
from m3po_jax.replay import buffer
from m3po_jax.training import jax_settings, memory, sharding
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError


@dataclasses.dataclass(frozen=True)
class Experiment(Parts):
    """A config brought to life: the parts of its training iteration, and their devices.

    Attributes:
        mesh: The devices of the run.
    """

    mesh: sharding.Devices

    def init(self, key: jax.Array) -> TrainState:
        """State before the first step. The key is consumed."""
        return init_train_state(self, key)

    def state_shapes(self) -> TrainState:
        """The state's shapes and places, as `jax.ShapeDtypeStruct`s; nothing is computed."""
        return sharding.placed(self.mesh, jax.eval_shape(self.init, jax.random.key(0)))

    def require_room(self) -> None:
        """Refuses a run whose state, none of which is there yet, or plans are beyond memory.

        Raises:
            MemoryShortage: It is; the text says what takes how much.
        """
        shapes, config = self.state_shapes(), self.config
        capacity = config.replay.capacity
        plans = {}
        if config.planner.collect:
            text = f"plans of {config.planner.num_samples:,} samples (planner.num_samples)"
            plans[text] = _least_of_plans(config, shapes.rollout.plan_mean)
        memory.require_room(
            {
                f"replay of {capacity:,} transitions (replay.capacity)": shapes.replay,
                f"{self.env.batch_size:,} environments (env.num_envs)": shapes.rollout,
                f"agent (network.size = {config.network.size}, widths)": shapes.agent,
                **plans,
            }
        )

    def meta(self, *, env_steps: int, wall_seconds: float) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        tasks = [dataclasses.asdict(spec) for spec in self.env.specs]
        return {"wall_seconds": wall_seconds, "env_steps": env_steps, "tasks": tasks}

    def position(self, env_steps: int, wall_seconds: float) -> dict[str, Any]:
        """Where a run is, as each line of eval.jsonl begins."""
        return {
            "env_steps": env_steps,
            "env_steps_per_task": env_steps / self.num_tasks,
            "wall_seconds": round(wall_seconds, 1),
        }


def make_experiment(config: Config) -> Experiment:
    """Creates environments, networks and optimizers; computes nothing yet.

    Raises:
        ConfigError: JAX has a setting that a run cannot have, or a task cannot be made.
    """
    jax_settings.require_trainable()
    env = registry.make(config.tasks, config.env, variations=config.variations, seed=config.seed)
    networks = make_networks(
        env.specs,
        env.action_mask,
        env.observation_size,
        config.network,
        num_explorers=config.exploration.num_explorers if config.has_bonus else 0,
        explorer_width=config.exploration.explorer_width,
        decoder=config.world_model.reconstruction_scale > 0.0,
    )
    optimizers = make_optimizers(
        config,
        iterations=num_iterations(env, config),
        transitions=env.batch_size * config.env.unroll_length,
    )
    return Experiment(env, networks, optimizers, config, sharding.choose_devices(config))


def _least_of_plans(config: Config, plan_mean: Any) -> jax.ShapeDtypeStruct:
    """What a step of planning needs at once: samples, their latents and one hidden layer."""
    network = resolve_network(config.network, len(config.tasks))
    rows, horizon, action_size = plan_mean.shape
    width = horizon * action_size + network.latent_size + network.mlp_width
    shape = (rows, config.planner.num_samples * width)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=plan_mean.sharding)


def on_one_device(config: Config) -> Config:
    """The same settings for looking at a run on one device, whatever it was trained on."""
    train = dataclasses.replace(config.train, num_devices=1, fsdp_devices=1)
    return dataclasses.replace(config, train=train)


def restore_run(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    step: int | None = None,
    absent: str = "holds no checkpoint; train longer first",
) -> tuple[Experiment, TrainState, dict[str, Any]]:
    """Returns the experiment of a run, the state of a checkpoint and its meta.

    Args:
        config: Settings of the run.
        workdir: Its folder.
        step: Iteration of the checkpoint; None takes the newest.
        absent: What to say of the folder where it has no checkpoint.

    Raises:
        CheckpointError: There is no checkpoint or it cannot be read.
    """
    experiment = make_experiment(on_one_device(config))
    experiment.require_room()
    with Checkpointer(workdir) as checkpointer:
        step = checkpointer.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{workdir} {absent}")
        return experiment, *checkpointer.restore(step, experiment.state_shapes())


def description(experiment: Experiment) -> str:
    """What the run is, before anything is compiled."""
    config, env = experiment.config, experiment.env
    shapes = experiment.state_shapes()
    parameters = sum(x.size for x in jax.tree.leaves(shapes.agent.params))
    capacity = shapes.replay.data["reward"].size
    layout = env.layout
    lines = [
        f"{name}: {n} environments{_of_variations(len(tasks))}, observation "
        f"{env.specs[tasks[0]].observation_size}, action {env.specs[tasks[0]].action_size}, "
        f"{env.specs[tasks[0]].episode_length} agent steps of "
        f"{env.specs[tasks[0]].action_repeat} env steps"
        for name, n, tasks in zip(env.names, layout.object_envs, layout.tasks_of, strict=True)
    ]
    updates = config.train.updates_per_transition
    lines += [
        f"{parameters:,} parameters (size {config.network.size}); replay of {capacity:,} "
        f"transitions, {buffer.num_bytes(shapes.replay) / 2**20:.0f} MiB, on "
        f"{_devices(experiment)}",
        *_placement_lines(experiment),
        f"{config.train.total_env_steps:,} env steps in {experiment.num_iterations:,} iterations, "
        f"{updates:g} updates per transition",
    ]
    return "\n".join(lines)


def _of_variations(number: int) -> str:
    return f" of {number} variations" if number > 1 else ""


def _devices(experiment: Experiment) -> str:
    """Which devices a run uses, and why not all that are there."""
    used, present = experiment.mesh.size, jax.device_count()
    first = experiment.mesh.devices.flat[0]
    if used == present:
        return f"{first}" if used == 1 else f"{used} devices like {first}"
    if experiment.config.train.num_devices:
        return f"{used} of {present} devices like {first}"
    reason = workload.device_conflict(experiment.config, present)
    return f"{used} of {present} devices like {first} ({reason})"


def _placement_lines(experiment: Experiment) -> list[str]:
    """Which device steps what, where there are several."""
    mesh = experiment.mesh
    if mesh.size == 1:
        asked = experiment.config.train.task_placement == "by_task"
        return ["task placement by_task: one device, so it steps all tasks"] if asked else []
    return [placement_text(experiment.env, sharding.choose_placement(mesh, experiment), mesh.size)]
