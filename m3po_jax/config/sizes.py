"""Network sizes by name, and sizes of the planner that must fit together."""

import dataclasses
from collections.abc import Mapping

from m3po_jax.config.errors import setting_error
from m3po_jax.config.rules import check
from m3po_jax.config.settings import NetworkConfig, PlannerConfig

# (encoder width, encoder layers, mlp width, latent size, Q heads)
SIZES: Mapping[str, tuple[int, int, int, int, int]] = {
    "tiny": (128, 1, 128, 64, 2),
    "1M": (256, 2, 384, 128, 2),
    "5M": (256, 2, 512, 512, 5),
    "19M": (1024, 3, 1024, 768, 5),
    "48M": (1792, 4, 1792, 768, 5),
    "317M": (4096, 5, 4096, 1376, 8),
}


def resolve_network(config: NetworkConfig, num_tasks: int) -> NetworkConfig:
    """Fills the sizes that are 0 as `config.size` says (TD-MPC2's sizes and a small one).

    Args:
        config: Network settings, zeros where `size` decides.
        num_tasks: Number of tasks; decides the embedding size.

    Returns:
        The same settings without zeros.

    Raises:
        ConfigError: No such size, or a number out of its range.
    """
    check(config, "network")
    width, layers, mlp_width, latent_size, num_q = SIZES[config.size]
    return dataclasses.replace(
        config,
        encoder_width=config.encoder_width or width,
        encoder_layers=config.encoder_layers or layers,
        mlp_width=config.mlp_width or mlp_width,
        latent_size=config.latent_size or latent_size,
        num_q=config.num_q or num_q,
        embedding_size=config.embedding_size or (16 if num_tasks < 10 else 96),
    )


def check_planner(config: PlannerConfig) -> None:
    """Checks the planner's settings, each alone and together.

    Raises:
        ConfigError: Names the first setting that is wrong, its value and a remedy.
    """
    check(config, "planner")
    for name in ("num_elites", "num_policy_samples"):
        if getattr(config, name) > config.num_samples:
            text = f"must be at most planner.num_samples = {config.num_samples}"
            raise setting_error(f"planner.{name}", getattr(config, name), text)
    if config.min_std > config.max_std:
        text = f"must be at most planner.max_std = {config.max_std}"
        raise setting_error("planner.min_std", config.min_std, text)
