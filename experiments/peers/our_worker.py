"""Our side of the comparisons: `python -m experiments.peers.our_worker tdmpc2 PRECISION|ppo`."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.baselines import m3po, ppo, tdmpc2
from experiments.peers import sizes, turns
from m3po_jax.config import Config, from_config_dict
from m3po_jax.learning import replay_updates, rollout, state
from m3po_jax.learning.optimizers import make_optimizers
from m3po_jax.learning.parts import Parts
from m3po_jax.networks.factory import make_networks
from m3po_jax.training import sharding
from m3po_jax.training.experiment import make_experiment
from m3po_jax.types import TaskSpec, Window

TASK = "toy/LinearQuadratic"


@dataclasses.dataclass(frozen=True)
class OneTask:
    """What the learner must know of the tasks: one, on one device."""

    specs: tuple[TaskSpec, ...]
    axis_name: tuple[str, ...] = ()

    @property
    def task_id(self) -> np.ndarray:
        """The task of the one environment."""
        return np.zeros(1, np.int32)

    @property
    def discount(self) -> np.ndarray:
        """The discount of the one task."""
        return np.array([0.99], np.float32)


def model_settings(settings: Any, precision: str) -> Config:
    """The settings with the sizes of the comparison."""
    network, planner = settings.network, settings.planner
    network.encoder_width, network.encoder_layers = sizes.ENCODER_WIDTH, sizes.ENCODER_LAYERS
    network.mlp_width, network.latent_size = sizes.WIDTH, sizes.LATENT
    network.num_q, network.num_bins = sizes.NUM_Q, sizes.NUM_BINS
    network.precision = precision
    settings.world_model.batch_size = sizes.BATCH
    settings.world_model.horizon = planner.horizon = sizes.HORIZON
    planner.num_samples, planner.num_policy_samples = sizes.SAMPLES, sizes.POLICY_SAMPLES
    planner.iterations, planner.num_elites = sizes.ITERATIONS, sizes.ELITES
    return from_config_dict(settings)


def model_programs(cfg: Config) -> dict[str, Callable[[], Any]]:
    """One update of model and policy, and one plan of one state, without any simulator."""
    spec = TaskSpec(
        name=TASK,
        observation_size=sizes.OBSERVATION,
        action_size=sizes.ACTION,
        episode_length=1000,
        action_repeat=1,
        discount=0.99,
        can_terminate=False,
    )
    task: Any = OneTask((spec,))
    masks = np.ones((1, sizes.ACTION), np.float32)
    networks = make_networks(
        (spec,), masks, sizes.OBSERVATION, cfg.network,
        num_explorers=cfg.exploration.num_explorers if cfg.has_bonus else 0,
    )  # fmt: skip
    optimizers = make_optimizers(cfg, iterations=1, transitions=1)
    agent = jax.jit(lambda key: state.init_agent(networks, optimizers, key))(jax.random.key(0))
    parts = Parts(task, networks, optimizers, cfg)
    keys = jax.random.split(jax.random.key(1), 4)
    window = _window(keys[:2])
    once = jax.jit(
        lambda agent, key: replay_updates.update_from_windows(
            agent, window, jax.random.split(key, 3), parts=parts
        ),
        donate_argnums=0,
    )  # fmt: skip
    observation = jax.random.normal(keys[2], (1, sizes.OBSERVATION))
    plan_mean = jnp.zeros((1, sizes.HORIZON, sizes.ACTION))
    plan = jax.jit(
        lambda agent, observation, plan_mean, key: rollout.planned_actions(
            networks, rollout.plan_with_two_heads(agent, key), task, observation, plan_mean,
            key[None], explore=True, config=cfg,
        )
    )  # fmt: skip
    learned = [jax.tree.map(jnp.copy, agent)]

    def learn() -> Any:
        learned[0], metrics = once(learned[0], keys[3])
        return learned[0], metrics

    return {
        "update": learn,
        "plan": lambda: plan(agent, observation, plan_mean, keys[3]),
    }


def ppo_programs() -> dict[str, Callable[[], Any]]:
    """One training iteration of the PPO baseline."""
    settings = ppo.get_config(f"brax/{sizes.PPO_TASK}?backend=spring")
    settings.env.num_envs, settings.env.unroll_length = sizes.PPO_ENVS, sizes.PPO_UNROLL
    settings.env.action_repeat = 1
    settings.network.mlp_width = sizes.PPO_WIDTH
    settings.policy.epochs = settings.critic.epochs = sizes.PPO_EPOCHS
    settings.policy.minibatches = settings.critic.minibatches = sizes.PPO_MINIBATCHES
    settings.train.total_env_steps = 10_000_000
    settings.train.num_devices = 1
    experiment = make_experiment(from_config_dict(settings))
    step = sharding.shard_train_step(experiment.mesh, experiment)
    now = [sharding.shard_init(experiment.mesh, experiment)(jax.random.key(0))]

    def iteration() -> Any:
        now[0], metrics = step(now[0])
        return metrics

    return {"iteration": iteration}


def _window(keys: jax.Array) -> Window:
    shape = (sizes.HORIZON, sizes.BATCH)
    observation = jax.random.normal(keys[0], (*shape, sizes.OBSERVATION))
    return Window(
        observation=observation,
        pre_tanh_action=jax.random.normal(keys[1], (*shape, sizes.ACTION)),
        reward=jnp.ones(shape),
        termination=jnp.zeros(shape),
        next_observation=observation[::-1],
        task_id=jnp.zeros(sizes.BATCH, jnp.int32),
        mask=jnp.ones(shape),
    )


def main() -> None:
    """Compiles what the comparison asks for, then answers."""
    if sys.argv[1:] == ["ppo"]:
        turns.serve(ppo_programs(), jax.block_until_ready)
        return
    programs = model_programs(model_settings(tdmpc2.get_config(TASK), sys.argv[2]))
    ours = model_programs(model_settings(m3po.get_config(TASK), sys.argv[2]))
    programs |= {f"m3po_{name}": program for name, program in ours.items()}
    turns.serve(programs, jax.block_until_ready)


if __name__ == "__main__":
    main()
