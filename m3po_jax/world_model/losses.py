"""Targets and losses of the world model (docs/concepts.md, "The implicit world model")."""

import jax
import jax.numpy as jnp
import optax

from m3po_jax.config import WorldModelConfig
from m3po_jax.networks.factory import Networks
from m3po_jax.ops import returns, rows, two_hot
from m3po_jax.ops.symlog import symlog
from m3po_jax.types import Params, Window
from m3po_jax.world_model.imagine import imagine
from m3po_jax.world_model.latent import TaskContext, WorldModelLatent


def td_targets(
    model: WorldModelLatent,
    z_next: jax.Array,
    context: TaskContext,
    window: Window,
    discount: jax.Array,
    key: jax.Array,
    *,
    axis_name: tuple[str, ...] = (),
) -> jax.Array:
    """TD-MPC2's targets `r + gamma (1 - d) min Q(z', a')` over the model's heads.

    Args:
        model: Latent model with two random EMA heads.
        z_next: Latents of the true next observations `[W, B, Z]`.
        context: Task context `[B, ...]`.
        window: The real steps.
        discount: gamma_k of the windows `[B]`.
        key: Consumed.
        axis_name: Mesh axes over which the windows are spread.

    Returns:
        Targets `[W, B]`.
    """
    mean, std = model.policy(z_next, context)
    u = mean + std * _noise(key, window, 1, axis_name)[0]
    value = jnp.min(model.values(z_next, u, context), axis=0)
    return window.reward + discount * (1.0 - window.termination) * value


def lambda_targets(
    model: WorldModelLatent,
    z_next: jax.Array,
    context: TaskContext,
    window: Window,
    discount: jax.Array,
    key: jax.Array,
    *,
    config: WorldModelConfig,
    axis_name: tuple[str, ...] = (),
) -> jax.Array:
    """Model-based targets: TD(lambda) over the real step and imagined steps from `z'`.

    The policy is followed for `config.imagined_target_steps` steps; every latent on the way, the
    true one first, is valued by the mean of the model's heads. Lambda 0 is a one-step target.
    Arguments and result as in `td_targets`.
    """
    steps = config.imagined_target_steps
    noise = _noise(key, window, steps + 1, axis_name)
    imagined = imagine(model, z_next, context, noise[:-1])
    # Each latent is valued by the action that is taken there; that of the last is drawn here.
    mean, std = model.policy(imagined.z_next[-1], context)
    u = jnp.concatenate([imagined.u, (mean + std * noise[-1])[None]])
    value = model.value(jnp.concatenate([z_next[None], imagined.z_next]), u, context)
    reward = jnp.concatenate([window.reward[None], imagined.reward])
    continuation = jnp.concatenate([1.0 - window.termination[None], imagined.continuation])
    lambda_return = lambda r, d, v: returns.lambda_return(  # noqa: E731
        r, d, v, jnp.ones_like(r), lambda_=config.lambda_
    )
    flat = lambda x: x.reshape(steps + 1, -1)  # noqa: E731
    return jax.vmap(lambda_return, in_axes=1, out_axes=1)(
        flat(reward), flat(discount * continuation), flat(value)
    )[0].reshape(window.reward.shape)


