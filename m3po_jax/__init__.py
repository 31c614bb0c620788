"""M3PO in JAX: a reconstruction of multi-task model-based policy optimization.

Public names are imported on first use, so that `import m3po_jax` starts no JAX backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3po_jax.config import (
        Config,
        ConfigError,
        UserError,
        default_config,
        from_config_dict,
        resolve_network,
    )
    from m3po_jax.config_validation import validate

__version__ = "0.1.0"

__all__ = [
    "Config",
    "ConfigError",
    "UserError",
    "__version__",
    "default_config",
    "from_config_dict",
    "resolve_network",
    "validate",
]

_HOME = {
    "Config": "m3po_jax.config",
    "ConfigError": "m3po_jax.config",
    "UserError": "m3po_jax.config",
    "default_config": "m3po_jax.config",
    "from_config_dict": "m3po_jax.config",
    "resolve_network": "m3po_jax.config",
    "validate": "m3po_jax.config_validation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'm3po_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
