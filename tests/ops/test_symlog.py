"""symlog and symexp."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops.symlog import symexp, symlog

pytestmark = pytest.mark.usefixtures("strict_numerics")

symlog_gradient = jax.jit(jax.grad(symlog))
symexp_gradient = jax.jit(jax.grad(symexp))
finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


def test_golden():
    # symlog(e - 1) = log(e) = 1, and it is odd.
    x = jnp.array([0.0, np.e - 1.0, 1.0 - np.e, np.e**3 - 1.0])
    np.testing.assert_allclose(symlog(x), [0.0, 1.0, -1.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(symexp(jnp.array([0.0, 1.0, -1.0, 3.0])), x, rtol=1e-6)


def test_small_values_keep_their_relative_precision():
    # symlog(x) = x - x^2 / 2 + ..., so at 1e-6 it is x to a relative 5e-7.
    x = jnp.array([1e-6, -1e-6, 1e-20])
    np.testing.assert_allclose(symlog(x), x, rtol=1e-6)
    np.testing.assert_allclose(symexp(x), x, rtol=1e-6)


@pytest.mark.parametrize("x", [0.0, -0.0, 1.0, -1.0, 100.0, -100.0])
def test_gradient_is_the_slope_also_at_zero(x):
    # d symlog / dx = 1 / (1 + |x|). Differentiating through sign and abs gives 0 at 0.
    assert symlog_gradient(np.float32(x)) == pytest.approx(1.0 / (1.0 + abs(x)), rel=1e-6)


@pytest.mark.parametrize("y", [0.0, -0.0, 1.0, -2.0])
def test_gradient_of_inverse(y):
    assert symexp_gradient(np.float32(y)) == pytest.approx(np.exp(abs(y)), rel=1e-6)


@hypothesis.given(finite)
def test_any_finite_value_round_trips(x):
    y = symlog(np.float32(x))
    assert np.isfinite(y)
    # The derivative of symexp turns one rounding of y into |y| * eps relative; 4 eps of slack.
    tolerance = (abs(float(y)) + 4.0) * 4e-7
    if abs(float(y)) < 88.0:  # beyond, exp of the rounded y overflows float32
        assert float(symexp(y)) == pytest.approx(x, rel=tolerance, abs=1e-37)


@hypothesis.given(finite)
def test_gradients_are_never_nan(x):
    assert np.isfinite(symlog_gradient(np.float32(x)))
    assert not np.isnan(symexp_gradient(np.float32(x)))


def test_integers_are_refused():
    with pytest.raises(AssertionError):
        symlog(jnp.arange(3))
