"""Errors planted in replay, networks, environments, fine-tuning and the run's files."""

from tests.mutation.planting import Mutant

_CHECKPOINT = ("workdir/test_checkpoint.py",)
_BUFFER = ("replay/test_buffer.py",)
_FOLDER = ("workdir/test_folder.py",)
_BEST = ("workdir/test_best.py",)
_LAYERS = ("networks/test_layers.py",)
_METRICS_FILE = ("workdir/test_metrics.py",)
_MULTITASK = ("envs/test_multitask.py",)
_TRANSFER = ("finetuning/test_transfer.py",)
_WORLD_MODEL = ("networks/test_world_model.py",)
_WRAPPERS = ("envs/test_wrappers.py",)

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
    Mutant("BatchLayout.row", "place * stride", "place", ("envs/test_families.py",)),
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
    Mutant("checkpoint_steps", "child.name.isdigit()", "True", _FOLDER),
    Mutant("Checkpointer._delete_outdated", "step not in keep", "True", _BEST),
    Mutant("best_step", "max(ranked)", "min(ranked)", _BEST),
    Mutant("evaluate_workdir", "_REPORT_STREAM", "_EVALUATION_STREAM", _BEST),
    Mutant("resumed", "key not in CHANGEABLE", "key in CHANGEABLE", _FOLDER),
    Mutant(
        "_settle",
        "not overwriting.is_set_aside(path) or has_checkpoint(path)",
        "not overwriting.is_set_aside(path)",
        ("workdir/test_overwriting.py",),
    ),
]

PARTS = [*_REPLAY, *_NETWORKS, *_ENVS, *_FINETUNING, *_WORKDIR]
