"""Regression of a critic on the fresh rollout, and what updates share."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from m3po_jax.learning.metrics import SKIPPED
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.state import AgentState
from m3po_jax.ops import finite, rows
from m3po_jax.ops.minibatches import minibatches
from m3po_jax.types import Metrics, Params


def fit(
    module: str, loss_fn: Any, agent: AgentState, data: Any, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """Epochs of regression of a critic.

    Args:
        module: `critic` or `exploration`, as its parameters, optimizer and metrics are named.
        loss_fn: The loss `[]` of parameters and a minibatch, over all devices.
        agent: The agent.
        data: Pytree of this device's samples `[N, ...]`.
        key: Consumed.
        parts: What the iteration is made of.

    Returns:
        The agent, and the last loss and gradient norm and the number of steps left out.
    """
    optimizer = getattr(parts.optimizers, module)

    def step(carry: tuple, batch: Any) -> tuple[tuple, tuple[jax.Array, ...]]:
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(
            lambda params: loss_fn(rows.spread(params, parts.axis_name), batch)
        )(params)
        taken = finite.is_finite(module, {"total": loss}, gradient)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        new = finite.select(taken, (optax.apply_updates(params, updates), opt_state), carry)
        return new, (loss, optax.tree.norm(gradient), (~taken).astype(jnp.float32))

    start = (getattr(agent.params, module), getattr(agent, f"{module}_opt"))
    batches = minibatches(
        data,
        key,
        epochs=parts.config.critic.epochs,
        num_minibatches=parts.config.critic.minibatches,
        axis_name=parts.axis_name,
    )
    (params, opt_state), (loss, norm, skipped) = jax.lax.scan(step, start, batches)
    agent = agent.replace(
        params=agent.params.replace(**{module: params}), **{f"{module}_opt": opt_state}
    )
    return agent, {
        f"{module}/loss": loss[-1],
        f"{module}/gradient_norm": norm[-1],
        f"{module}{SKIPPED}": jnp.sum(skipped),
    }


def ema(target: Params, source: Params, tau: float) -> Params:
    """`(1 - tau) * target + tau * source`."""
    return optax.incremental_update(source, target, tau)


def flatten(tree: Any) -> Any:
    """Samples `[B * T, ...]` of time-major leaves `[T, B, ...]`, those of a row together.

    So samples that lie on one device are consecutive in the order of all samples.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)
