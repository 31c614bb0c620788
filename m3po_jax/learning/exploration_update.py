"""The bonus of replayed steps, and the value of novelty V_x that is fitted to it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from m3po_jax.learning.fitting import ema
from m3po_jax.learning.metrics import SKIPPED
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.state import AgentState
from m3po_jax.learning.values import novelty_value, online_model
from m3po_jax.ops import checks, finite, rows, statistics, two_hot
from m3po_jax.policy import exploration
from m3po_jax.types import Metrics, Params, Window
from m3po_jax.world_model.latent import task_context

# Weight of the past in the mean disagreement, per update: it must know the whole replay.
_DECAY = 0.999


def exploration_update(
    agent: AgentState, window: Window, z: jax.Array, *, parts: Parts
) -> tuple[AgentState, Metrics]:
    """One step of V_x: an upper expectile of the discounted bonus of replayed steps.

    Bonuses are computed anew whenever they are used, so none is older than the networks.

    Args:
        agent: The agent.
        window: Replayed windows of B.
        z: Latents of all their observations `[W + 1, B, Z]`.
        parts: What the iteration is made of.
    """
    networks, config, axis_name = parts.networks, parts.config.exploration, parts.axis_name
    context = task_context(networks, agent.params.world_model, window.task_id)
    guesses = online_model(networks, agent).guesses(z[:-1], window.pre_tanh_action, context)
    disagreement = exploration.disagreement(guesses)
    task_id = jnp.broadcast_to(window.task_id, disagreement.shape)
    moments = statistics.update_running_moments(
        agent.statistics.disagreement,
        disagreement,
        task_id,
        window.mask,
        decay=_DECAY,
        axis_name=axis_name,
    )
    moments = finite.keep_finite(moments, agent.statistics.disagreement)
    bonus = exploration.novelty_bonus(
        disagreement, moments.mean[task_id], max_bonus=config.max_bonus
    )
    checks.check_range("exploration, bonus", bonus, 0.0, config.max_bonus)
    ahead = novelty_value(networks, agent.target_exploration, z[1:], context)
    keep = config.discount * (1.0 - window.termination)
    target = (1.0 - config.discount) * bonus + keep * ahead
    e = jnp.broadcast_to(context.e, (*bonus.shape, context.e.shape[-1]))

    def loss_fn(params: Params) -> jax.Array:
        logits = networks.exploration_logits(rows.spread(params, axis_name), z[:-1], e)
        value = jax.lax.stop_gradient(two_hot.decode(logits, networks.support))
        weight = exploration.expectile_weight(target, value, expectile=config.expectile)
        loss = weight * two_hot.cross_entropy(logits, target, networks.support)
        return statistics.masked_mean(loss, window.mask, axis_name=axis_name)

    agent, metrics = _step(loss_fn, agent, parts)
    agent = agent.replace(statistics=agent.statistics.replace(disagreement=moments))

    def mean_per_task(x: jax.Array) -> jax.Array:
        return statistics.per_task_moments(
            x, task_id, window.mask, num_tasks=parts.num_tasks, axis_name=axis_name
        )[0]

    shown = {"bonus": bonus, "disagreement": disagreement, "value": ahead}
    return agent, {
        **metrics,
        **{f"exploration/{name}": mean_per_task(x) for name, x in shown.items()},
    }


def _step(
    loss_fn: Callable[[Params], jax.Array], agent: AgentState, parts: Parts
) -> tuple[AgentState, Metrics]:
    """A gradient step of V_x and of its EMA; none if loss or gradient is not finite."""
    params = agent.params.exploration
    loss, gradient = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = parts.optimizers.exploration.update(
        gradient, agent.exploration_opt, params
    )
    params = optax.apply_updates(params, updates)
    new = agent.replace(
        params=agent.params.replace(exploration=params),
        target_exploration=ema(agent.target_exploration, params, parts.config.exploration.tau),
        exploration_opt=opt_state,
    )
    taken = finite.is_finite("exploration", {"total": loss}, gradient)
    metrics = {
        "exploration/loss": loss,
        "exploration/gradient_norm": optax.tree.norm(gradient),
        f"exploration{SKIPPED}": (~taken).astype(jnp.float32),
    }
    return finite.select(taken, new, agent), metrics
