"""Errors planted in what joins the maths: learning, replay, networks, envs, files, fine-tuning."""

from tests.mutation.planting import Mutant

_ACTING = ("learning/test_acting.py",)
_CHECKPOINT = ("workdir/test_checkpoint.py",)
_CONTINUES = ("learning/test_critic_update.py",)
_BUFFER = ("replay/test_buffer.py",)
_FOLDER = ("workdir/test_folder.py",)
_LAYERS = ("networks/test_layers.py",)
_METRICS_FILE = ("workdir/test_metrics.py",)
_MULTITASK = ("envs/test_multitask.py",)
_OPTIMIZERS = ("learning/test_optimizers.py",)
_ORDER = ("learning/test_order.py",)
_POLICY = ("learning/test_policy_update.py",)
_STEP = (
    "learning/test_train_step.py::test_a_long_random_phase_is_made_up_for_in_several_iterations",
)
_TARGETS = ("learning/test_targets.py",)
_TRANSFER = ("finetuning/test_transfer.py",)
_UPDATE_METRICS = ("learning/test_metrics.py",)
_WORLD_MODEL = ("networks/test_world_model.py",)
_WRAPPERS = ("envs/test_wrappers.py",)

_LEARNING = [
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
    Mutant(
        "planned_actions",
        "x[rows.task_id]",
        "x[jnp.zeros_like(jnp.asarray(rows.task_id))]",
        _ACTING,
    ),
]

_REPLAY = [
    Mutant(
        "add",
        "jnp.minimum(state.size + unroll_length, capacity)",
        "state.size + unroll_length",
        _BUFFER,
    ),
    Mutant("add", "(state.cursor + unroll_length) % capacity", "state.cursor", _BUFFER),
    Mutant("sample", "jnp.where(state.size == capacity, state.cursor, 0)", "0", _BUFFER),
    Mutant("sample", "held - window + 1", "held - window", _BUFFER),
    Mutant("sample", "jnp.where(held >= window, mask, 0.0)", "mask", _BUFFER),
    Mutant("window_mask", "reached * valid", "reached", _BUFFER),
    Mutant("window_mask", "(1.0 - termination) * (1.0 - truncation)", "1.0 - termination", _BUFFER),
    Mutant("_strata", "here * weight[task_id]", "0 * weight[task_id]", _BUFFER),
]

_NETWORKS = [
    Mutant("mish", "exp_x * (exp_x + 2.0)", "exp_x * (exp_x + 1.0)", _LAYERS),
    Mutant(
        "sim_norm", "jax.nn.softmax(groups, axis=-1)", "jax.nn.softmax(groups, axis=-2)", _LAYERS
    ),
    Mutant("_dropout", "x / (1.0 - threshold / 2**16)", "x", _LAYERS),
    Mutant("MLP.__call__", "self.dropout if index == 0 else 0.0", "self.dropout", _LAYERS),
    Mutant(
        "TaskEmbedding.__call__",
        "jnp.maximum(norm, 1.0)",
        "norm",
        ("networks/test_task_embedding.py",),
    ),
    Mutant(
        "Actor.__call__",
        "jnp.where(active, std, 0.0)",
        "std",
        ("networks/test_actor_critic.py",),
    ),
    Mutant(
        "Actor.__call__",
        "0.5 * span * (jnp.tanh(raw) + 1.0)",
        "span * (jnp.tanh(raw) + 1.0)",
        ("networks/test_actor_critic.py",),
    ),
    Mutant("_join", "[z, a, e]", "[z, a, 0.0 * e]", _WORLD_MODEL),
    Mutant(
        "make_networks",
        "any(spec.can_terminate for spec in specs)",
        "all(spec.can_terminate for spec in specs)",
        _WORLD_MODEL,
    ),
    Mutant(
        "WorldModel.q_logits",
        "of_heads(dropout_keys, jnp.arange(self.num_q))",
        "of_heads(dropout_keys, jnp.zeros(self.num_q, jnp.int32))",
        _WORLD_MODEL,
    ),
]

