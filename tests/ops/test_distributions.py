"""Masked Gaussians: golden values, Monte-Carlo agreement, and inactive dims that do not exist."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import distributions

pytestmark = pytest.mark.usefixtures("strict_numerics")

# Compiled, and fed with numpy arrays: eager JAX would compile every operation by itself.
sample = jax.jit(distributions.sample)
log_prob = jax.jit(distributions.log_prob)
tanh_log_prob = jax.jit(distributions.tanh_log_prob)
entropy = jax.jit(distributions.entropy)
kl = jax.jit(distributions.kl)


def floats(*values):
    return np.array(values, np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ALL = floats(1.0)
LOG_TWO_PI = np.log(2.0 * np.pi)


def test_log_prob_golden():
    # N(1, 2^2) at 5: -(4 / 2)^2 / 2 - log 2 - log(2 pi) / 2.
    expected = -2.0 - np.log(2.0) - 0.5 * LOG_TWO_PI
    actual = log_prob(floats(5.0), floats(1.0), floats(2.0), ALL)
    assert actual == pytest.approx(expected, rel=1e-6)


def test_log_prob_sums_over_dimensions():
    u, mean, std = floats(0.5, -1.0), floats(0.0, 2.0), floats(1.0, 0.1)
    joint = log_prob(u, mean, std, floats(1.0, 1.0))
    parts = [log_prob(u[i : i + 1], mean[i : i + 1], std[i : i + 1], ALL) for i in (0, 1)]
    assert joint == pytest.approx(float(sum(parts)), rel=1e-6)


def test_entropy_golden():
    # log std + log(2 pi e) / 2, here of stds 1 and e.
    expected = 1.0 + 2 * 0.5 * (LOG_TWO_PI + 1.0)
    actual = entropy(floats(1.0, np.e), floats(1.0, 1.0))
    assert actual == pytest.approx(expected, rel=1e-6)


def test_kl_golden():
    # KL(N(0, 1) || N(1, 2^2)) = log 2 + (1 + 1) / (2 * 4) - 1 / 2.
    actual = kl(floats(0.0), floats(1.0), floats(1.0), floats(2.0), ALL)
    assert actual == pytest.approx(np.log(2.0) + 0.25 - 0.5, rel=1e-6)


def test_kl_is_exactly_zero_with_zero_gradient_at_equality():
    mean, std = normal(16, 4), np.exp(normal(16, 4, seed=1))
    mask = np.ones(4, np.float32)
    np.testing.assert_array_equal(kl(mean, std, mean, std, mask), 0.0)
    gradient = jax.jit(jax.grad(lambda q: jnp.sum(kl(mean, std, *q, mask))))
    for part in gradient((mean, std)):
        np.testing.assert_allclose(part, 0.0, atol=1e-5)


def test_kl_keeps_its_digits_near_equality():
    # KL of equal means and std ratio r is (r^2 - 1) / 2 - log r = d^2 - O(d^3) with d = r - 1.
    # The plain formula has an error of 1e-7, as large as this value.
    std_p = np.float32(1.0) + np.float32(2.0**-12)
    actual = kl(floats(0.0), floats(std_p), floats(0.0), floats(1.0), ALL)
    ratio = np.float64(std_p)
    assert actual == pytest.approx(0.5 * (ratio**2 - 1.0) - np.log(ratio), rel=1e-2)


def test_kl_and_entropy_equal_monte_carlo(key):
    n = 200_000
    mask = floats(1.0, 1.0, 0.0)
    mean_p, std_p = floats(0.5, -1.0, 9.0), floats(0.8, 1.5, 9.0)
    mean_q, std_q = floats(0.2, -0.5, 0.0), floats(1.0, 1.0, 1.0)
    u = sample(np.broadcast_to(mean_p, (n, 3)), std_p, mask, key)
    log_p = log_prob(u, mean_p, std_p, mask)
    log_q = log_prob(u, mean_q, std_q, mask)
    # Standard deviations of these terms are about 1, so 5 standard errors are about 0.011.
    assert kl(mean_p, std_p, mean_q, std_q, mask) == pytest.approx(
        float(np.mean(log_p - log_q)), abs=0.015
    )
    assert entropy(std_p, mask) == pytest.approx(-float(np.mean(log_p)), abs=0.015)


def test_kl_is_the_same_after_tanh(key):
    mask = floats(1.0, 1.0)
    mean_p, std_p = floats(0.5, -1.0), floats(0.8, 1.5)
    mean_q, std_q = floats(0.0, 0.0), floats(1.0, 1.0)
    u = sample(np.broadcast_to(mean_p, (64, 2)), std_p, mask, key)
    plain = log_prob(u, mean_p, std_p, mask) - log_prob(u, mean_q, std_q, mask)
    squashed = tanh_log_prob(u, mean_p, std_p, mask) - tanh_log_prob(u, mean_q, std_q, mask)
    np.testing.assert_allclose(squashed, plain, rtol=1e-4, atol=1e-4)


def test_tanh_density_integrates_to_one():
    # The midpoint rule in a = tanh(u) over (-1, 1).
    a = (np.arange(20_000) + 0.5) / 10_000 - 1.0
    u = np.arctanh(a).astype(np.float32)[:, None]
    density = np.exp(tanh_log_prob(u, floats(0.3), floats(0.5), ALL))
    assert float(np.mean(density)) * 2.0 == pytest.approx(1.0, abs=1e-3)


def test_tanh_log_prob_is_stable_in_the_tails():
    # log(1 - tanh(u)^2) = 2 log 2 - 2 |u| up to exp(-2 |u|); tanh(50) is 1 in float32.
    u = floats([50.0], [-50.0])
    correction = log_prob(u, u, floats(1.0), ALL) - tanh_log_prob(u, u, floats(1.0), ALL)
    np.testing.assert_allclose(correction, 2.0 * np.log(2.0) - 100.0, rtol=1e-6)


def test_sample_moments(key):
    mean, std = floats(1.0, -2.0), floats(0.5, 3.0)
    u = sample(np.broadcast_to(mean, (100_000, 2)), std, floats(1.0, 1.0), key)
    # Five standard errors: 5 * 3 / sqrt(1e5) is 0.05.
    np.testing.assert_allclose(np.mean(u, axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.std(u, axis=0), std, rtol=0.02)


def test_sample_is_reparameterised(key):
    # u = mean + std * noise, so du / dmean = 1 and du / dstd = noise.
    mean, std = floats(1.0), floats(0.5)
    noise = (sample(mean, std, ALL, key) - mean) / std
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(sample(*p, ALL, key))))((mean, std))
    np.testing.assert_allclose(gradient[0], 1.0)
    np.testing.assert_allclose(gradient[1], noise, rtol=1e-5)


GARBAGE = [0.0, -1.0, np.nan, np.inf, -np.inf, 1e38, 1e-38]


@jax.jit
def all_values(u, mean, std, mean_q, std_q, mask):
    return jnp.stack(
        [
            distributions.log_prob(u, mean, std, mask),
            distributions.tanh_log_prob(u, mean, std, mask),
            distributions.entropy(std, mask),
            distributions.kl(mean, std, mean_q, std_q, mask),
        ]
    )


all_gradients = jax.jit(jax.jacrev(all_values, argnums=(0, 1, 2, 3, 4)))


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("mask_dtype", [np.float32, np.bool_])
def test_inactive_dims_contribute_nothing_in_value_and_gradient(garbage, mask_dtype):
    real = [floats(v) for v in (0.3, -0.2, 0.7, 0.1, 1.3)]
    padded = [floats(v[0], garbage, garbage) for v in real]
    mask = np.array([1, 0, 0], mask_dtype)
    np.testing.assert_array_equal(all_values(*padded, mask), all_values(*real, ALL))
    for actual, expected in zip(
        all_gradients(*padded, mask), all_gradients(*real, ALL), strict=True
    ):
        np.testing.assert_array_equal(actual[:, 1:], 0.0)
        np.testing.assert_allclose(actual[:, :1], expected, rtol=1e-6)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_samples_of_inactive_dims_are_zero_without_gradient(key, garbage):
    params, mask = (floats(0.3, garbage), floats(0.7, garbage)), floats(1.0, 0.0)
    assert sample(*params, mask, key)[1] == 0.0
    for gradient in sample_gradient(params, mask, key):
        assert gradient[1] == 0.0 and gradient[0] != 0.0 and np.isfinite(gradient[0])


@jax.jit
def sample_gradient(params, mask, key):
    return jax.grad(lambda p: jnp.sum(distributions.sample(*p, mask, key)))(params)


def test_no_active_dim_gives_zero():
    values = all_values(*(floats(1.0, 1.0, 1.0) for _ in range(5)), floats(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(values, 0.0)


def test_arguments_broadcast_against_each_other(key):
    u, mean = normal(5, 4, 3), normal(4, 3)
    std, mask = floats(1.0, 2.0, 3.0), np.ones((4, 1), np.float32)
    assert sample(mean, std, mask, key).shape == (4, 3)
    assert entropy(std, mask).shape == (4,)
    full = [np.broadcast_to(array, u.shape) for array in (u, mean, std, mask)]
    np.testing.assert_array_equal(log_prob(u, mean, std, mask), log_prob(*full))
    np.testing.assert_array_equal(
        kl(u, std, mean, std, mask), kl(full[0], full[2], full[1], full[2], full[3])
    )


def arrays_in(low, high):
    return hnp.arrays(np.float32, (5, 3), elements=st.floats(low, high, width=32))


@jax.jit
def values_and_gradients(args, mask):
    gradients = jax.grad(lambda args: jnp.sum(all_values(*args, mask)))(args)
    return all_values(*args, mask), gradients


@hypothesis.given(
    arrays_in(-1e6, 1e6),
    arrays_in(-1e6, 1e6),
    arrays_in(2.0**-10, 2.0**10),
    arrays_in(-1e6, 1e6),
    arrays_in(2.0**-10, 2.0**10),
    hnp.arrays(np.bool_, (5, 3)),
)
def test_never_nan(u, mean, std, mean_q, std_q, mask):
    values, gradients = values_and_gradients((u, mean, std, mean_q, std_q), mask)
    assert np.isfinite(values).all()
    assert (values[3] >= -1e-6).all()
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0.0)
