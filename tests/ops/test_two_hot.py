"""Two-hot encoding: exact round trips, and a cross-entropy equal to the dense formula."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import two_hot
from m3po_jax.ops.two_hot import Support

pytestmark = pytest.mark.usefixtures("strict_numerics")

SUPPORT = Support(-10.0, 10.0, 101)
SMALL = Support(-1.0, 1.0, 3)

# Compiled, and fed with numpy arrays: eager JAX would compile every operation by itself.
encode = jax.jit(two_hot.encode, static_argnums=1)
decode = jax.jit(two_hot.decode, static_argnums=1)
decode_probs = jax.jit(two_hot.decode_probs, static_argnums=1)
cross_entropy = jax.jit(two_hot.cross_entropy, static_argnums=2)


@jax.jit
def value_and_gradient(logits, x):
    value = two_hot.cross_entropy(logits, x, SUPPORT)
    return value, jax.grad(lambda z: jnp.sum(two_hot.cross_entropy(z, x, SUPPORT)))(logits)


@jax.jit
def decode_gradient(logits):
    return jax.grad(lambda z: jnp.sum(two_hot.decode(z, SUPPORT)))(logits)


def normal(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def raw(y):
    """symexp, with one float32 rounding at the end."""
    y = np.asarray(y, np.float64)
    return (np.sign(y) * np.expm1(np.abs(y))).astype(np.float32)


def assert_round_trip(x, support):
    """Decoding returns `x` up to a few roundings of symlog(x), which `symexp` magnifies."""
    decoded = np.asarray(decode_probs(encode(x, support), support), np.float64)
    exact = np.asarray(x, np.float64)
    y = np.log1p(np.abs(exact))
    # d symexp = (1 + |x|) dy, and dy is a few float32 roundings of y. No absolute slack at zero.
    bound = 4 * np.finfo(np.float32).eps * y * (1.0 + np.abs(exact)) + 4e-7 * np.abs(exact)
    np.testing.assert_array_less(np.abs(decoded - exact), bound + 1e-37)


def test_golden_encoding():
    # symlog(e^0.25 - 1) = 0.25, a quarter of the way from bin 0 to bin 1.
    x = jnp.float32(np.expm1(0.25))
    np.testing.assert_allclose(encode(x, SMALL), [0.0, 0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(encode(-x, SMALL), [0.25, 0.75, 0.0], atol=1e-6)


def test_golden_decoding():
    # 0.1 * -1 + 0.3 * 0 + 0.6 * 1 = 0.5 in symlog units.
    probs = np.array([0.1, 0.3, 0.6], np.float32)
    assert decode_probs(probs, SMALL) == pytest.approx(np.expm1(0.5), rel=1e-6)
    assert decode(np.log(probs), SMALL) == pytest.approx(np.expm1(0.5), rel=1e-6)


def test_bins_are_equally_spaced_in_symlog_units_with_zero_in_the_middle():
    np.testing.assert_allclose(np.diff(SUPPORT.bins), 0.2, atol=1e-6)
    assert SUPPORT.bins[0] == -10.0 and SUPPORT.bins[50] == 0.0 and SUPPORT.bins[-1] == 10.0
    assert SUPPORT.bins.dtype == np.float32


def test_every_bin_round_trips_and_is_nearly_one_hot():
    x = raw(SUPPORT.bins)
    assert_round_trip(x, SUPPORT)
    # symlog(symexp(b)) misses b by rounding alone: 1e-6 of a symlog unit is 5e-6 of a bin.
    np.testing.assert_allclose(encode(x, SUPPORT), np.eye(101), atol=2e-5)


def test_random_values_round_trip():
    assert_round_trip(raw(np.random.default_rng(0).uniform(-10.0, 10.0, 10_000)), SUPPORT)


def test_values_near_zero_keep_their_relative_precision():
    magnitudes = (10.0 ** np.arange(-30.0, 1.0)).astype(np.float32)
    assert_round_trip(np.concatenate([magnitudes, -magnitudes]), SUPPORT)


@pytest.mark.parametrize("support", [Support(-3.0, 7.0, 41), Support(0.0, 5.0, 2)])
def test_other_supports_round_trip(support):
    y = np.random.default_rng(0).uniform(max(support.low, 0.1), support.high, 1000)
    assert_round_trip(raw(y), support)


def test_values_beside_a_bin_have_valid_weights():
    # Neighbouring floats of every bin: where a rounded division picks the wrong interval.
    bins = SUPPORT.bins
    near = np.concatenate([np.nextafter(bins, np.float32(s)) for s in (-np.inf, np.inf)])
    probs = np.asarray(encode(raw(near), SUPPORT))
    assert probs.min() >= 0.0 and probs.max() <= 1.0
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, atol=1e-6)


def test_values_out_of_range_take_the_end_bins():
    probs = encode(np.array([-1e30, 1e30], np.float32), SUPPORT)
    np.testing.assert_array_equal(probs, np.eye(101)[[0, -1]])
    np.testing.assert_allclose(
        decode_probs(probs, SUPPORT), [-np.expm1(10.0), np.expm1(10.0)], rtol=1e-5
    )


def test_decode_equals_decode_probs_of_softmax():
    logits = normal(3, 7, 101, scale=5.0)
    weights = np.exp(logits)
    expected = decode_probs(weights / weights.sum(axis=-1, keepdims=True), SUPPORT)
    np.testing.assert_allclose(decode(logits, SUPPORT), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        decode(logits + np.float32(100.0), SUPPORT), expected, rtol=1e-4, atol=1e-4
    )


def test_zero_logits_decode_to_zero():
    # The last layer of every two-hot head starts at zero: first predictions must be 0.
    assert abs(float(decode(np.zeros(101, np.float32), SUPPORT))) < 1e-5


def test_cross_entropy_equals_the_dense_formula_in_value_and_gradient():
    logits, x = normal(4, 5, 101, scale=3.0), normal(4, 5, scale=50.0, seed=1)
    target = np.asarray(encode(x, SUPPORT))
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    value, gradient = value_and_gradient(logits, x)
    np.testing.assert_allclose(value, -(target * log_probs).sum(axis=-1), rtol=1e-5)
    # The gradient of a cross-entropy with its logits is softmax - target.
    np.testing.assert_allclose(gradient, np.exp(log_probs) - target, atol=1e-6)


def test_cross_entropy_is_the_entropy_of_the_target_at_its_minimum():
    # Halfway between two bins the target's entropy is log 2.
    logits = np.log(np.array([1e-30, 0.5, 0.5], np.float32))
    actual = cross_entropy(logits, np.float32(np.expm1(0.5)), SMALL)
    assert actual == pytest.approx(np.log(2.0), rel=1e-5)


def test_uniform_logits_cost_log_num_bins():
    actual = cross_entropy(np.zeros(101, np.float32), np.float32(3.0), SUPPORT)
    assert actual == pytest.approx(np.log(101.0), rel=1e-6)


def test_no_gradient_flows_into_the_target():
    gradient = jax.jit(jax.grad(two_hot.cross_entropy, argnums=1), static_argnums=2)
    assert gradient(normal(101), np.float32(3.3), SUPPORT) == 0.0


def test_gradient_descent_on_cross_entropy_recovers_the_target():
    x = np.array([-700.0, -0.3, 0.0, 0.02, 5000.0], np.float32)

    @jax.jit
    def descend(logits):
        # Step 2 is stable: the Hessian of a softmax is at most 1/2. Wrong mass decays as 1 / steps.
        def step(_, logits):
            return logits - 2.0 * value_and_gradient(logits, x)[1]

        return jax.lax.fori_loop(0, 3000, step, logits)

    decoded = np.asarray(decode(descend(np.zeros((5, 101), np.float32)), SUPPORT))
    np.testing.assert_allclose(
        np.sign(decoded) * np.log1p(np.abs(decoded)), np.sign(x) * np.log1p(np.abs(x)), atol=0.05
    )


@hypothesis.given(
    hnp.arrays(np.float32, (6, 101), elements=st.floats(-(2.0**120), 2.0**120, width=32)),
    hnp.arrays(
        np.float32, (6,), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
    ),
)
def test_never_nan(logits, x):
    assert np.isfinite(encode(x, SUPPORT)).all()
    assert np.isfinite(decode(logits, SUPPORT)).all()
    value, gradient = value_and_gradient(logits, x)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert np.isfinite(decode_gradient(logits)).all()


def test_refuses_bad_supports_and_shapes():
    with pytest.raises(ValueError, match="low < high"):
        Support(1.0, 1.0, 5)
    with pytest.raises(ValueError, match="at least 2"):
        Support(-1.0, 1.0, 1)
    with pytest.raises(AssertionError):
        two_hot.decode(jnp.zeros(5), SUPPORT)
    with pytest.raises(AssertionError):
        two_hot.cross_entropy(jnp.zeros((2, 101)), jnp.zeros(3), SUPPORT)