_ENVS = [
    Mutant(
        "repeat.keep",
        "last.reward + jnp.where(live, new.reward, 0.0)",
        "jnp.where(live, new.reward, 0.0)",
        _WRAPPERS,
    ),
    Mutant(
        "repeat.keep",
        "jnp.where(live, new.termination, last.termination)",
        "new.termination",
        _WRAPPERS,
    ),
    Mutant("repeat.keep", "live & goes_on(kept)", "live", _WRAPPERS),
    Mutant("ActionRepeat.steps_left", "self.num_repeats * agent_steps", "agent_steps", _WRAPPERS),
    Mutant("repeat.begin", "jnp.zeros_like(state.reward)", "state.reward", _WRAPPERS),
    Mutant("MultiTaskEnv._timestep", "ended & ~terminated", "ended", _MULTITASK),
    Mutant(
        "MultiTaskEnv._timestep",
        "length >= self.episode_length[self.task_id]",
        "length > self.episode_length[self.task_id]",
        _MULTITASK,
    ),
    Mutant(
        "MultiTaskEnv._timestep",
        "jnp.where(valid, join(lambda s: s.reward), 0.0)",
        "join(lambda s: s.reward)",
        _MULTITASK,
    ),
    Mutant(
        "MultiTaskEnv._timestep",
        "ended & valid & state.from_reset",
        "ended & valid",
        _MULTITASK,
    ),
    Mutant("where_ended", "resets % 2", "0 * resets", _MULTITASK),
    Mutant("BatchLayout.row", "jnp.cumsum(sizes) - sizes", "jnp.cumsum(sizes)", _BUFFER),
    Mutant(
        "MultiTaskEnv._env_keys.keys",
        "share * num_envs + jnp.arange(num_envs)",
        "jnp.arange(num_envs)",
        ("training/test_sharding.py::test_an_environment_draws_the_same_on_any_number_of_devices",),
    ),
]

_FINETUNING = [
    Mutant(
        "transfer_agent",
        'moved("q", old.target_q, new.target_q)',
        'moved("q", old.params.world_model["q"], new.target_q)',
        _TRANSFER,
    ),
    Mutant("_moved", "np.cumsum(was)", "np.cumsum(now)", _TRANSFER),
    Mutant("_fitted", "(0, missing)", "(missing, 0)", _TRANSFER),
    Mutant(
        "_moved_actor",
        "fresh.at[..., :kept].set(known[..., :kept])",
        "known[..., :kept]",
        _TRANSFER,
    ),
    Mutant("_moved_statistics", "a[from_]", "a[to]", _TRANSFER),
    Mutant("transfer_replay", "int(old.cursor) - size", "int(old.cursor)", _TRANSFER),
    Mutant("transfer_replay", "int(old.size) - size", "0", _TRANSFER),
    Mutant(
        "embedding_sources", "(choice,) if choice in known else tuple(known)", "known", _TRANSFER
    ),
]

_WORKDIR = [
    Mutant("_kept_rows", "step <= env_steps", "step < env_steps", _METRICS_FILE),
    Mutant("_kept_records", "record[STEP] <= env_steps", "record[STEP] < env_steps", _METRICS_FILE),
    Mutant("_number", '".9g"', '".6g"', _METRICS_FILE),
    Mutant("_complete_lines", 'text.rfind("\\n") + 1', "len(text)", _METRICS_FILE),
    Mutant(
        "_weighted_sum",
        "2 * np.arange(begin + start, begin + start + chunk.size, dtype=np.uint64) + 1",
        "2 * np.arange(begin + start, begin + start + chunk.size, dtype=np.uint64)",
        _CHECKPOINT,
    ),
    Mutant("Checkpointer._unreadable", "max(older)", "min(older)", _CHECKPOINT),
    Mutant("mismatches", "stored.get(name) != found.get(name)", "name not in found", _CHECKPOINT),
    Mutant("has_checkpoint", "child.name.isdigit()", "True", _FOLDER),
    Mutant("resumed", "key not in CHANGEABLE", "key in CHANGEABLE", _FOLDER),
    Mutant(
        "_settle",
        "not overwriting.is_set_aside(path) or has_checkpoint(path)",
        "not overwriting.is_set_aside(path)",
        ("workdir/test_overwriting.py",),
    ),
]

PARTS = [
    *_LEARNING,
    *_COLLECTING,
    *_REPLAY,
    *_NETWORKS,
    *_ENVS,
    *_FINETUNING,
    *_WORKDIR,
]
