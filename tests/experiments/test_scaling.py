"""What the scaling experiment counts in a traced program, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from experiments import scaling


def trace(function, *arrays):
    return jax.make_jaxpr(function, axis_env=[("i", 4)])(*arrays).jaxpr


def test_loops_multiply_products_and_exchanges():
    def step(x, _):
        return jax.lax.psum(x @ x, "i"), None  # 2 * 8^3 operations, 8 * 8 * 4 bytes

    def program(x, rounds):
        x, _ = jax.lax.scan(step, x, None, length=3)
        return jax.lax.fori_loop(0, rounds, lambda _, x: step(x, None)[0], x)

    cost = scaling.cost_of(trace(program, jnp.ones((8, 8)), 5), trips=5.0)
    assert cost.flops == (3 + 5) * 2 * 8**3
    assert cost.exchanges == 3 + 5
    assert cost.exchanged == (3 + 5) * 8 * 8 * 4


def test_the_dearer_branch_counts_and_calls_are_entered():
    def program(x):
        inner = jax.jit(lambda x: x @ x)
        return jax.lax.cond(x[0, 0] > 0, lambda: inner(inner(x)), lambda: inner(x))

    cost = scaling.cost_of(trace(program, jnp.ones((4, 4))), trips=1.0)
    assert cost.flops == 2 * 2 * 4**3


def test_prediction_by_hand():
    hardware = scaling.Hardware("h", flops=1e12, bandwidth=1e9, latency_s=1e-3, source="")
    cost = scaling.Cost(flops=scaling.UTILISATION * 2e12, exchanged=1e9, exchanges=10)
    assert scaling._predict(cost, 1, hardware) == pytest.approx(2.0)
    # 2 s of products, 2 * 3/4 s of a ring of 4, 10 exchanges of 2 ms.
    assert scaling._predict(cost, 4, hardware) == pytest.approx(2.0 + 1.5 + 0.02)
