"""One gradient update of each part of the agent, as pure functions.

With mesh axes in `axis_name` the data are this device's share; losses, gradients and statistics are
those of all data, and alike on every device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from m3po_jax.config import Config
from m3po_jax.learning.rollout import exploration_values, perceive
from m3po_jax.learning.state import AgentState
from m3po_jax.networks.factory import Networks
from m3po_jax.ops import checks, finite, returns, rows, statistics, two_hot
from m3po_jax.ops.minibatches import minibatches
from m3po_jax.policy import exploration
from m3po_jax.types import Metrics, Params, Trajectory, Window
from m3po_jax.world_model import losses as world_model_losses
from m3po_jax.world_model.latent import TaskContext, WorldModelLatent, task_context

# Weight of the past in the running statistics, per update of each.
STATISTICS_DECAY = 0.99
# How the metric of each module ends that counts its gradient steps that were left out.
SKIPPED = "/skipped"


def target_model(networks: Networks, agent: AgentState) -> WorldModelLatent:
    """The latent model that values with the EMA heads."""
    return WorldModelLatent(
        world_model=agent.params.world_model,
        q=agent.target_q,
        policy_params=agent.params.policy,
        networks=networks,
    )


def world_model_update(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    agent: AgentState,
    window: Window,
    discount: jax.Array,
    key: jax.Array,
    *,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> tuple[AgentState, jax.Array, Metrics]:
    """One step on the world-model loss, and the EMA of the Q heads.

    Neither is done if the loss or its gradient is not finite.

    Args:
        networks: The bundle.
        optimizer: The world model's optimizer.
        agent: The agent.
        window: Replayed windows of B.
        discount: gamma_k of the windows `[B]`.
        key: Consumed.
        cfg: The run's settings.
        axis_name: Mesh axes over which the windows are spread.

    Returns:
        The agent, the latents of all observations `[W + 1, B, Z]` and metrics.
    """
    head_key, target_key, dropout_key = jax.random.split(key, 3)
    params = agent.params.world_model
    context = task_context(networks, params, window.task_id)
    e = jnp.broadcast_to(context.e, (*window.reward.shape, context.e.shape[-1]))
    z_target = networks.encode(params, window.next_observation, e)
    model = target_model(networks, agent).two_heads(head_key)
    args = (model, z_target, context, window, discount, target_key)
    if cfg.world_model.value_target == "td":
        value_target = world_model_losses.td_targets(*args, axis_name=axis_name)
    else:
        value_target = world_model_losses.lambda_targets(
            *args, cfg=cfg.world_model, axis_name=axis_name
        )
    checks.check_finite("world model, replayed steps", window)
    checks.check_range("world model, replayed termination", window.termination, 0.0, 1.0)
    checks.check_finite("world model, latents of the next observations", z_target)
    checks.check_finite("world model, value targets", value_target)

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array]]:
        params = rows.spread(params, axis_name)
        losses, first = world_model_losses.world_model_losses(
            networks, params, window, z_target, value_target, dropout_key, axis_name=axis_name
        )
        total, means = world_model_losses.total_loss(
            losses, window.mask, cfg=cfg.world_model, axis_name=axis_name
        )
        return total, (means, first)

    (total, (means, first)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradient, agent.world_model_opt, params)
    params = optax.apply_updates(params, updates)
    new_agent = agent.replace(
        params=agent.params.replace(world_model=params),
        target_q=ema(agent.target_q, params["q"], cfg.world_model.tau),
        world_model_opt=opt_state,
    )
    taken = finite.is_finite("world_model", {"total": total, **means}, gradient)
    new_agent = finite.select(taken, new_agent, agent)
    metrics = {f"world_model/{name}_loss": value for name, value in means.items()}
    metrics[f"world_model{SKIPPED}"] = (~taken).astype(jnp.float32)
    metrics["world_model/loss"] = total
    metrics["world_model/gradient_norm"] = optax.tree.norm(gradient)
    metrics["world_model/value_target"] = rows.mean(value_target, axis_name)
    latents = jnp.concatenate([first[None], z_target])
    return new_agent, jax.lax.stop_gradient(latents), metrics


def critic_update(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    agent: AgentState,
    trajectory: Trajectory,
    discount: jax.Array,
    key: jax.Array,
    *,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> tuple[AgentState, Metrics]:
    """Fits V_mf to the lambda-returns of the fresh rollout (never to a bonus)."""
    context, z, z_next = encode_trajectory(networks, agent, trajectory)
    next_value = model_free_value(networks, agent, z_next, context.e)
    target = jax.vmap(
        lambda *args: returns.lambda_return(*args, lambda_=cfg.critic.lambda_),
        in_axes=1,
        out_axes=1,
    )(
        trajectory.reward,
        discount * (1.0 - trajectory.termination),
        next_value,
        continues(trajectory),
    )

    checks.check_finite("critic, lambda-returns", target)

    def loss_fn(params: Params, batch: Any) -> jax.Array:
        z, e, target, valid = batch
        logits = networks.value_logits(params, z, e)
        return statistics.masked_mean(
            two_hot.cross_entropy(logits, target, networks.support), valid, axis_name=axis_name
        )

    data = flatten((z, context.e, target, trajectory.valid))
    params, opt_state, fit_metrics = _fit(
        "critic",
        loss_fn,
        optimizer,
        agent.params.critic,
        agent.critic_opt,
        data,
        key,
        cfg=cfg,
        axis_name=axis_name,
    )
    agent = agent.replace(params=agent.params.replace(critic=params), critic_opt=opt_state)
    target_mean = statistics.masked_mean(target, trajectory.valid, axis_name=axis_name)
    return agent, {**fit_metrics, "critic/target": target_mean}


def exploration_update(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    agent: AgentState,
    trajectory: Trajectory,
    discount: jax.Array,
    key: jax.Array,
    *,
    cfg: Config,
    axis_name: tuple[str, ...] = (),
) -> tuple[AgentState, Metrics]:
    """Bonuses of the fresh rollout, and one fit of their critic Q_x (ALGORITHM section 4)."""
    context, z, z_next = encode_trajectory(networks, agent, trajectory)
    model = target_model(networks, agent)
    u, task_id, valid = trajectory.pre_tanh_action, trajectory.task_id, trajectory.valid
    q_mf = trajectory.reward + discount * (1.0 - trajectory.termination) * model_free_value(
        networks, agent, z_next, context.e
    )
    z_model, reward, continuation = model.next(z, u, context)
    q_mb = reward + discount * continuation * model.state_value(z_model, context)
    moments = statistics.update_running_moments(
        agent.statistics.discrepancy,
        jnp.abs(q_mf - q_mb),
        task_id,
        valid,
        decay=STATISTICS_DECAY,
        axis_name=axis_name,
    )
    moments = finite.keep_finite(moments, agent.statistics.discrepancy)
    value = model_free_value(networks, agent, z, context.e)
    bonus = exploration.discrepancy_bonus(
        q_mf,
        q_mb,
        value,
        task_id,
        moments,
        cfg=cfg.exploration,
        valid=valid,
        axis_name=axis_name,
    )

    next_mean, _ = model.policy(z_next, context)
    next_value = exploration_values(networks, agent.target_exploration, z_next, next_mean, context)
    largest = cfg.exploration.max_bonus
    checks.check_range("exploration, bonus", bonus, -largest, largest)
    target = bonus + cfg.exploration.discount * (1.0 - trajectory.termination) * next_value

    def loss_fn(params: Params, batch: Any) -> jax.Array:
        z, a, e, target, valid = batch
        logits = networks.exploration_logits(params, z, a, e)
        return statistics.masked_mean(
            two_hot.cross_entropy(logits, target, networks.support), valid, axis_name=axis_name
        )

    data = flatten((z, jnp.tanh(u) * context.action_mask, context.e, target, valid))
    old, old_opt = agent.params.exploration, agent.exploration_opt
    params, opt_state, fit_metrics = _fit(
        "exploration",
        loss_fn,
        optimizer,
        old,
        old_opt,
        data,
        key,
        cfg=cfg,
        axis_name=axis_name,
    )
    agent = agent.replace(
        params=agent.params.replace(exploration=params),
        target_exploration=ema(agent.target_exploration, params, cfg.exploration.tau),
        exploration_opt=opt_state,
        statistics=agent.statistics.replace(discrepancy=moments),
    )

    def mean_per_task(x: jax.Array) -> jax.Array:
        num_tasks = moments.mean.shape[0]
        return statistics.per_task_moments(
            x, task_id, valid, num_tasks=num_tasks, axis_name=axis_name
        )[0]

    metrics = {
        **fit_metrics,
        "exploration/bonus": mean_per_task(bonus),
        "exploration/discrepancy": mean_per_task(jnp.abs(q_mf - q_mb)),
    }
    return agent, metrics


def continues(trajectory: Trajectory) -> jax.Array:
    """What `ops.returns` calls `continue_t`, `[T, B]`: 0 where the next row must not count.

    That is where the episode ended, and before a step whose physics failed: such a row holds
    neither the reward nor the successor of its state, so the step before it bootstraps from the
    value of its own successor, as at a truncation.
    """
    ended = jnp.maximum(trajectory.termination, trajectory.truncation)
    next_valid = jnp.concatenate([trajectory.valid[1:], jnp.ones_like(trajectory.valid[:1])])
    return (1.0 - ended) * next_valid


def encode_trajectory(
    networks: Networks, agent: AgentState, trajectory: Trajectory
) -> tuple[TaskContext, jax.Array, jax.Array]:
    """Contexts `[T, B, ...]`, latents and latents of the true successors `[T, B, Z]`."""
    context, z = perceive(networks, agent, trajectory.observation, trajectory.task_id)
    _, z_next = perceive(networks, agent, trajectory.next_observation, trajectory.task_id)
    return context, z, z_next


def model_free_value(
    networks: Networks, agent: AgentState, z: jax.Array, e: jax.Array
) -> jax.Array:
    """V_mf(z, e) `[...]`."""
    return two_hot.decode(networks.value_logits(agent.params.critic, z, e), networks.support)


def ema(target: Params, source: Params, tau: float) -> Params:
    """`(1 - tau) * target + tau * source`."""
    return optax.incremental_update(source, target, tau)


def flatten(tree: Any) -> Any:
    """Samples `[B * T, ...]` of time-major leaves `[T, B, ...]`, those of a row together.

    So samples that lie on one device are consecutive in the order of all samples.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def _fit(
    module: str,
    loss_fn: Any,
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    data: Any,
    key: jax.Array,
    *,
    cfg: Config,
    axis_name: tuple[str, ...],
) -> tuple[Params, optax.OptState, Metrics]:
    """Epochs of regression; the metrics are the last loss and gradient norm, and steps left out."""

    def step(carry: tuple, batch: Any) -> tuple[tuple, tuple[jax.Array, ...]]:
        params, _ = carry
        loss, gradient = jax.value_and_grad(
            lambda params: loss_fn(rows.spread(params, axis_name), batch)
        )(params)
        taken = finite.is_finite(module, {"total": loss}, gradient)
        updates, opt_state = optimizer.update(gradient, carry[1], params)
        new = finite.select(taken, (optax.apply_updates(params, updates), opt_state), carry)
        return new, (loss, optax.tree.norm(gradient), (~taken).astype(jnp.float32))

    batches = minibatches(
        data,
        key,
        epochs=cfg.critic.epochs,
        num_minibatches=cfg.critic.minibatches,
        axis_name=axis_name,
    )
    (params, opt_state), (loss, norm, skipped) = jax.lax.scan(step, (params, opt_state), batches)
    return (
        params,
        opt_state,
        {
            f"{module}/loss": loss[-1],
            f"{module}/gradient_norm": norm[-1],
            f"{module}{SKIPPED}": jnp.sum(skipped),
        },
    )
