"""The policy's data, imagined or real, and its trust-region update, as pure functions.

With mesh axes in `parts` the data are this device's share; losses, gradients and statistics are
those of all data, and equal on all devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.learning.fitting import flatten
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.perception import encode_trajectory
from m3po_jax.learning.state import STATISTICS_DECAY, AgentState
from m3po_jax.learning.values import (
    continues,
    model_free_value,
    online_model,
    target_model,
)
from m3po_jax.ops import checks, distributions, finite, policy_gradient, returns, rows, statistics
from m3po_jax.policy import trust_region
from m3po_jax.policy.trust_region import Gaussians
from m3po_jax.types import Metrics, Params, Trajectory
from m3po_jax.world_model.imagine import imagine, reach_probability
from m3po_jax.world_model.latent import TaskContext, task_context

# Advantages that differ by less, as a share of the range of the task's rewards, are noise.
_ADVANTAGE_FLOOR = 0.005


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
    agent: AgentState,
    z: jax.Array,
    task_id: jax.Array,
    key: jax.Array,
    *,
    parts: Parts,
) -> PolicyData:
    """On-policy samples imagined from replayed states (`imagined` in docs/concepts.md).

    Args:
        agent: The agent; its policy is the old policy.
        z: Start latents `[B, Z]`.
        task_id: `[B]`.
        key: Consumed.
        parts: What the iteration is made of.

    Returns:
        `imagined_horizon * B` samples.
    """
    networks, config = parts.networks, parts.config.policy
    discount = jnp.asarray(parts.env.discount)[task_id]
    head_key, action_key = jax.random.split(key)
    model = target_model(networks, agent).two_heads(head_key)
    context = task_context(networks, agent.params.world_model, task_id)
    shape = (config.imagined_horizon, networks.action_size)
    noise = rows.normal(action_key, rows.numbers(z.shape[0], parts.axis_name), shape)
    imagined = imagine(model, z, context, jnp.swapaxes(noise, 0, 1))
    value = model.state_value(jnp.concatenate([imagined.z, imagined.z_next[-1:]]), context)
    gae = jax.vmap(
        lambda r, d, v0, v1: returns.gae(r, d, v0, v1, jnp.ones_like(r), lambda_=config.lambda_),
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
    advantage = _normalized_advantage(agent, advantage, tasks, counts, parts=parts)
    return _flat(data._replace(advantage=advantage))


def real_policy_data(
    agent: AgentState,
    trajectory: Trajectory,
    discount: jax.Array,
    *,
    parts: Parts,
) -> PolicyData:
    """Importance-weighted samples of the fresh rollout (`real` in docs/concepts.md).

    The planner's Gaussian drew the actions; the advantage carries `min(1, pi_old / mu)`.

    Args:
        agent: The agent that collected.
        trajectory: The fresh rollout `[T, B, ...]`.
        discount: gamma_k of the environments `[B]`.
        parts: What the iteration is made of.

    Returns:
        `T * B` samples.
    """
    networks = parts.networks
    context, z, z_next = encode_trajectory(networks, agent, trajectory)
    mean, std = networks.policy(agent.params.policy, z, context.e, context.action_mask)
    old = Gaussians(mean, std)
    value, next_value = (model_free_value(networks, agent, x, context.e) for x in (z, z_next))
    gae = jax.vmap(
        lambda *args: returns.gae(*args, lambda_=parts.config.policy.lambda_),
        in_axes=1,
        out_axes=1,
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
    advantage = _normalized_advantage(
        agent, advantage, trajectory.task_id, data.weight, parts=parts
    )
    log_weight = distributions.log_prob(u, mean, std, context.action_mask) - distributions.log_prob(
        u, behaviour.mean, behaviour.std, context.action_mask
    )
    advantage *= policy_gradient.importance_weight(log_weight)
    return _flat(data._replace(advantage=advantage))


def policy_update(
    agent: AgentState, data: PolicyData, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """One trust-region update of the policy with the likelihood-ratio surrogate."""
    checks.check_finite("policy, samples and advantages", data)
    config, axis_name = parts.config.policy, parts.axis_name
    clip = config.clip_epsilon if config.trust_region == "clip" else None

    def loss_fn(params: Params, batch: PolicyData, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # The samples are fixed.
        mask = batch.context.action_mask
        new = Gaussians(*parts.networks.policy(params, batch.z, batch.context.e, mask))
        loss, kl = trust_region.surrogate_loss(
            new,
            batch.old,
            batch.u,
            batch.advantage,
            batch.weight,
            mask,
            clip_epsilon=clip,
            entropy_scale=config.entropy_scale,
            axis_name=axis_name,
        )
        if config.planner_kl_scale > 0.0:
            planner_kl = trust_region.mean_kl(
                batch.behaviour, new, batch.weight, mask, axis_name=axis_name
            )
            loss += config.planner_kl_scale * planner_kl
        return loss, kl

    agent, metrics = _apply_policy_update(loss_fn, agent, data, key, parts=parts)
    entropy = distributions.entropy(data.old.std, data.context.action_mask)
    return agent, {**metrics, "policy/entropy": rows.mean(entropy, axis_name)}


def pathwise_policy_update(
    agent: AgentState,
    z: jax.Array,
    task_id: jax.Array,
    key: jax.Array,
    *,
    parts: Parts,
) -> tuple[AgentState, Metrics]:
    """One update of the policy along the gradient of Q (`pathwise` in docs/concepts.md).

    Args:
        agent: The agent; its policy is the old policy.
        z: Latents of windows `[T, B, Z]`; the first of each give the scale of values, as in
            TD-MPC2.
        task_id: `[B]`.
        key: Consumed.
        parts: What the iteration is made of.
    """
    networks, axis_name = parts.networks, parts.axis_name
    head_key, key = jax.random.split(key)
    online = online_model(networks, agent).two_heads(head_key)
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
        ones = jnp.ones_like(scale)
        loss = trust_region.pathwise_loss(
            new,
            u,
            online.value(z, u, context),
            scale,
            ones,
            mask,
            entropy_scale=parts.config.policy.entropy_scale,
            axis_name=axis_name,
        )
        return loss, trust_region.mean_kl(old, new, ones, mask, axis_name=axis_name)

    return _apply_policy_update(loss_fn, agent, data, key, parts=parts)


def _normalized_advantage(
    agent: AgentState,
    advantage: jax.Array,
    task_id: jax.Array,
    weight: jax.Array,
    *,
    parts: Parts,
) -> jax.Array:
    """Advantages of mean 0 and deviation 1 per task, or less where only noise makes them differ.

    In mean and deviation samples have the `weight` that they have in the loss.
    """
    return statistics.normalize_per_task(
        advantage,
        task_id,
        weight,
        num_tasks=parts.num_tasks,
        min_std=_ADVANTAGE_FLOOR * agent.statistics.reward.width,
        axis_name=parts.axis_name,
    )


def _flat(data: PolicyData) -> PolicyData:
    """Samples `[N, ...]` of data with two leading axes; the context is broadcast to them."""
    lead = data.advantage.shape
    context = jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, x.shape[-1])), data.context)
    flat: PolicyData = flatten(jax.lax.stop_gradient(data._replace(context=context)))
    return flat


def _apply_policy_update(
    loss_fn: trust_region.LossFn, agent: AgentState, data: Any, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """The update within the trust region, with metrics that show whether it held."""
    params, state, metrics = trust_region.trust_region_update(
        loss_fn,
        agent.params.policy,
        agent.policy_opt,
        data,
        key,
        optimizer=parts.optimizers.policy,
        config=parts.config.policy,
        axis_name=parts.axis_name,
    )
    agent = agent.replace(params=agent.params.replace(policy=params), policy_opt=state)
    kl = metrics["kl"]
    bound = trust_region.KL_BOUND_FACTOR * parts.config.policy.kl_target
    shown = {**metrics, "kl_max": kl, "kl_over_bound": (kl > bound).astype(jnp.float32)}
    return agent, {f"policy/{name}": value for name, value in shown.items()}