def world_model_losses(
    networks: Networks,
    params: Params,
    window: Window,
    z_target: jax.Array,
    value_target: jax.Array,
    key: jax.Array,
    *,
    axis_name: tuple[str, ...] = (),
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Losses of every step of the windows, unscaled and unmasked.

    The model is rolled forward in latent space from the first observation; no later observation
    enters except as a target.

    Args:
        networks: The bundle.
        params: World-model parameters.
        window: The real steps.
        z_target: Latents of the true next observations `[W, B, Z]`, without gradient.
        value_target: Q targets `[W, B]`, without gradient.
        key: Consumed by dropout.
        axis_name: Mesh axes over which the windows are spread.

    Returns:
        `consistency`, `reward`, `value` and, where the model has these heads, `termination`,
        `explorers` and `reconstruction`, each `[W, B]`, and the first latents `[B, Z]`.
    """
    e = networks.embed(params, window.task_id)
    actions = jnp.tanh(window.pre_tanh_action) * networks.action_mask(window.task_id)
    z = first = networks.encode(params, window.observation[0], e)
    latents, predicted = [], []
    for a in actions:
        latents.append(z)
        z = networks.apply_model(params, "next_latent", z, a, e)
        predicted.append(z)
    z_t = jnp.stack(latents)
    e_t = jnp.broadcast_to(e, (*z_t.shape[:-1], e.shape[-1]))
    inputs = (z_t, actions, e_t)
    reward_logits = networks.apply_model(params, "reward_logits", *inputs)
    keys = rows.keys(key, rows.numbers(window.task_id.size, axis_name))
    q_logits = networks.q_logits(params["q"], *inputs, dropout_keys=keys)
    targets = jnp.broadcast_to(value_target, q_logits.shape[:-1])
    losses = {
        "consistency": jnp.mean((jnp.stack(predicted) - z_target) ** 2, axis=-1),
        "reward": two_hot.cross_entropy(reward_logits, window.reward, networks.support),
        "value": jnp.mean(two_hot.cross_entropy(q_logits, targets, networks.support), axis=0),
    }
    if networks.world_model.has_termination:
        logit = networks.apply_model(params, "termination_logit", *inputs)
        losses["termination"] = optax.sigmoid_binary_cross_entropy(logit, window.termination)
    if networks.world_model.num_explorers:
        # They learn from the latents, which learn nothing from them.
        guesses = networks.apply_model(params, "guesses", *jax.lax.stop_gradient(inputs))
        losses["explorers"] = jnp.mean(jnp.sum((guesses - z_target) ** 2, axis=-1), axis=0)
    if networks.world_model.decoded_size:
        # DreamerV3's symlog squared error, summed over the observation (arXiv 2301.04104).
        decoded = networks.apply_model(params, "decode", z_t, e_t)
        losses["reconstruction"] = jnp.sum((decoded - symlog(window.observation)) ** 2, axis=-1)
    return losses, first


def total_loss(
    losses: dict[str, jax.Array],
    mask: jax.Array,
    *,
    config: WorldModelConfig,
    axis_name: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scales, masks and sums the losses: `sum_t rho^t mean_B(...) / W`.

    Args:
        losses: Losses `[W, B]` by name.
        mask: 1 for steps that count `[W, B]`.
        config: Scales and rho.
        axis_name: Mesh axes over which the windows are spread.

    Returns:
        The total `[]` and the unscaled masked mean of each loss `[]`.
    """
    scales = {
        "consistency": config.consistency_scale,
        "reward": config.reward_scale,
        "value": config.value_scale,
        "termination": config.termination_scale,
        "explorers": 1.0,
        "reconstruction": config.reconstruction_scale,
    }
    horizon = mask.shape[0]
    weight = mask * config.rho ** jnp.arange(horizon, dtype=jnp.float32)[:, None]
    total = jnp.zeros(())
    for name, loss in losses.items():
        total += scales[name] * jnp.sum(weight * loss)
    sums = {name: jnp.sum(mask * loss) for name, loss in losses.items()}
    total, sums, count = jax.lax.psum((total, sums, jnp.sum(mask)), axis_name)
    means = {name: x / jnp.maximum(count, 1.0) for name, x in sums.items()}
    return total / (horizon * mask.shape[1] * jax.lax.axis_size(axis_name)), means


def _noise(key: jax.Array, window: Window, steps: int, axis_name: tuple[str, ...]) -> jax.Array:
    """Draws of the actions of `steps` imagined steps from each real one, `[steps, W, B, A]`."""
    horizon, batch_size, action_size = window.pre_tanh_action.shape
    shape = (steps, horizon, action_size)
    draws = rows.normal(key, rows.numbers(batch_size, axis_name), shape)
    return jnp.moveaxis(draws, 0, 2)
