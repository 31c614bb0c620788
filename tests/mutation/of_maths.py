"""Errors planted in the maths: ops, world model, planning and policy."""

from tests.mutation.planting import Mutant

_RETURNS = ("ops/test_returns.py",)
_STATISTICS = ("ops/test_statistics.py",)
_GRADIENT = ("ops/test_policy_gradient.py",)
_TWO_HOT = ("ops/test_two_hot.py",)
_LOSSES = ("world_model/test_losses.py",)
_IMAGINE = ("world_model/test_imagine.py",)
_LATENT = ("world_model/test_latent.py",)
_MPPI = ("planning/test_mppi.py",)
_WARM_START = ("planning/test_warm_start.py",)
_TRUST_REGION = ("policy/test_trust_region.py",)

MATHS = [
    # ops
    Mutant("lambda_return.step", "(1.0 - mix) * v", "mix * v", _RETURNS),
    Mutant(
        "lambda_return",
        "mix_t = lambda_ * continue_t",
        "mix_t = lambda_ + 0.0 * continue_t",
        _RETURNS,
    ),
    Mutant("lambda_return", "v_t[-1]", "0.0 * v_t[-1]", _RETURNS),
    Mutant("gae", "r_t + discount_t * v_t - v_tm1", "r_t + discount_t * v_t", _RETURNS),
    Mutant("gae", "discount_t * lambda_ * continue_t", "discount_t * lambda_", _RETURNS),
    Mutant("masked_mean", "jnp.where(active, x, 0.0)", "x", _STATISTICS),
    Mutant("normalize_per_task", "x - mean[task_id]", "x", _STATISTICS),
    Mutant("normalize_per_task", "divisor[task_id]", "jnp.max(divisor)", _STATISTICS),
    Mutant("update_running_moments", "state.mean + rate * shift", "state.mean", _STATISTICS),
    Mutant(
        "_debiased_rate",
        "decay * weight + (1.0 - decay)",
        "(1.0 - decay) * weight + decay",
        _STATISTICS,
    ),
    Mutant("RunningScale.scale", "jnp.maximum(self.spread, 1.0)", "self.spread", _STATISTICS),
    Mutant("_per_task_quantiles.at", "low + (position - below) * (high - low)", "low", _STATISTICS),
    Mutant(
        "clipped_surrogate",
        "jnp.minimum(ratio * advantage, clipped * advantage)",
        "jnp.maximum(ratio * advantage, clipped * advantage)",
        _GRADIENT,
    ),
    Mutant("clipped_surrogate", "1.0 - clip_epsilon", "1.0 - 2.0 * clip_epsilon", _GRADIENT),
    Mutant("importance_weight", "jnp.minimum(log_ratio, math.log(cap))", "log_ratio", _GRADIENT),
    Mutant("_neighbours", "(above - y) / gap", "(y - below) / gap", _TWO_HOT),
    Mutant("decode", "symexp(mean)", "mean", _TWO_HOT),
    Mutant(
        "cross_entropy",
        "weight_below * below + weight_above * above",
        "weight_below * above + weight_above * below",
        _TWO_HOT,
    ),
    # world model
    Mutant(
        "td_targets",
        "jnp.min(model.values(z_next, u, context), axis=0)",
        "jnp.mean(model.values(z_next, u, context), axis=0)",
        _LOSSES,
    ),
    Mutant(
        "td_targets", "discount * (1.0 - window.termination) * value", "discount * value", _LOSSES
    ),
    Mutant(
        "lambda_targets",
        "1.0 - window.termination[None]",
        "jnp.ones_like(window.termination[None])",
        _LOSSES,
    ),
    Mutant("lambda_targets", "flat(discount * continuation)", "flat(continuation)", _LOSSES),
    Mutant(
        "lambda_targets",
        "jnp.concatenate([z_next[None], imagined.z_next])",
        "jnp.concatenate([imagined.z_next, imagined.z_next[-1:]])",
        _LOSSES,
    ),
    Mutant(
        "world_model_losses",
        "jnp.mean(two_hot.cross_entropy(q_logits, targets, networks.support), axis=0)",
        "two_hot.cross_entropy(q_logits, targets, networks.support)[0]",
        _LOSSES,
    ),
    Mutant("world_model_losses", "latents.append(z)", "latents.append(first)", _LOSSES),
    Mutant(
        "total_loss",
        "mask * config.rho ** jnp.arange(horizon, dtype=jnp.float32)[:, None]",
        "mask",
        _LOSSES,
    ),
    Mutant("total_loss", "jnp.sum(weight * loss)", "jnp.sum(loss)", _LOSSES),
    Mutant("imagine.step", "mean + std * noise", "mean + noise", _IMAGINE),
    Mutant("reach_probability", "reached[:-1]", "reached[1:]", _IMAGINE),
    Mutant("WorldModelLatent.next", "jax.nn.sigmoid(-logit)", "jax.nn.sigmoid(logit)", _LATENT),
    Mutant(
        "WorldModelLatent.next",
        "jnp.where(can_terminate > 0.0, continuation, 1.0)",
        "continuation",
        _LATENT,
    ),
    Mutant(
        "WorldModelLatent._inputs",
        "jnp.tanh(u) * _broadcast(context.action_mask, z)",
        "jnp.tanh(u)",
        _LATENT,
    ),
    Mutant("two_heads", "jax.random.permutation(key, num_heads)[:2]", "jnp.arange(2)", _LATENT),
    # planning
    Mutant(
        "predicted_return.step",
        "path.weight * discount * continuation",
        "path.weight * discount",
        _MPPI,
    ),
    Mutant("predicted_return.step", "path.weight * reward", "reward", _MPPI),
    Mutant(
        "predicted_return",
        "path.weight * model.value(path.z, last, context)",
        "model.value(path.z, last, context)",
        _MPPI,
    ),
    Mutant(
        "mppi_plan.iterate",
        "jnp.clip(jnp.sqrt(variance), config.min_std, config.max_std)",
        "jnp.sqrt(variance)",
        _MPPI,
    ),
    Mutant("mppi_plan.iterate", "(mean + std * noise) * action_mask", "mean + std * noise", _MPPI),
    Mutant("mppi_plan", "jnp.argmax(elites.scores)", "jnp.argmin(elites.scores)", _MPPI),
    Mutant("mppi_plan", "jnp.zeros_like(std[0])", "std[0]", _MPPI),
    Mutant("shift", "plan_mean[..., 1:, :]", "plan_mean[..., :-1, :]", _WARM_START),
    Mutant(
        "reset_where",
        "episode_end[:, None, None] > 0.0",
        "episode_end[:, None, None] < 0.0",
        _WARM_START,
    ),
    # policy
    Mutant(
        "surrogate_loss", "jnp.where(weight == 0.0, 0.0, advantage)", "advantage", _TRUST_REGION
    ),
    Mutant(
        "surrogate_loss",
        "mean_kl(old, new, weight, action_mask, axis_name=axis_name)",
        "mean_kl(new, old, weight, action_mask, axis_name=axis_name)",
        _TRUST_REGION,
    ),
    Mutant("pathwise_loss", "value / scale", "value", _TRUST_REGION),
    Mutant("_weighted_mean", "jnp.sum(weight * x)", "jnp.sum(x)", _TRUST_REGION),
    Mutant(
        "_adapt_penalty", "jnp.where(down, 0.5, 1.0)", "jnp.where(down, 2.0, 1.0)", _TRUST_REGION
    ),
]
