"""Errors planted in learning: targets, updates, collecting and evaluating."""

from tests.mutation.planting import Mutant

_ACTING = ("learning/test_acting.py",)
_CONTINUES = ("learning/test_critic_update.py",)
_OPTIMIZERS = ("learning/test_optimizers.py",)
_ORDER = ("learning/test_order.py",)
_POLICY = ("learning/test_policy_update.py",)
_STEP = (
    "learning/test_train_step.py::test_a_long_random_phase_is_made_up_for_in_several_iterations",
)
_TARGETS = ("learning/test_targets.py",)
_UPDATE_METRICS = ("learning/test_metrics.py",)

_UPDATES = [
    Mutant("continues", "(1.0 - ended) * next_valid", "1.0 - ended", _CONTINUES),
    Mutant(
        "continues",
        "jnp.maximum(trajectory.termination, trajectory.truncation)",
        "trajectory.termination",
        _CONTINUES,
    ),
    Mutant("target_model", "agent.target_q", 'params.world_model["q"]', _TARGETS),
    Mutant("world_model_update", "window.next_observation", "window.observation", _TARGETS),
    Mutant(
        "world_model_update",
        "jnp.asarray(parts.env.discount)[window.task_id]",
        "jnp.broadcast_to(jnp.max(parts.env.discount), window.task_id.shape)",
        _TARGETS,
    ),
    Mutant(
        "world_model_update",
        'ema(agent.target_q, params["q"], config.tau)',
        'ema(params["q"], agent.target_q, config.tau)',
        _TARGETS,
    ),
    Mutant(
        "ema",
        "optax.incremental_update(source, target, tau)",
        "optax.incremental_update(target, source, tau)",
        _TARGETS,
    ),
    Mutant(
        "exploration_update",
        "config.discount * (1.0 - window.termination)",
        "jnp.full_like(window.termination, config.discount)",
        _TARGETS,
    ),
    Mutant(
        "exploration_update",
        "novelty_value(networks, agent.target_exploration, z[1:], context)",
        "novelty_value(networks, agent.params.exploration, z[1:], context)",
        _TARGETS,
    ),
    Mutant(
        "exploration_update",
        "novelty_value(networks, agent.target_exploration, z[1:], context)",
        "novelty_value(networks, agent.target_exploration, z[:-1], context)",
        _TARGETS,
    ),
    Mutant("exploration_update", "(1.0 - config.discount) * bonus", "bonus", _TARGETS),
    Mutant("exploration_update", "moments.mean[task_id]", "jnp.mean(moments.mean)", _TARGETS),
    Mutant(
        "exploration_update.loss_fn",
        "statistics.masked_mean(loss, window.mask, axis_name=axis_name)",
        "jnp.mean(loss)",
        _TARGETS,
    ),
    Mutant(
        "critic_update",
        "discount * (1.0 - trajectory.termination)",
        "jnp.broadcast_to(discount, trajectory.reward.shape)",
        _TARGETS,
    ),
    Mutant(
        "critic_update",
        "model_free_value(networks, agent, z_next, context.e)",
        "model_free_value(networks, agent, z, context.e)",
        _TARGETS,
    ),
    Mutant("critic_update.loss_fn", "valid", "valid * 0.0 + 1.0", _TARGETS),
    Mutant(
        "real_policy_data",
        "discount * (1.0 - trajectory.termination)",
        "jnp.broadcast_to(discount, trajectory.reward.shape)",
        _TARGETS,
    ),
    Mutant(
        "real_policy_data",
        "policy_gradient.importance_weight(log_weight)",
        "jnp.exp(log_weight)",
        _TARGETS,
    ),
    Mutant(
        "imagined_policy_data",
        "discount * imagined.continuation",
        "imagined.continuation",
        _TARGETS,
    ),
    Mutant("imagined_policy_data", "value[1:]", "value[:-1]", _TARGETS),
    Mutant(
        "imagined_policy_data",
        "reach_probability(imagined.continuation)",
        "imagined.continuation",
        _POLICY,
    ),
    Mutant(
        "_normalized_advantage",
        "_ADVANTAGE_FLOOR * agent.statistics.reward.width",
        "1e-6",
        _POLICY,
    ),
    Mutant("policy_from_replay", "z[0]", "z[-1]", _ORDER),
    Mutant(
        "learn_from_rollout",
        "jnp.asarray(parts.env.discount)[parts.env.task_id]",
        "jnp.asarray(parts.env.discount)",
        _ORDER,
    ),
    Mutant("add", "jnp.maximum(total[name], value)", "total[name] + value", _UPDATE_METRICS),
    Mutant("finish.of", "x / count", "x", _UPDATE_METRICS),
    Mutant("none_of", "name.endswith(SKIPPED)", "True", _UPDATE_METRICS),
    Mutant(
        "rollout_metrics",
        "moments(timesteps.reward, timesteps.valid)",
        "moments(timesteps.reward, jnp.ones_like(timesteps.valid))",
        _UPDATE_METRICS,
    ),
    Mutant(
        "rollout_metrics", "count * (1.0 - valid_fraction)", "1.0 - valid_fraction", _UPDATE_METRICS
    ),
    Mutant("update_plan_scale", "spread > 0.0", "spread >= 0.0", _UPDATE_METRICS),
    Mutant(
        "update_rewards", "trajectory.valid", "jnp.ones_like(trajectory.valid)", _UPDATE_METRICS
    ),
    Mutant(
        "make_optimizers",
        "optax.scale(model.encoder_learning_rate_scale)",
        "optax.scale(1.0)",
        _OPTIMIZERS,
    ),
    Mutant("_parts_mask.mask", 'name.removesuffix("_norm")', "name", _OPTIMIZERS),
    Mutant("make_optimizers.adam", "max(steps[part], 1)", "2 * steps[part]", _OPTIMIZERS),
    Mutant(
        "learn",
        "jnp.minimum(jnp.floor(debt), math.ceil(MAX_CATCH_UP * usual))",
        "jnp.floor(debt)",
        _STEP,
    ),
    Mutant("learn", "debt - num_updates.astype(jnp.float32)", "debt", _STEP),
]

_COLLECTING = [
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
    Mutant("collect.step", "timestep.next_observation", "env_state.observation", _ACTING),
    Mutant("prior_actions", "mean + std * noise", "mean", _ACTING),
    Mutant(
        "planned_actions",
        "x[rows.task_id]",
        "x[jnp.zeros_like(jnp.asarray(rows.task_id))]",
        _ACTING,
    ),
]

LEARNING = [*_UPDATES, *_COLLECTING]
