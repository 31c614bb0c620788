"""The bonus of the fresh rollout, and its critic Q_x (docs/concepts.md)."""

from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.learning.fitting import ema, fit, flatten
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.perception import encode_trajectory
from m3po_jax.learning.state import STATISTICS_DECAY, AgentState
from m3po_jax.learning.values import exploration_values, model_free_value, target_model
from m3po_jax.networks.factory import Networks
from m3po_jax.ops import checks, finite, statistics, two_hot
from m3po_jax.policy import exploration
from m3po_jax.types import Metrics, Params, Trajectory
from m3po_jax.world_model.latent import TaskContext


def exploration_update(
    agent: AgentState, trajectory: Trajectory, discount: jax.Array, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """Bonuses of the fresh rollout, and one fit of their critic Q_x.

    Args:
        agent: The agent.
        trajectory: The fresh rollout `[T, B, ...]`.
        discount: gamma_k of the environments `[B]`.
        key: Consumed.
        parts: What the iteration is made of.
    """
    networks, config = parts.networks, parts.config.exploration
    context, z, z_next = encode_trajectory(networks, agent, trajectory)
    q_mf, q_mb = _two_values(networks, agent, trajectory, discount, z, z_next, context)
    moments = _discrepancy_moments(agent, jnp.abs(q_mf - q_mb), trajectory, parts)
    bonus = exploration.discrepancy_bonus(q_mf, q_mb, trajectory.task_id, moments, config=config)
    agent, fit_metrics = _fit_bonus_critic(
        agent, trajectory, z, z_next, context, bonus, key, parts=parts
    )
    agent = agent.replace(
        target_exploration=ema(agent.target_exploration, agent.params.exploration, config.tau),
        statistics=agent.statistics.replace(discrepancy=moments),
    )

    def mean_per_task(x: jax.Array) -> jax.Array:
        return statistics.per_task_moments(
            x,
            trajectory.task_id,
            trajectory.valid,
            num_tasks=moments.mean.shape[0],
            axis_name=parts.axis_name,
        )[0]

    metrics = {
        **fit_metrics,
        "exploration/bonus": mean_per_task(bonus),
        "exploration/discrepancy": mean_per_task(jnp.abs(q_mf - q_mb)),
    }
    return agent, metrics


def _two_values(
    networks: Networks,
    agent: AgentState,
    trajectory: Trajectory,
    discount: jax.Array,
    z: jax.Array,
    z_next: jax.Array,
    context: TaskContext,
) -> tuple[jax.Array, jax.Array]:
    """Values of the steps `[T, B]`: by what happened and V_mf, and by the world model alone."""
    model = target_model(networks, agent)
    q_mf = trajectory.reward + discount * (1.0 - trajectory.termination) * model_free_value(
        networks, agent, z_next, context.e
    )
    z_model, reward, continuation = model.next(z, trajectory.pre_tanh_action, context)
    q_mb = reward + discount * continuation * model.state_value(z_model, context)
    return q_mf, q_mb


def _discrepancy_moments(
    agent: AgentState, discrepancy: jax.Array, trajectory: Trajectory, parts: Parts
) -> statistics.RunningMoments:
    """The running moments with those of this rollout; as they were if these are not finite."""
    moments = statistics.update_running_moments(
        agent.statistics.discrepancy,
        discrepancy,
        trajectory.task_id,
        trajectory.valid,
        decay=STATISTICS_DECAY,
        axis_name=parts.axis_name,
    )
    return finite.keep_finite(moments, agent.statistics.discrepancy)


def _fit_bonus_critic(
    agent: AgentState,
    trajectory: Trajectory,
    z: jax.Array,
    z_next: jax.Array,
    context: TaskContext,
    bonus: jax.Array,
    key: jax.Array,
    *,
    parts: Parts,
) -> tuple[AgentState, Metrics]:
    """Fits Q_x to the bonuses `[T, B]` and to what its EMA expects after them."""
    networks, config = parts.networks, parts.config.exploration
    next_mean, _ = target_model(networks, agent).policy(z_next, context)
    next_value = exploration_values(networks, agent.target_exploration, z_next, next_mean, context)
    checks.check_range("exploration, bonus", bonus, 0.0, config.max_bonus)
    target = bonus + config.discount * (1.0 - trajectory.termination) * next_value

    def loss_fn(params: Params, batch: Any) -> jax.Array:
        z, a, e, target, valid = batch
        logits = networks.exploration_logits(params, z, a, e)
        return statistics.masked_mean(
            two_hot.cross_entropy(logits, target, networks.support),
            valid,
            axis_name=parts.axis_name,
        )

    action = jnp.tanh(trajectory.pre_tanh_action) * context.action_mask
    data = flatten((z, action, context.e, target, trajectory.valid))
    return fit("exploration", loss_fn, agent, data, key, parts=parts)
