"""Products of bfloat16 inputs with float32 sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops.matmul import bfloat16_dot_general, bfloat16_matmul

pytestmark = pytest.mark.usefixtures("strict_numerics")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(x):
    """To the eight significant bits of bfloat16, in float64."""
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_it_is_the_product_of_rounded_inputs(rows):
    x, w = normal(*rows, 7), normal(7, 4, seed=1)
    y = jax.jit(bfloat16_matmul)(x, w)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded(x) @ rounded(w), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(y - x @ w)) > 1e-4


def test_sums_are_of_float32():
    # In bfloat16 a sum of ones stops to grow at 256.
    y = bfloat16_matmul(jnp.ones((1, 4096)), jnp.ones((4096, 1)))
    assert y.item() == 4096.0


@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_gradients_are_products_of_rounded_inputs_too(rows):
    x, w, g = normal(*rows, 7), normal(7, 4, seed=1), normal(*rows, 4, seed=2)
    _, backward = jax.vjp(bfloat16_matmul, x, w)
    dx, dw = jax.jit(backward)(g)
    assert dx.dtype == dw.dtype == jnp.float32
    np.testing.assert_allclose(dx, rounded(g) @ rounded(w).T, rtol=1e-5, atol=1e-6)
    flat = rounded(x).reshape(-1, 7).T @ rounded(g).reshape(-1, 4)
    np.testing.assert_allclose(dw, flat, rtol=1e-5, atol=1e-6)


def test_no_product_of_the_program_has_float32_inputs():
    def loss(x, w):
        return jnp.sum(jnp.tanh(bfloat16_matmul(x, w)))

    text = jax.jit(jax.grad(loss, (0, 1))).lower(normal(5, 7), normal(7, 4)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    for line in products:
        inputs, _, output = line.rpartition("->")
        assert inputs.count("xbf16>") == 2 and "xf32>" in output, line


def test_other_products_are_refused():
    with pytest.raises(ValueError, match="Dense"):
        bfloat16_dot_general(jnp.ones((2, 3)), jnp.ones((2, 3)), (((1,), (1,)), ((), ())))
