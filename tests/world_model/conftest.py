"""A very small bundle of two tasks with random parameters, heads included."""

import jax
import numpy as np
import pytest

from m3po_jax.config import NetworkConfig
from m3po_jax.networks.factory import AgentParams, Networks, make_networks
from m3po_jax.types import TaskSpec

CFG = NetworkConfig(
    encoder_width=16,
    encoder_layers=1,
    mlp_width=16,
    latent_size=16,
    num_q=3,
    embedding_size=4,
    simplex_size=4,
    num_bins=21,
    support_low=-5.0,
    support_high=5.0,
    dropout=0.01,
)
MASKS = np.array([[1, 1, 0], [1, 1, 1]], np.float32)


def build(can_terminate: bool) -> Networks:
    """Two tasks with 2 and 3 of 3 actions; the second may terminate."""
    specs = [
        TaskSpec("toy/a", 4, 2, 50, 1, 0.9, False),
        TaskSpec("toy/b", 5, 3, 50, 1, 0.95, can_terminate),
    ]
    return make_networks(specs, MASKS, observation_size=5, config=CFG)


def random_params(networks: Networks, seed: int = 0) -> AgentParams:
    """Random values everywhere: heads that are not zero, no generator to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(0.0, 0.3, s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="session")
def networks() -> Networks:
    return build(can_terminate=True)


@pytest.fixture(scope="session")
def endless_networks() -> Networks:
    return build(can_terminate=False)


@pytest.fixture(scope="session")
def params(networks) -> AgentParams:
    return random_params(networks)


@pytest.fixture(scope="session")
def endless_params(endless_networks) -> AgentParams:
    return random_params(endless_networks)
