"""All settings, as frozen dataclasses; `from_config_dict` is the only reader of a ConfigDict.

A setting's type says which values it may have (`rules`); `config_validation.validate` knows which
make sense together. Nothing here imports JAX, so that a mistake is refused at once.
"""

from m3po_jax.config.errors import ConfigError, UserError, nearest, setting_error
from m3po_jax.config.reading import (
    default_config,
    field_types,
    flatten,
    from_config_dict,
    unknown_key,
)
from m3po_jax.config.rules import Range, check, rule_of
from m3po_jax.config.settings import (
    KL_BOUND_FACTOR,
    LARGEST_SEED,
    MODULES,
    MOST_ROWS,
    Config,
    CriticConfig,
    EnvConfig,
    ExplorationConfig,
    NetworkConfig,
    PlannerConfig,
    PolicyConfig,
    ReplayConfig,
    TrainConfig,
    WorldModelConfig,
)
from m3po_jax.config.sizes import SIZES, check_planner, resolve_network

__all__ = [
    "KL_BOUND_FACTOR",
    "LARGEST_SEED",
    "MODULES",
    "MOST_ROWS",
    "SIZES",
    "Config",
    "ConfigError",
    "CriticConfig",
    "EnvConfig",
    "ExplorationConfig",
    "NetworkConfig",
    "PlannerConfig",
    "PolicyConfig",
    "Range",
    "ReplayConfig",
    "TrainConfig",
    "UserError",
    "WorldModelConfig",
    "check",
    "check_planner",
    "default_config",
    "field_types",
    "flatten",
    "from_config_dict",
    "nearest",
    "resolve_network",
    "rule_of",
    "setting_error",
    "unknown_key",
]
