"""The model-free critic V_mf, fitted to the fresh rollout."""

from typing import Any

import jax

from m3po_jax.learning.fitting import fit, flatten
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.perception import encode_trajectory
from m3po_jax.learning.state import AgentState
from m3po_jax.learning.values import continues, model_free_value
from m3po_jax.ops import checks, returns, statistics, two_hot
from m3po_jax.types import Metrics, Params, Trajectory


def critic_update(
    agent: AgentState, trajectory: Trajectory, discount: jax.Array, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """Fits V_mf to the lambda-returns of the fresh rollout (never to a bonus).

    Args:
        agent: The agent.
        trajectory: The fresh rollout `[T, B, ...]`.
        discount: gamma_k of the environments `[B]`.
        key: Consumed.
        parts: What the iteration is made of.
    """
    networks, axis_name = parts.networks, parts.axis_name
    context, z, z_next = encode_trajectory(networks, agent, trajectory)
    next_value = model_free_value(networks, agent, z_next, context.e)
    target = jax.vmap(
        lambda *args: returns.lambda_return(*args, lambda_=parts.config.critic.lambda_),
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
    agent, metrics = fit("critic", loss_fn, agent, data, key, parts=parts)
    target_mean = statistics.masked_mean(target, trajectory.valid, axis_name=axis_name)
    return agent, {**metrics, "critic/target": target_mean}
