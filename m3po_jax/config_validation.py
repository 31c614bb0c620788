"""Refuses settings that cannot work, before JAX is imported or anything is compiled."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from m3po_jax.config import (
    Config,
    ConfigError,
    check,
    check_planner,
    flatten,
    resolve_network,
    setting_error,
)
from m3po_jax.envs import registry
from m3po_jax.workload import Load, device_conflict, nearest_divisor, policy_samples, task_load


def validate(config: Config) -> None:
    """Checks every value and what the values mean together.

    Args:
        config: Settings as `config.from_config_dict` returns them, names and types already right.

    Raises:
        ConfigError: Names the first setting that is wrong, its value and a remedy.
    """
    check(config)
    load = task_load(config)
    requests = registry.parse_tasks(config.tasks)
    for request in requests:
        registry.check_available(request)
    registry.variations_of(requests, config.variations, seed=config.seed)
    _check_network(config, load)
    check_planner(config.planner)
    _check_policy(config)
    _check_encoder(config)
    _check_context(config, requests)
    _check_exploration(config)
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


def _check_network(config: Config, load: Load) -> None:
    network = resolve_network(config.network, load.num_tasks)
    group = network.simplex_size
    if network.latent_size % group:
        lower = network.latent_size // group * group
        choices = " or ".join(str(size) for size in (lower, lower + group) if size)
        raise setting_error(
            "network.latent_size",
            network.latent_size,
            f"is not a multiple of network.simplex_size = {group}; nearest: {choices}",
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


def _check_policy(config: Config) -> None:
    policy = config.policy
    if config.has_model and policy.data == "real" and policy.objective == "pathwise":
        raise setting_error(
            "policy.data",
            policy.data,
            "has an effect only with policy.objective = 'likelihood_ratio'; set that, or it to "
            "'imagined'",
        )
    if policy.planner_kl_scale and not config.learns_from_real:
        raise setting_error(
            "policy.planner_kl_scale",
            policy.planner_kl_scale,
            "has an effect only with policy.objective = 'likelihood_ratio' and "
            "policy.data = 'real'; "
            "set both, or set it to 0",
        )


def _check_exploration(config: Config) -> None:
    if config.has_bonus and not config.planner.collect:
        raise setting_error(
            "exploration.scale",
            config.exploration.scale,
            "acts in the planner that collects alone; set planner.collect = True, or it to 0",
        )


# What an agent without a world model must not ask for: setting, what it may be, the remedy.
_MODEL_FREE: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("planner.collect", lambda value: not value, "False"),
    ("policy.objective", lambda value: value == "likelihood_ratio", "'likelihood_ratio'"),
    ("policy.data", lambda value: value == "real", "'real'"),
    ("policy.planner_kl_scale", lambda value: value == 0, "0"),
    ("exploration.scale", lambda value: value == 0, "0"),
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
                "never trains the world model; increase it, or set network.encoder = 'observation'",
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


def _check_context(config: Config, requests: Sequence[registry.TaskRequest]) -> None:
    for index, request in enumerate(requests):
        if request.options.get("context") == "given" and not config.has_model:
            raise setting_error(
                f"tasks[{index}]",
                config.tasks[index],
                "gives its context to a task embedding, and network.encoder = 'observation' has "
                "none; write context=hidden",
            )


def _check_model_data(config: Config, load: Load) -> None:
    unroll = config.env.unroll_length
    for part in ("world_model", "planner"):
        horizon = getattr(config, part).horizon
        if horizon > unroll:
            raise setting_error(
                f"{part}.horizon",
                horizon,
                f"is larger than env.unroll_length = {unroll}; give at most {unroll}, or use "
                f"longer unrolls",
            )
    batch_size = config.world_model.batch_size
    if batch_size < load.replay_round:
        raise setting_error(
            "world_model.batch_size",
            batch_size,
            f"leaves out some of {load.num_tasks} tasks (replay_weight {load.replay_round} in "
            f"all); give at least {load.replay_round}",
        )
    if config.replay.capacity < load.transitions:
        raise setting_error(
            "replay.capacity",
            config.replay.capacity,
            f"does not hold one unroll ({unroll} steps of {sum(load.rows)} environments); "
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
            f"{sum(load.rows)} environments; give at least {window}",
        )
    if train.total_env_steps <= train.warmup_env_steps:
        raise setting_error(
            "train.total_env_steps",
            train.total_env_steps,
            f"ends before learning begins: give more than train.warmup_env_steps = "
            f"{train.warmup_env_steps}",
        )
