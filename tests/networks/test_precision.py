"""Layers whose products take bfloat16 inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import NetworkConfig
from m3po_jax.networks.factory import make_networks
from m3po_jax.types import TaskSpec

PRECISIONS = ("float32", "bfloat16")
SMALL = NetworkConfig(encoder_width=32, encoder_layers=1, mlp_width=32, latent_size=16, num_q=2)
MASKS = np.ones((1, 3), np.float32)


def build(precision):
    specs = [TaskSpec("toy/0", 5, 3, 100, 1, 0.95, True)]
    cfg = dataclasses.replace(SMALL, precision=precision)
    return make_networks(specs, MASKS, 5, cfg, decoder=True, num_explorers=2)


def outputs(networks, params, observation):
    """What every module says of a batch, by name, each from the same latents."""
    e = networks.embed(params.world_model, jnp.zeros(len(observation), jnp.int32))
    a, z = jnp.tanh(observation[:, :3]), jax.nn.softmax(jnp.tile(observation, 4)[:, :16])

    def model(method, *args):
        return networks.apply_model(params.world_model, method, *args)

    return {
        "encode": networks.encode(params.world_model, observation, e),
        "next_latent": model("next_latent", z, a, e),
        "reward": model("reward_logits", z, a, e),
        "termination": model("termination_logit", z, a, e),
        "guesses": model("guesses", z, a, e),
        "decode": model("decode", z, e),
        "q": networks.q_logits(params.world_model["q"], z, a, e),
        "policy": networks.policy(params.policy, z, e, jnp.ones((len(observation), 3))),
        "value": networks.value_logits(params.critic, z, e),
        "exploration": networks.exploration_logits(params.exploration, z, e),
    }


@pytest.fixture(scope="module")
def case():
    params = jax.jit(build("float32").init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    # The output layers start at zero; here they shall show what comes in.
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
    return params, rng.normal(size=(6, 5)).astype(np.float32)


def test_parameters_are_float32_and_the_same():
    one, other = (jax.eval_shape(build(p).init, jax.random.key(0)) for p in PRECISIONS)
    assert one == other
    assert {x.dtype for x in jax.tree.leaves(other)} == {jnp.dtype("float32")}


def test_every_module_rounds_a_little(case):
    exact, rounded = (jax.jit(outputs, static_argnums=0)(build(p), *case) for p in PRECISIONS)
    for name, x in exact.items():
        for one, other in zip(jax.tree.leaves(x), jax.tree.leaves(rounded[name]), strict=True):
            assert other.dtype == jnp.float32
            difference = np.max(np.abs(one - other)) / np.max(np.abs(one))
            assert 1e-5 < difference < 5e-2, (name, difference)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_products_of_values_and_gradients_have_that_precision(case, precision):
    networks = build(precision)

    def loss(params, observation):
        leaves = jax.tree.leaves(outputs(networks, params, observation))
        return sum(jnp.sum(x) for x in leaves)

    text = jax.jit(jax.grad(loss)).lower(*case).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 60
    expected = {"float32": "f32", "bfloat16": "bf16"}[precision]
    for line in products:
        inputs = line.rpartition("->")[0].rpartition(" : ")[2]
        assert inputs.count(f"x{expected}>") == 2, line
