"""Which known task a new one is nearest to, as the world model sees it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.networks.factory import Networks
from m3po_jax.ops import statistics, two_hot
from m3po_jax.training import rollout
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.experiment import Experiment, make_experiment, on_one_device
from m3po_jax.training.state import AgentState, RolloutState
from m3po_jax.types import Params, Trajectory

# Random steps of each environment of a new task.
STEPS = 128


def nearest_tasks(
    new: Experiment, agent: AgentState, known: Sequence[str], embeddings: jax.Array
) -> dict[str, str]:
    """The known task of each task of a run whose embedding predicts its rewards best.

    Every environment takes `STEPS` random steps; the model is rolled forward over windows of its
    training horizon with the actions taken, once with each embedding. The likelihood of the rewards
    decides: latents that were encoded with different embeddings cannot be compared.

    Args:
        new: The run.
        agent: Its agent, moved to the sizes of the run.
        known: Names of the known tasks.
        embeddings: Their embeddings `[J, E]`.

    Returns:
        A known task for every task of the run.
    """
    single = make_experiment(on_one_device(new.config))
    env, networks, cfg = single.env, single.networks, single.config
    cfg = dataclasses.replace(
        cfg,
        env=dataclasses.replace(cfg.env, unroll_length=STEPS),
        # All actions are random, so no planner need be compiled.
        planner=dataclasses.replace(cfg.planner, collect=False),
    )

    def measure(agent: AgentState, embeddings: jax.Array, key: jax.Array) -> jax.Array:
        start_key, key = jax.random.split(key)
        plan_mean = jnp.zeros((env.batch_size, cfg.planner.horizon, env.action_size))
        start = RolloutState(env.init(start_key, stagger=False), plan_mean)
        _, trajectory, _, _ = rollout.collect(
            env, networks, agent, start, key, beta=None, random=jnp.asarray(True), cfg=cfg
        )
        return reward_losses(
            networks,
            agent.params.world_model,
            embeddings,
            trajectory,
            horizon=cfg.world_model.horizon,
            num_tasks=len(env.specs),
        )

    inputs = (*jax.device_get((agent, embeddings)), jax.random.key(new.config.seed))
    losses = compile_program(jax.jit(measure).lower(*inputs))(*inputs)
    best = np.argmin(losses, axis=0)
    return {spec.name: known[row] for spec, row in zip(env.specs, best, strict=True)}


def reward_losses(
    networks: Networks,
    world_model: Params,
    embeddings: jax.Array,
    trajectory: Trajectory,
    *,
    horizon: int,
    num_tasks: int,
) -> jax.Array:
    """Cross-entropy of the rewards of each task, predicted with each embedding in its place.

    Args:
        networks: The bundle.
        world_model: World-model parameters.
        embeddings: `[J, E]`.
        trajectory: Steps `[T, B]`, T at least `horizon`.
        horizon: Steps from one encoded observation; what follows the end of an episode is left out.
        num_tasks: Number of tasks K.

    Returns:
        Means over steps and environments `[J, K]`, in nats.
    """
    windows = jax.tree.map(lambda x: _windows(x, horizon), trajectory)
    ended = jnp.maximum(windows.termination, windows.truncation)
    before = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
    mask = windows.valid * jnp.cumprod(1.0 - before, axis=0)
    action_mask = networks.action_mask(windows.task_id[0])

    def loss(embedding: jax.Array) -> jax.Array:
        e = jnp.broadcast_to(embedding, (*action_mask.shape[:-1], embedding.shape[-1]))

        def step(z: jax.Array, real: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            u, reward = real
            a = jnp.tanh(u) * action_mask
            logits = networks.apply_model(world_model, "reward_logits", z, a, e)
            z = networks.apply_model(world_model, "next_latent", z, a, e)
            return z, two_hot.cross_entropy(logits, reward, networks.support)

        first = networks.encode(world_model, windows.observation[0], e)
        _, losses = jax.lax.scan(step, first, (windows.pre_tanh_action, windows.reward))
        mean, _, _ = statistics.per_task_moments(losses, windows.task_id, mask, num_tasks=num_tasks)
        return mean

    return jax.vmap(loss)(embeddings)


def _windows(x: jax.Array, horizon: int) -> jax.Array:
    """Steps `[T, B, ...]` cut into windows of equal length `[horizon, N, ...]`."""
    count = x.shape[0] // horizon
    cut = x[: count * horizon].reshape(count, horizon, *x.shape[1:])
    return jnp.moveaxis(cut, 1, 0).reshape(horizon, count * x.shape[1], *x.shape[2:])
