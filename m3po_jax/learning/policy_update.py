"""The policy's data, imagined or real, and its trust-region update, as pure functions.

With mesh axes in `axis_name` the data are this device's share; losses, gradients and statistics are
those of all data, and alike on every device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from m3po_jax.config import Config
from m3po_jax.learning.rollout import exploration_values
from m3po_jax.learning.state import AgentState
from m3po_jax.learning.update import (
    STATISTICS_DECAY,
    continues,
    encode_trajectory,
    flatten,
    model_free_value,
    target_model,
)
from m3po_jax.networks.factory import Networks
from m3po_jax.ops import checks, distributions, finite, policy_gradient, returns, rows, statistics
from m3po_jax.policy import trust_region
from m3po_jax.policy.trust_region import Gaussians
from m3po_jax.types import Metrics, Params, Trajectory
from m3po_jax.world_model.imagine import imagine, reach_probability
from m3po_jax.world_model.latent import TaskContext, task_context


class PolicyData(NamedTuple):
    """Samples of a policy update."""

    z: jax.Array  # [N, Z]
    context: TaskContext  # [N, ...]
    u: jax.Array  # [N, A]
    old: Gaussians  # [N, A] the policy before the update
    advantage: jax.Array  # [N]
    weight: jax.Array  # [N]
    behaviour: Gaussians  # [N, A] what drew u; equals `old` for imagined data


def imagined_policy_data(
    networks: Networks,
    agent: AgentState,
    z: jax.Array,
    task_id: jax.Array,
    discount: jax.Array,
    key: jax.Array,
    *,
    beta: jax.Array | None,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> PolicyData:
    """On-policy samples imagined from replayed states (ALGORITHM section 3, `imagined`).

    Args:
        networks: The bundle.
        agent: The agent; its policy is the old policy.
        z: Start latents `[B, Z]`.
        task_id: `[B]`.
        discount: gamma_k `[B]`.
        key: Consumed.
        beta: Weight of the exploration advantage, or `None`.
        cfg: The run's settings.
        axis_name: Mesh axes over which the data are spread.

    Returns:
        `imagined_horizon * B` samples.
    """
    head_key, action_key = jax.random.split(key)
    model = target_model(networks, agent).two_heads(head_key)
    context = task_context(networks, agent.params.world_model, task_id)
    shape = (cfg.policy.imagined_horizon, networks.action_size)
    noise = rows.normal(action_key, rows.numbers(z.shape[0], axis_name), shape)
    imagined = imagine(model, z, context, jnp.swapaxes(noise, 0, 1))
    value = model.state_value(jnp.concatenate([imagined.z, imagined.z_next[-1:]]), context)
    gae = jax.vmap(
        lambda r, d, v0, v1: returns.gae(
            r, d, v0, v1, jnp.ones_like(r), lambda_=cfg.policy.lambda_
        ),
        in_axes=1,
        out_axes=1,
    )
    advantage = gae(imagined.reward, discount * imagined.continuation, value[:-1], value[1:])
    tasks = jnp.broadcast_to(task_id, advantage.shape)
    old = Gaussians(imagined.mean, imagined.std)
    weight = reach_probability(imagined.continuation)
    data = PolicyData(imagined.z, context, imagined.u, old, advantage, weight, old)
    # Without termination the weights are 1: a constant, that nothing need be multiplied with.
    counts = weight if networks.world_model.has_termination else jnp.ones_like(weight)
    advantage = _combined_advantage(
        networks, agent, data, tasks, counts, beta=beta, axis_name=axis_name
    )
    return _flat(data._replace(advantage=advantage))


def real_policy_data(
    networks: Networks,
    agent: AgentState,
    trajectory: Trajectory,
    discount: jax.Array,
    *,
    beta: jax.Array | None,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> PolicyData:
    """Samples of the fresh rollout, importance-weighted (ALGORITHM section 3, `real`).

    The planner's Gaussian drew the actions; the advantage carries `min(1, pi_old / mu)`.

    Args:
        networks: The bundle.
        agent: The agent that collected.
        trajectory: The fresh rollout `[T, B, ...]`.
        discount: gamma_k of the environments `[B]`.
        beta: Weight of the exploration advantage, or `None`.
        cfg: The run's settings.
        axis_name: Mesh axes over which the data are spread.

    Returns:
        `T * B` samples.
    """
    context, z, z_next = encode_trajectory(networks, agent, trajectory)
    mean, std = networks.policy(agent.params.policy, z, context.e, context.action_mask)
    old = Gaussians(mean, std)
    value, next_value = (model_free_value(networks, agent, x, context.e) for x in (z, z_next))
    gae = jax.vmap(
        lambda *args: returns.gae(*args, lambda_=cfg.policy.lambda_), in_axes=1, out_axes=1
    )
    advantage = gae(
        trajectory.reward,
        discount * (1.0 - trajectory.termination),
        value,
        next_value,
        continues(trajectory),
    )
    u = trajectory.pre_tanh_action
    behaviour = Gaussians(trajectory.behaviour_mean, trajectory.behaviour_std)
    data = PolicyData(z, context, u, old, advantage, trajectory.valid, behaviour)
    advantage = _combined_advantage(
        networks, agent, data, trajectory.task_id, data.weight, beta=beta, axis_name=axis_name
    )
    log_weight = distributions.log_prob(u, mean, std, context.action_mask) - distributions.log_prob(
        u, behaviour.mean, behaviour.std, context.action_mask
    )
    advantage *= policy_gradient.importance_weight(log_weight)
    return _flat(data._replace(advantage=advantage))


def policy_update(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    agent: AgentState,
    data: PolicyData,
    key: jax.Array,
    *,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> tuple[AgentState, Metrics]:
    """One trust-region update of the policy with the likelihood-ratio surrogate."""
    checks.check_finite("policy, samples and advantages", data)
    clip = cfg.policy.clip_epsilon if cfg.policy.trust_region == "clip" else None

    def loss_fn(params: Params, batch: PolicyData, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # The samples are fixed.
        mask = batch.context.action_mask
        new = Gaussians(*networks.policy(params, batch.z, batch.context.e, mask))
        loss, kl = trust_region.surrogate_loss(
            new,
            batch.old,
            batch.u,
            batch.advantage,
            batch.weight,
            mask,
            clip_epsilon=clip,
            entropy_scale=cfg.policy.entropy_scale,
            axis_name=axis_name,
        )
        if cfg.policy.planner_kl_scale > 0.0:
            planner_kl = trust_region.mean_kl(
                batch.behaviour, new, batch.weight, mask, axis_name=axis_name
            )
            loss += cfg.policy.planner_kl_scale * planner_kl
        return loss, kl

    return _apply_policy_update(loss_fn, optimizer, agent, data, key, cfg=cfg, axis_name=axis_name)


def pathwise_policy_update(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    agent: AgentState,
    z: jax.Array,
    task_id: jax.Array,
    key: jax.Array,
    *,
    beta: jax.Array | None,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> tuple[AgentState, Metrics]:
    """One update of the policy along the gradient of Q (TD-MPC2; `pathwise` in ALGORITHM 3).

    Args:
        networks: The bundle.
        optimizer: The policy's optimizer.
        agent: The agent; its policy is the old policy.
        z: Latents of windows `[T, B, Z]`; the first of each give the scale of values, as in
            TD-MPC2.
        task_id: `[B]`.
        key: Consumed.
        beta: Weight of the exploration value, or `None`.
        cfg: The run's settings.
        axis_name: Mesh axes over which the data are spread.
    """
    head_key, key = jax.random.split(key)
    online = target_model(networks, agent).replace(q=agent.params.world_model["q"])
    online = online.two_heads(head_key)
    first_context = task_context(networks, agent.params.world_model, task_id)
    value = online.state_value(z[0], first_context)
    value_scale = statistics.update_running_scale(
        agent.statistics.value_scale,
        value,
        task_id,
        jnp.ones_like(value),
        decay=STATISTICS_DECAY,
        axis_name=axis_name,
    )
    value_scale = finite.keep_finite(value_scale, agent.statistics.value_scale)
    agent = agent.replace(statistics=agent.statistics.replace(value_scale=value_scale))
    z, task_id = flatten((z, jnp.broadcast_to(task_id, z.shape[:2])))
    context = task_context(networks, agent.params.world_model, task_id)
    old = Gaussians(*networks.policy(agent.params.policy, z, context.e, context.action_mask))
    data = (
        z,
        context,
        old,
        value_scale.scale[task_id],
        rows.numbers(z.shape[0], axis_name),
    )

    def loss_fn(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        z, context, old, scale, row = batch
        mask = context.action_mask
        new = Gaussians(*networks.policy(params, z, context.e, mask))
        u = new.mean + new.std * rows.normal(key, row, new.mean.shape[1:])
        score = online.value(z, u, context)
        if beta is not None:
            bonus = exploration_values(networks, agent.params.exploration, z, u, context)
            score += scale * beta * bonus
        ones = jnp.ones_like(scale)
        loss = trust_region.pathwise_loss(
            new,
            u,
            score,
            scale,
            ones,
            mask,
            entropy_scale=cfg.policy.entropy_scale,
            axis_name=axis_name,
        )
        return loss, trust_region.mean_kl(old, new, ones, mask, axis_name=axis_name)

    return _apply_policy_update(loss_fn, optimizer, agent, data, key, cfg=cfg, axis_name=axis_name)


def _combined_advantage(
    networks: Networks,
    agent: AgentState,
    data: PolicyData,
    task_id: jax.Array,
    weight: jax.Array,
    *,
    beta: jax.Array | None,
    axis_name: tuple[str, ...],
) -> jax.Array:
    """Per-task normalised task advantage plus `beta * (Q_x(z, u) - Q_x(z, pi(z)))`.

    In mean and deviation samples have the `weight` that they have in the loss.
    """
    advantage = statistics.normalize_per_task(
        data.advantage,
        task_id,
        weight,
        num_tasks=networks.world_model.num_tasks,
        axis_name=axis_name,
    )
    if beta is None:
        return advantage

    def q_x(u: jax.Array) -> jax.Array:
        params = agent.params.exploration
        return exploration_values(networks, params, data.z, u, data.context)

    return advantage + beta * (q_x(data.u) - q_x(data.old.mean))


def _flat(data: PolicyData) -> PolicyData:
    """Samples `[N, ...]` of data with two leading axes; the context is broadcast to them."""
    lead = data.advantage.shape
    context = jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, x.shape[-1])), data.context)
    flat: PolicyData = flatten(jax.lax.stop_gradient(data._replace(context=context)))
    return flat


def _apply_policy_update(
    loss_fn: trust_region.LossFn,
    optimizer: optax.GradientTransformation,
    agent: AgentState,
    data: Any,
    key: jax.Array,
    *,
    cfg: Config,
    axis_name: tuple[str, ...],
) -> tuple[AgentState, Metrics]:
    params, state, metrics = trust_region.trust_region_update(
        loss_fn,
        agent.params.policy,
        agent.policy_opt,
        data,
        key,
        optimizer=optimizer,
        cfg=cfg.policy,
        axis_name=axis_name,
    )
    agent = agent.replace(params=agent.params.replace(policy=params), policy_opt=state)
    return agent, {f"policy/{name}": value for name, value in metrics.items()}


def trust_region_metrics(
    metrics: Metrics,
    data: PolicyData | None,
    cfg: Config,
    axis_name: tuple[str, ...],
) -> Metrics:
    """Adds what shows whether the trust region held, and the old policy's entropy."""
    kl = metrics["policy/kl"]
    metrics = dict(metrics)
    metrics["policy/kl_max"] = kl
    metrics["policy/kl_over_bound"] = (
        kl > trust_region.KL_BOUND_FACTOR * cfg.policy.kl_target
    ).astype(jnp.float32)
    if data is not None:
        entropy = distributions.entropy(data.old.std, data.context.action_mask)
        metrics["policy/entropy"] = rows.mean(entropy, axis_name)
    return metrics
