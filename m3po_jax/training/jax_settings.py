"""Settings of JAX that a run cannot have, told before anything is computed."""

from typing import Any

import jax

from m3po_jax.config import ConfigError

_PRNG = "threefry2x32"


def require_usable() -> None:
    """Refuses what the agent cannot be computed with, and devices that are not there.

    Raises:
        ConfigError: Names the setting of JAX, why it does not do and the remedy.
    """
    settings: Any = jax.config
    if settings.jax_enable_x64:
        raise ConfigError(
            "JAX_ENABLE_X64 is on (jax_enable_x64), and agents and their checkpoints are float32; "
            "set JAX_ENABLE_X64=0"
        )
    prng = settings.jax_default_prng_impl
    if prng != _PRNG:
        raise ConfigError(
            f"JAX_DEFAULT_PRNG_IMPL={prng} (jax_default_prng_impl), and runs and their checkpoints "
            f"have keys of {_PRNG}, which draws the same on any number of devices; set "
            f"JAX_DEFAULT_PRNG_IMPL={_PRNG}"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX has no such plugin
        reason = next(iter(str(error).strip().splitlines()), "it knows no such platform")
        raise ConfigError(
            f"JAX finds no device for JAX_PLATFORMS={settings.jax_platforms or ''}: {reason}; "
            "install JAX for it, or unset JAX_PLATFORMS to use what is there"
        ) from error


def require_trainable() -> None:
    """Refuses what stops at the first NaN: metrics are NaN where there was nothing to measure.

    Raises:
        ConfigError: Names the setting and the one that is meant.
    """
    require_usable()
    for name in ("jax_debug_nans", "jax_debug_infs"):
        if getattr(jax.config, name):
            raise ConfigError(
                f"{name.upper()} is on ({name}), and it would stop a run at metrics that are NaN "
                f"because there was nothing to measure; set {name.upper()}=0 and give m3po-train "
                "--debug, which checks the numbers that must be finite"
            )
