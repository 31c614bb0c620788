"""One gradient step of the world model on replayed windows."""

import jax
import jax.numpy as jnp
import optax

from m3po_jax.learning.fitting import ema
from m3po_jax.learning.metrics import SKIPPED
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.perception import normalized_window
from m3po_jax.learning.state import AgentState
from m3po_jax.learning.values import target_model
from m3po_jax.ops import checks, finite, rows
from m3po_jax.types import Metrics, Params, Window
from m3po_jax.world_model import losses as world_model_losses
from m3po_jax.world_model.latent import TaskContext, task_context


def world_model_update(
    agent: AgentState, window: Window, key: jax.Array, *, parts: Parts
) -> tuple[AgentState, jax.Array, Metrics]:
    """One step on the world-model loss, and the EMA of the Q heads.

    Neither is done if the loss or its gradient is not finite.

    Args:
        agent: The agent.
        window: Replayed windows of B.
        key: Consumed.
        parts: What the iteration is made of.

    Returns:
        The agent, the latents of all observations `[W + 1, B, Z]` and metrics.
    """
    networks, config, axis_name = parts.networks, parts.config.world_model, parts.axis_name
    discount = jnp.asarray(parts.env.discount)[window.task_id]
    head_key, target_key, dropout_key = jax.random.split(key, 3)
    params = agent.params.world_model
    context = task_context(networks, params, window.task_id)
    checks.check_finite("world model, replayed steps", window)
    window = normalized_window(networks, agent, window)
    e = jnp.broadcast_to(context.e, (*window.reward.shape, context.e.shape[-1]))
    z_target = networks.encode(params, window.next_observation, e)
    value_target = _value_target(
        agent, z_target, context, window, discount, (head_key, target_key), parts=parts
    )
    checks.check_range("world model, replayed termination", window.termination, 0.0, 1.0)
    checks.check_finite("world model, latents of the next observations", z_target)
    checks.check_finite("world model, value targets", value_target)

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array]]:
        params = rows.spread(params, axis_name)
        losses, first = world_model_losses.world_model_losses(
            networks, params, window, z_target, value_target, dropout_key, axis_name=axis_name
        )
        total, means = world_model_losses.total_loss(
            losses, window.mask, config=config, axis_name=axis_name
        )
        return total, (means, first)

    (total, (means, first)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    optimizer = parts.optimizers.world_model
    updates, opt_state = optimizer.update(gradient, agent.world_model_opt, params)
    params = optax.apply_updates(params, updates)
    new_agent = agent.replace(
        params=agent.params.replace(world_model=params),
        target_q=ema(agent.target_q, params["q"], config.tau),
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


def _value_target(
    agent: AgentState,
    z_next: jax.Array,
    context: TaskContext,
    window: Window,
    discount: jax.Array,
    keys: tuple[jax.Array, jax.Array],
    *,
    parts: Parts,
) -> jax.Array:
    """What Q is fitted to `[W, B]`, by two of the EMA heads. Both keys are consumed."""
    config, axis_name = parts.config.world_model, parts.axis_name
    model = target_model(parts.networks, agent).two_heads(keys[0])
    args = (model, z_next, context, window, discount, keys[1])
    if config.value_target == "td":
        return world_model_losses.td_targets(*args, axis_name=axis_name)
    return world_model_losses.lambda_targets(*args, config=config, axis_name=axis_name)
