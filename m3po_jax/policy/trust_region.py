"""Policy updates that stay within a measured KL of the policy they started from.

`surrogate_loss` is PPO's objective (arXiv 1707.06347) on pre-tanh Gaussians; `pathwise_loss` is
TD-MPC2's (arXiv 2310.16828). `trust_region_update` runs either one, or any other loss, through
epochs of minibatches and holds `KL(old || new) <= 1.5 * kl_target`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from m3po_jax.config import KL_BOUND_FACTOR as KL_BOUND_FACTOR
from m3po_jax.config import PolicyConfig, check
from m3po_jax.ops import distributions, finite, policy_gradient, rows
from m3po_jax.ops.minibatches import minibatches
from m3po_jax.types import Metrics, Params

_PENALTY_RANGE = (1e-3, 1e3)
_MAX_BACKTRACKS = 10

# (params, minibatch, key) -> (loss to minimise, mean KL(old || new)).
LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, jax.Array]]


@flax.struct.dataclass
class Gaussians:
    """Diagonal Gaussians over pre-tanh actions."""

    mean: jax.Array  # [N, A]
    std: jax.Array  # [N, A]


@flax.struct.dataclass
class TrustRegionState:
    """What one update hands to the next."""

    opt_state: optax.OptState
    kl_penalty: jax.Array  # [] weight of the KL, `trust_region="kl"` only


class _Carry(NamedTuple):
    params: Params
    opt_state: optax.OptState
    stopped: jax.Array  # [] bool: the bound was passed, the remaining steps do nothing
    gradient_norm: jax.Array  # [] of the last step before the stop, before clipping
    steps: jax.Array  # [] int32 steps taken
    skipped: jax.Array  # [] int32 steps left out because a number was not finite


def surrogate_loss(
    new: Gaussians,
    old: Gaussians,
    u: jax.Array,
    advantage: jax.Array,
    weight: jax.Array,
    action_mask: jax.Array,
    *,
    clip_epsilon: float | None,
    entropy_scale: float,
    axis_name: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """PPO's surrogate with an entropy bonus.

    Args:
        new: The policy that is optimised.
        old: The policy that drew `u` (or that the advantage was importance-weighted to).
        u: Pre-tanh actions `[N, A]`; the tanh Jacobian cancels in the ratio.
        advantage: Advantages `[N]`.
        weight: Sample weights `[N]`, 0 for samples to ignore: their advantages may be anything,
            NaN included, but `u` and the Gaussians must be finite.
        action_mask: `[N, A]`.
        clip_epsilon: Clip range of the ratio; `None` leaves it unclipped.
        entropy_scale: Scale of the entropy of the pre-tanh Gaussian.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        The loss to minimise and the exact mean `KL(old || new)`, both `[]`.
    """
    log_ratio = distributions.log_prob(u, new.mean, new.std, action_mask) - distributions.log_prob(
        u, old.mean, old.std, action_mask
    )
    # Cleared before it is used: 0 times a NaN would still be a NaN.
    advantage = jnp.where(weight == 0.0, 0.0, advantage)
    objective = policy_gradient.clipped_surrogate(
        log_ratio, advantage, clip_epsilon=math.inf if clip_epsilon is None else clip_epsilon
    )
    objective += entropy_scale * distributions.entropy(new.std, action_mask)
    kl = mean_kl(old, new, weight, action_mask, axis_name=axis_name)
    return -_weighted_mean(objective, weight, axis_name), kl


def pathwise_loss(
    new: Gaussians,
    u: jax.Array,
    value: jax.Array,
    scale: jax.Array,
    weight: jax.Array,
    action_mask: jax.Array,
    *,
    entropy_scale: float,
    axis_name: tuple[str, ...] = (),
) -> jax.Array:
    """TD-MPC2's policy loss, `-(Q(z, u) / scale + entropy)` with `u` reparameterised.

    The entropy is that of the executed action tanh(u), estimated at `u`.

    Args:
        new: The policy that drew `u`, `[N, A]`.
        u: Pre-tanh actions `[N, A]` with their gradient.
        value: `Q(z, tanh(u))` `[N]` with its gradient.
        scale: Running scale of the values `[N]`.
        weight: Sample weights `[N]`.
        action_mask: `[N, A]`.
        entropy_scale: Scale of the entropy.
        axis_name: Mesh axes over which the samples are spread.
    """
    entropy = -distributions.tanh_log_prob(u, new.mean, new.std, action_mask)
    return -_weighted_mean(value / scale + entropy_scale * entropy, weight, axis_name)


def mean_kl(
    old: Gaussians,
    new: Gaussians,
    weight: jax.Array,
    action_mask: jax.Array,
    *,
    axis_name: tuple[str, ...] = (),
) -> jax.Array:
    """Weighted mean of the exact `KL(old || new)` in nats `[]`, over all devices of the axes."""
    kl = distributions.kl(old.mean, old.std, new.mean, new.std, action_mask)
    return _weighted_mean(kl, weight, axis_name)


def init_trust_region(params: Params, optimizer: optax.GradientTransformation) -> TrustRegionState:
    """State before the first update."""
    return TrustRegionState(opt_state=optimizer.init(params), kl_penalty=jnp.ones(()))


def trust_region_update(
    loss_fn: LossFn,
    params: Params,
    state: TrustRegionState,
    data: Any,
    key: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    config: PolicyConfig,
    axis_name: tuple[str, ...] = (),
) -> tuple[Params, TrustRegionState, Metrics]:
    """Runs the epochs of one policy update inside the trust region.

    It holds a loop of unknown length, so it has no reverse-mode derivative.

    `clip` skips the remaining steps once the KL of a minibatch passes the bound; `kl` adds a
    penalty whose weight adapts between updates. Both end by measuring the KL on all data: if it
    passes the bound, the whole step is shortened until it does not. `none` does neither. A
    gradient step whose loss or gradient is not finite is left out, in parameters and optimizer.

    Args:
        loss_fn: Loss and mean KL of a minibatch, over all devices.
        params: Policy parameters before the update: the old policy.
        state: Optimizer state and penalty.
        data: Pytree of this device's samples `[N, ...]`, `N` a multiple of `config.minibatches`.
        key: Consumed.
        optimizer: The policy's optimizer.
        config: Kind and size of the trust region.
        axis_name: Mesh axes over which the samples are spread.

    Returns:
        New parameters, new state, and metrics `kl` (final, on all data), `steps` taken,
        `gradient_norm` (not finite where the last step was left out for that), `kl_penalty`,
        `shortened` (1 if the step was shortened), `skipped` (steps left out as not finite).

    Raises:
        ConfigError: A value of `config` is not one that it may have.
        ValueError: `N` is not a multiple of `config.minibatches`.
    """
    check(config, "policy")
    keys = jax.random.split(key, 3)
    batches = minibatches(
        data,
        keys[0],
        epochs=config.epochs,
        num_minibatches=config.minibatches,
        axis_name=axis_name,
    )
    bound = KL_BOUND_FACTOR * config.kl_target
    penalty = state.kl_penalty if config.trust_region == "kl" else 0.0

    def penalised(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss, kl = loss_fn(rows.spread(params, axis_name), batch, key)
        return loss + penalty * kl, kl

    stop_at = bound if config.trust_region == "clip" else None
    step = functools.partial(_step, loss_fn=penalised, optimizer=optimizer, stop_at=stop_at)
    none = jnp.zeros((), int)
    start = _Carry(params, state.opt_state, jnp.array(False), jnp.zeros(()), none, none)
    step_keys = jax.random.split(keys[1], config.epochs * config.minibatches)
    end, _ = jax.lax.scan(step, start, (batches, step_keys))
    kl_fn = lambda p: loss_fn(p, data, keys[2])[1]  # noqa: E731
    if config.trust_region == "none":
        new_params, kl, shortened = end.params, kl_fn(end.params), jnp.zeros(())
    else:
        new_params, kl, shortened = _shorten(kl_fn, params, end.params, bound)
    metrics = {
        "kl": kl,
        "steps": end.steps.astype(jnp.float32),
        "gradient_norm": end.gradient_norm,
        "kl_penalty": state.kl_penalty,
        "shortened": shortened,
        "skipped": end.skipped.astype(jnp.float32),
    }
    kl_penalty = state.kl_penalty
    if config.trust_region == "kl":
        adapted = _adapt_penalty(kl_penalty, kl, shortened, config)
        # Without a step the KL says nothing about the penalty.
        kl_penalty = jnp.where(end.steps > 0, adapted, kl_penalty)
    return new_params, TrustRegionState(end.opt_state, kl_penalty), metrics


def _step(
    carry: _Carry,
    inputs: tuple[Any, jax.Array],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    stop_at: float | None,
) -> tuple[_Carry, None]:
    """One gradient step, on a minibatch and a key.

    It is left out if its numbers are not finite, or once a KL has passed `stop_at`.
    """
    (loss, kl), gradient = jax.value_and_grad(loss_fn, has_aux=True)(carry.params, *inputs)
    updates, opt_state = optimizer.update(gradient, carry.opt_state, carry.params)
    taken = optax.apply_updates(carry.params, updates)
    stopped = carry.stopped if stop_at is None else carry.stopped | (kl > stop_at)
    gradient_norm = optax.tree.norm(gradient)
    # One NaN in the optimizer's moments would stay in them for good.
    fault = ~finite.is_finite("policy", {"total": loss, "kl": kl}, gradient) & ~stopped
    skip = stopped | fault
    keep = lambda old, new: jnp.where(skip, old, new)  # noqa: E731
    new = _Carry(
        params=jax.tree.map(keep, carry.params, taken),
        opt_state=jax.tree.map(keep, carry.opt_state, opt_state),
        stopped=stopped,
        gradient_norm=jnp.where(stopped, carry.gradient_norm, gradient_norm),
        steps=carry.steps + jnp.where(skip, 0, 1),
        skipped=carry.skipped + jnp.where(fault, 1, 0),
    )
    return new, None


def _weighted_mean(x: jax.Array, weight: jax.Array, axis_name: tuple[str, ...]) -> jax.Array:
    total, count = jax.lax.psum((jnp.sum(weight * x), jnp.sum(weight)), axis_name)
    return total / jnp.maximum(count, 1e-6)


def _shorten(
    kl_fn: Callable[[Params], jax.Array], old: Params, new: Params, bound: float
) -> tuple[Params, jax.Array, jax.Array]:
    """The longest step found from `old` towards `new` whose KL is within the bound.

    The KL grows about quadratically with the step, so `sqrt(bound / kl)` is nearly right at once.
    A step that stays outside (or is not finite) is not taken.
    """
    at = lambda alpha: jax.tree.map(lambda a, b: a + alpha * (b - a), old, new)  # noqa: E731

    def outside(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, kl, count = carry
        return ~(kl <= bound) & (count < _MAX_BACKTRACKS)

    def shorter(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
        alpha, kl, count = carry
        factor = jnp.clip(0.95 * jnp.sqrt(bound / kl), 0.1, 0.9)
        alpha *= jnp.where(jnp.isfinite(kl), factor, 0.1)
        return alpha, kl_fn(at(alpha)), count + 1

    start = (jnp.ones(()), kl_fn(new), jnp.zeros((), int))
    alpha, kl, count = jax.lax.while_loop(outside, shorter, start)
    inside = kl <= bound
    # `alpha == 1` must return `new` to the last bit, which old + 1 * (new - old) need not.
    pick = lambda a, b: jnp.where(count == 0, b, jnp.where(inside, a + alpha * (b - a), a))  # noqa: E731
    params = jax.tree.map(pick, old, new)
    return params, jnp.where(inside, kl, 0.0), (count > 0).astype(jnp.float32)


def _adapt_penalty(
    penalty: jax.Array, kl: jax.Array, shortened: jax.Array, config: PolicyConfig
) -> jax.Array:
    """PPO's rule: double or halve when the KL leaves [target / 1.5, 1.5 target].

    A step is shortened exactly if its KL left that range above; the KL after that is within.
    """
    down = kl < config.kl_target / KL_BOUND_FACTOR
    factor = jnp.where(shortened > 0.0, 2.0, jnp.where(down, 0.5, 1.0))
    return jnp.clip(penalty * factor, *_PENALTY_RANGE)
