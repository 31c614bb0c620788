"""The planted errors, each with the tests that concern it."""

from tests.mutation.planting import Mutant

_RETURNS = ("ops/test_returns.py",)
_STATISTICS = ("ops/test_statistics.py",)
_GRADIENT = ("ops/test_policy_gradient.py",)
_TWO_HOT = ("ops/test_two_hot.py",)
_DISTRIBUTIONS = ("ops/test_distributions.py",)
_LOSSES = ("world_model/test_losses.py",)
_IMAGINE = ("world_model/test_imagine.py",)
_LATENT = ("world_model/test_latent.py",)
_MPPI = ("planning/test_mppi.py",)
_WARM_START = ("planning/test_warm_start.py",)
_TRUST_REGION = ("policy/test_trust_region.py",)
_BUFFER = ("replay/test_buffer.py",)
_ENVS = ("envs/test_wrappers.py", "envs/test_multitask.py")
_CRITIC = ("learning/test_critic_update.py",)
_POLICY = ("learning/test_policy_update.py",)
_ACTING = ("learning/test_rollout.py", "learning/test_episodes.py", "learning/test_acting.py")
_STEP = ("learning/test_train_step.py",)
_TRANSFER = ("finetuning/test_transfer.py",)
_WORKDIR = ("workdir",)

MUTANTS = [
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
    # replay
    Mutant(
        "add",
        "jnp.minimum(state.size + unroll_length, capacity)",
        "state.size + unroll_length",
        _BUFFER,
    ),
    # envs
    Mutant(
        "repeat.keep",
        "last.reward + jnp.where(live, new.reward, 0.0)",
        "jnp.where(live, new.reward, 0.0)",
        _ENVS,
    ),
    Mutant(
        "repeat.keep",
        "jnp.where(live, new.termination, last.termination)",
        "new.termination",
        _ENVS,
    ),
    # learning
    Mutant("continues", "(1.0 - ended) * next_valid", "1.0 - ended", _CRITIC),
    Mutant(
        "continues",
        "jnp.maximum(trajectory.termination, trajectory.truncation)",
        "trajectory.termination",
        _CRITIC,
    ),
    Mutant(
        "critic_update",
        "discount * (1.0 - trajectory.termination)",
        "jnp.broadcast_to(discount, trajectory.reward.shape)",
        _CRITIC,
    ),
    Mutant(
        "imagined_policy_data", "discount * imagined.continuation", "imagined.continuation", _POLICY
    ),
    Mutant(
        "real_policy_data",
        "discount * (1.0 - trajectory.termination)",
        "jnp.broadcast_to(discount, trajectory.reward.shape)",
        _POLICY,
    ),
    Mutant(
        "_normalized_advantage",
        "_ADVANTAGE_FLOOR * agent.statistics.reward.width",
        "1e-6",
        _POLICY,
    ),
    Mutant("_with_novelty", "jnp.maximum(scale, weight)", "scale", _ACTING),
    Mutant("_with_novelty", "jnp.where(known, unit, jnp.inf)", "unit", _ACTING),
    Mutant(
        "evaluate.choose",
        "rollout.planned_actions(*args, explore=False, config=parts.config)",
        "rollout.planned_actions(*args, explore=True, config=parts.config)",
        _ACTING,
    ),
    Mutant(
        "evaluate.choose",
        "rollout.prior_actions(*args, explore=False)",
        "rollout.prior_actions(*args, explore=True)",
        _ACTING,
    ),
    Mutant("evaluate.step", "warm_start.shift(actions.plan_mean)", "actions.plan_mean", _ACTING),
    Mutant(
        "evaluate.step",
        "warm_start.reset_where(warm_start.shift(actions.plan_mean), ended)",
        "warm_start.shift(actions.plan_mean)",
        _ACTING,
    ),
    Mutant("evaluate.step", "jax.random.fold_in(key, carry.step)", "key", _ACTING),
    Mutant("evaluate.step", "carry.alive * timestep.reward", "timestep.reward", _ACTING),
    Mutant(
        "collect.step",
        "warm_start.reset_where(warm_start.shift(actions.plan_mean), ended)",
        "warm_start.shift(actions.plan_mean)",
        _ACTING,
    ),
    Mutant("collect.step", "warm_start.shift(actions.plan_mean)", "actions.plan_mean", _ACTING),
    Mutant(
        "planned_actions",
        "x[rows.task_id]",
        "x[jnp.zeros_like(jnp.asarray(rows.task_id))]",
        _ACTING,
    ),
    Mutant(
        "ema",
        "optax.incremental_update(source, target, tau)",
        "optax.incremental_update(target, source, tau)",
        _STEP,
    ),
    Mutant(
        "learn",
        "jnp.minimum(jnp.floor(debt), math.ceil(MAX_CATCH_UP * usual))",
        "jnp.floor(debt)",
        _STEP,
    ),
]
