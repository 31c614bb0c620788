"""M3PO in JAX: a reconstruction of multi-task model-based policy optimization.

Public names are imported on first use, so that `import m3po_jax` starts no JAX backend.
`docs/library.md` has an example of each.
"""

import importlib
from typing import TYPE_CHECKING, Any

from m3po_jax.version import VERSION

if TYPE_CHECKING:
    from m3po_jax.config import (
        Config,
        ConfigError,
        ExplorationConfig,
        PlannerConfig,
        PolicyConfig,
        UserError,
        default_config,
        from_config_dict,
        resolve_network,
    )
    from m3po_jax.config_validation import validate
    from m3po_jax.deploy.agent import Agent, load
    from m3po_jax.deploy.gymnasium_driver import Driver, play
    from m3po_jax.learning.train_step import make_train_step
    from m3po_jax.networks.layers import sim_norm
    from m3po_jax.ops import two_hot
    from m3po_jax.ops.returns import gae, lambda_return
    from m3po_jax.ops.statistics import (
        init_running_moments,
        init_running_range,
        update_running_moments,
        update_running_range,
    )
    from m3po_jax.ops.symlog import symexp, symlog
    from m3po_jax.ops.two_hot import Support
    from m3po_jax.planning.known_dynamics import KnownDynamics, make_planner
    from m3po_jax.planning.mppi import mppi_plan
    from m3po_jax.policy.exploration import disagreement, novelty_bonus, novelty_weight
    from m3po_jax.policy.trust_region import (
        Gaussians,
        init_trust_region,
        surrogate_loss,
        trust_region_update,
    )
    from m3po_jax.training.experiment import make_experiment
    from m3po_jax.training.loop import train_and_evaluate
    from m3po_jax.types import LatentModel
    from m3po_jax.workdir.folder import open_workdir
    from m3po_jax.workdir.preemption import Preempted
    from m3po_jax.world_model.imagine import imagine

__version__ = VERSION

_HOME = {
    "Agent": "m3po_jax.deploy.agent",
    "Config": "m3po_jax.config",
    "ConfigError": "m3po_jax.config",
    "Driver": "m3po_jax.deploy.gymnasium_driver",
    "ExplorationConfig": "m3po_jax.config",
    "Gaussians": "m3po_jax.policy.trust_region",
    "KnownDynamics": "m3po_jax.planning.known_dynamics",
    "LatentModel": "m3po_jax.types",
    "PlannerConfig": "m3po_jax.config",
    "PolicyConfig": "m3po_jax.config",
    "Preempted": "m3po_jax.workdir.preemption",
    "Support": "m3po_jax.ops.two_hot",
    "UserError": "m3po_jax.config",
    "default_config": "m3po_jax.config",
    "disagreement": "m3po_jax.policy.exploration",
    "novelty_bonus": "m3po_jax.policy.exploration",
    "novelty_weight": "m3po_jax.policy.exploration",
    "from_config_dict": "m3po_jax.config",
    "gae": "m3po_jax.ops.returns",
    "imagine": "m3po_jax.world_model.imagine",
    "init_running_moments": "m3po_jax.ops.statistics",
    "init_running_range": "m3po_jax.ops.statistics",
    "init_trust_region": "m3po_jax.policy.trust_region",
    "lambda_return": "m3po_jax.ops.returns",
    "load": "m3po_jax.deploy.agent",
    "make_experiment": "m3po_jax.training.experiment",
    "make_planner": "m3po_jax.planning.known_dynamics",
    "make_train_step": "m3po_jax.learning.train_step",
    "mppi_plan": "m3po_jax.planning.mppi",
    "open_workdir": "m3po_jax.workdir.folder",
    "play": "m3po_jax.deploy.gymnasium_driver",
    "resolve_network": "m3po_jax.config",
    "sim_norm": "m3po_jax.networks.layers",
    "surrogate_loss": "m3po_jax.policy.trust_region",
    "symexp": "m3po_jax.ops.symlog",
    "symlog": "m3po_jax.ops.symlog",
    "train_and_evaluate": "m3po_jax.training.loop",
    "trust_region_update": "m3po_jax.policy.trust_region",
    "update_running_moments": "m3po_jax.ops.statistics",
    "update_running_range": "m3po_jax.ops.statistics",
    "validate": "m3po_jax.config_validation",
}
_MODULES = {"two_hot": "m3po_jax.ops.two_hot"}

__all__ = [
    "Agent",
    "Config",
    "ConfigError",
    "Driver",
    "ExplorationConfig",
    "Gaussians",
    "KnownDynamics",
    "LatentModel",
    "PlannerConfig",
    "PolicyConfig",
    "Preempted",
    "Support",
    "UserError",
    "__version__",
    "default_config",
    "disagreement",
    "novelty_bonus",
    "novelty_weight",
    "from_config_dict",
    "gae",
    "imagine",
    "init_running_moments",
    "init_running_range",
    "init_trust_region",
    "lambda_return",
    "load",
    "make_experiment",
    "make_planner",
    "make_train_step",
    "mppi_plan",
    "open_workdir",
    "play",
    "resolve_network",
    "sim_norm",
    "surrogate_loss",
    "symexp",
    "symlog",
    "train_and_evaluate",
    "trust_region_update",
    "two_hot",
    "update_running_moments",
    "update_running_range",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOME:
        raise AttributeError(f"module 'm3po_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
