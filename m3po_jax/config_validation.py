"""Refuses settings that cannot work, before JAX is imported or anything is compiled."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from m3po_jax.config import (
    PARTS,
    Config,
    ConfigError,
    flatten,
    nearest,
    resolve_network,
    setting_error,
)
from m3po_jax.envs import registry
from m3po_jax.workload import Load, device_conflict, nearest_divisor, policy_samples, task_load

LARGEST_SEED = 2**32 - 1  # a key is made of 32 bits, and JAX drops the others in silence
MOST_ROWS = 2**24  # of anything that is the size of an array; memory ends far below

CHOICES = {
    "network.encoder": ("latent", "observation"),
    "network.precision": ("float32", "bfloat16"),
    "world_model.value_target": ("td", "lambda"),
    "policy.objective": ("likelihood_ratio", "pathwise"),
    "policy.data": ("imagined", "real"),
    "policy.trust_region": ("clip", "kl", "none"),
    "exploration.bonus": ("discrepancy", "pome"),
    "train.eval_policy": ("planner", "prior"),
    "train.task_placement": ("sharded", "by_task"),
}

# rule text, test, settings; every number of the config stands in exactly one rule
RULES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "at least 1",
        lambda value: value >= 1,
        (
            "env.action_repeat",
            "network.simplex_size",
            "world_model.imagined_target_steps",
            "planner.iterations",
            "planner.num_elites",
            "policy.epochs",
            "policy.minibatches",
            "critic.epochs",
            "critic.minibatches",
            "train.total_env_steps",
            "train.checkpoint_every",
            "train.log_every",
            "train.max_skipped_updates",
            "train.fsdp_devices",
        ),
    ),
    (
        f"from 1 to {MOST_ROWS}",
        lambda value: 1 <= value <= MOST_ROWS,
        (
            "env.num_envs",
            "env.unroll_length",
            "world_model.batch_size",
            "world_model.horizon",
            "planner.num_samples",
            "planner.horizon",
            "policy.imagined_horizon",
            "train.eval_episodes",
        ),
    ),
    # its index is an int32
    ("from 1 to 2147483647", lambda value: 1 <= value < 2**31, ("replay.capacity",)),
    (f"from 2 to {MOST_ROWS}", lambda value: 2 <= value <= MOST_ROWS, ("network.num_bins",)),
    (
        f"from 0 to {MOST_ROWS}",
        lambda value: 0 <= value <= MOST_ROWS,
        (
            "network.encoder_width",
            "network.mlp_width",
            "network.latent_size",
            "network.embedding_size",
            "planner.num_policy_samples",
        ),
    ),
    (
        "0 or more",
        lambda value: value >= 0,
        (
            "network.encoder_layers",
            "network.num_q",
            "world_model.consistency_scale",
            "world_model.reward_scale",
            "world_model.value_scale",
            "world_model.termination_scale",
            "world_model.reconstruction_scale",
            "policy.entropy_scale",
            "policy.planner_kl_scale",
            "exploration.beta_start",
            "exploration.beta_end",
            "train.warmup_env_steps",
            "train.updates_per_transition",
            "train.eval_every",
            "train.num_devices",
        ),
    ),
    (
        "above 0",
        lambda value: value > 0,
        (
            "world_model.learning_rate",
            "world_model.encoder_learning_rate_scale",
            "world_model.max_gradient_norm",
            "planner.temperature",
            "planner.min_std",
            "planner.max_std",
            "policy.kl_target",
            "policy.learning_rate",
            "policy.max_gradient_norm",
            "critic.learning_rate",
            "critic.max_gradient_norm",
            "exploration.max_bonus",
            "exploration.learning_rate",
        ),
    ),
    (
        "from 0 to 1",
        lambda value: 0 <= value <= 1,
        ("world_model.lambda_", "policy.lambda_", "critic.lambda_"),
    ),
    (
        "from 0 to below 1",
        lambda value: 0 <= value < 1,
        ("network.dropout", "exploration.discount"),
    ),
    (
        "above 0 and at most 1",
        lambda value: 0 < value <= 1,
        (
            "world_model.rho",
            "world_model.tau",
            "exploration.tau",
            "train.final_learning_rate_scale",
        ),
    ),
    ("above 0 and below 1", lambda value: 0 < value < 1, ("policy.clip_epsilon",)),
    (f"from 0 to {LARGEST_SEED}", lambda value: 0 <= value <= LARGEST_SEED, ("seed",)),
    (
        "from -20 to 20",  # beyond, exp() of it leaves float32 arithmetic without digits
        lambda value: -20 <= value <= 20,
        (
            "network.support_low",
            "network.support_high",
            "network.log_std_min",
            "network.log_std_max",
        ),
    ),
)


def _check_frozen(config: Config) -> None:
    for part in config.train.frozen:
        if part not in PARTS:
            raise setting_error(
                "train.frozen",
                config.train.frozen,
                f"names no part {part!r}; {nearest(part, PARTS)}",
            )


def validate(config: Config) -> None:
    """Checks every value and what the values mean together.

    Args:
        config: Settings as `config.from_config_dict` returns them, names and types already right.

    Raises:
        ConfigError: Names the first setting that is wrong, its value and a remedy.
    """
    values = flatten(dataclasses.asdict(config))
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            raise setting_error(key, values[key], f"is no choice; {nearest(values[key], choices)}")
    for text, holds, keys in RULES:
        for key in keys:
            if not (math.isfinite(values[key]) and holds(values[key])):
                raise setting_error(key, values[key], f"must be {text}")
    load = task_load(config)
    for request in registry.parse_tasks(config.tasks):
        registry.check_available(request)
    _check_frozen(config)
    _check_network(config)
    _check_planner(config)
    _check_policy(config)
    _check_encoder(config)
    if config.has_model:
        _check_model_data(config, load)
    _check_minibatches(
        "policy.minibatches", config.policy.minibatches, policy_samples(config, load)
    )
    _check_minibatches("critic.minibatches", config.critic.minibatches, load.transitions)
    _check_budget(config, load)
    conflict = device_conflict(config, config.train.num_devices or config.train.fsdp_devices)
    if conflict:
        raise ConfigError(conflict)


def _check_network(config: Config) -> None:
    network = resolve_network(config.network, len(config.tasks))
    group = network.simplex_size
    if network.latent_size % group:
        lower = network.latent_size // group * group
        choices = " or ".join(str(size) for size in (lower, lower + group) if size)
        raise setting_error(
            "network.latent_size",
            network.latent_size,
            f"is no multiple of network.simplex_size = {group}; nearest: {choices}",
        )
    if network.num_q < 2:
        raise setting_error(
            "network.num_q", network.num_q, "must be at least 2 (or 0: from network.size)"
        )
    for low, high in (("support_low", "support_high"), ("log_std_min", "log_std_max")):
        if getattr(network, low) >= getattr(network, high):
            raise setting_error(
                f"network.{low}",
                getattr(network, low),
                f"must be below network.{high} = {getattr(network, high)!r}",
            )


def _check_planner(config: Config) -> None:
    planner = config.planner
    for name in ("num_elites", "num_policy_samples"):
        if getattr(planner, name) > planner.num_samples:
            raise setting_error(
                f"planner.{name}",
                getattr(planner, name),
                f"must be at most planner.num_samples = {planner.num_samples}",
            )
    if planner.min_std > planner.max_std:
        raise setting_error(
            "planner.min_std",
            planner.min_std,
            f"must be at most planner.max_std = {planner.max_std}",
        )


def _check_policy(config: Config) -> None:
    policy = config.policy
    if policy.planner_kl_scale and not config.learns_from_real:
        raise setting_error(
            "policy.planner_kl_scale",
            policy.planner_kl_scale,
            "acts only with policy.objective = 'likelihood_ratio' and policy.data = 'real'; "
            "set both, or set it to 0",
        )


# What an agent without a world model must not ask for: setting, what it may be, the remedy.
_MODEL_FREE: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("planner.collect", lambda value: not value, "False"),
    ("policy.objective", lambda value: value == "likelihood_ratio", "'likelihood_ratio'"),
    ("policy.data", lambda value: value == "real", "'real'"),
    ("policy.planner_kl_scale", lambda value: value == 0, "0"),
    ("exploration.beta_start", lambda value: value == 0, "0"),
    ("exploration.beta_end", lambda value: value == 0, "0"),
    ("train.updates_per_transition", lambda value: value == 0, "0"),
    ("train.eval_policy", lambda value: value == "prior", "'prior'"),
)


def _check_encoder(config: Config) -> None:
    values = flatten(dataclasses.asdict(config))
    if config.has_model:
        if config.train.updates_per_transition == 0:
            raise setting_error(
                "train.updates_per_transition",
                config.train.updates_per_transition,
                "never trains the world model; give more, or network.encoder = 'observation'",
            )
        return
    for key, holds, remedy in _MODEL_FREE:
        if not holds(values[key]):
            raise setting_error(
                key,
                values[key],
                f"needs a world model and network.encoder = 'observation' has none; set {remedy} "
                "(experiments/configs/baselines/ppo.py does)",
            )


def _check_model_data(config: Config, load: Load) -> None:
    unroll = config.env.unroll_length
    for part in ("world_model", "planner"):
        horizon = getattr(config, part).horizon
        if horizon > unroll:
            raise setting_error(
                f"{part}.horizon",
                horizon,
                f"is over env.unroll_length = {unroll}; give at most {unroll}, or longer unrolls",
            )
    batch_size = config.world_model.batch_size
    if batch_size < load.replay_round:
        raise setting_error(
            "world_model.batch_size",
            batch_size,
            f"leaves out some of {len(config.tasks)} tasks (replay_weight {load.replay_round} in "
            f"all); give at least {load.replay_round}",
        )
    if config.replay.capacity < load.transitions:
        raise setting_error(
            "replay.capacity",
            config.replay.capacity,
            f"does not hold one unroll ({unroll} steps of {sum(load.num_envs)} environments); "
            f"give at least {load.transitions}",
        )


def _check_minibatches(key: str, minibatches: int, data: int) -> None:
    if data % minibatches == 0:
        return
    closest = nearest_divisor(data, minibatches)
    trouble = "are more than" if minibatches > data else "do not divide"
    raise setting_error(
        key, minibatches, f"minibatches {trouble} the {data} samples; nearest: {closest}"
    )


def _check_budget(config: Config, load: Load) -> None:
    train = config.train
    window = load.env_steps // config.env.unroll_length * config.world_model.horizon
    if config.has_model and train.warmup_env_steps < window:
        raise setting_error(
            "train.warmup_env_steps",
            train.warmup_env_steps,
            f"does not fill one window of {config.world_model.horizon} agent steps in "
            f"{sum(load.num_envs)} environments; give at least {window}",
        )
    if train.total_env_steps <= train.warmup_env_steps:
        raise setting_error(
            "train.total_env_steps",
            train.total_env_steps,
            f"ends before learning begins: give more than train.warmup_env_steps = "
            f"{train.warmup_env_steps}",
        )
