"""Clipped surrogate and importance weights."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import distributions, policy_gradient

pytestmark = pytest.mark.usefixtures("strict_numerics")

# Compiled, and fed with numpy arrays: eager JAX would compile every operation by itself.
clipped_surrogate = jax.jit(policy_gradient.clipped_surrogate)
importance_weight = jax.jit(policy_gradient.importance_weight, static_argnames="cap")


def floats(*values):
    return np.array(values, np.float32)


def test_golden():
    # eps = .2. Ratio 1.5: A = 2 -> min(3, 2.4); A = -2 -> min(-3, -2.4).
    # Ratio 0.5: A = 2 -> min(1, 1.6); A = -2 -> min(-1, -1.6). Ratio 1.1, A = 3 -> 3.3.
    log_ratio = np.log(floats(1.5, 1.5, 0.5, 0.5, 1.1))
    advantage = floats(2.0, -2.0, 2.0, -2.0, 3.0)
    np.testing.assert_allclose(
        clipped_surrogate(log_ratio, advantage, clip_epsilon=0.2),
        [2.4, -3.0, 1.0, -1.6, 3.3],
        rtol=1e-6,
    )


def test_gradient_stops_only_where_clipping_binds():
    # Outside the range, the gradient lives exactly where the step would lead back into it:
    # ratio * A there (d ratio / d log_ratio = ratio).
    log_ratio = np.log(floats(1.5, 1.5, 0.5, 0.5))
    advantage = floats(2.0, -2.0, 2.0, -2.0)
    gradient = jax.grad(lambda x: jnp.sum(clipped_surrogate(x, advantage, clip_epsilon=0.2)))
    np.testing.assert_allclose(jax.jit(gradient)(log_ratio), [0.0, -3.0, 1.0, 0.0], rtol=1e-6)


def test_gradient_at_ratio_one_is_the_policy_gradient():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(64, 3)).astype(np.float32)
    advantage = rng.normal(size=64).astype(np.float32)
    mask = floats([1.0, 1.0, 0.0])
    params = (floats([0.3, -0.2, 0.1]), floats([0.7, 1.2, 0.5]))

    def log_prob(params):
        return distributions.log_prob(u, *params, mask)

    old = jax.jit(log_prob)(params)
    surrogate = jax.jit(
        jax.grad(
            lambda p: jnp.mean(clipped_surrogate(log_prob(p) - old, advantage, clip_epsilon=0.2))
        )
    )
    plain = jax.jit(jax.grad(lambda p: jnp.mean(advantage * log_prob(p))))
    for actual, expected in zip(surrogate(params), plain(params), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(expected[0, :2]).min() > 1e-3


def test_no_gradient_flows_into_the_advantage():
    gradient = jax.grad(lambda a: clipped_surrogate(np.float32(0.1), a, clip_epsilon=0.2))
    assert gradient(np.float32(2.0)) == 0.0


def test_importance_weight_golden():
    log_ratio = np.log(floats(0.25, 1.0, 3.0))
    np.testing.assert_allclose(importance_weight(log_ratio), [0.25, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(importance_weight(log_ratio, cap=2.0), [0.25, 1.0, 2.0], rtol=1e-6)
    assert importance_weight(np.float32(1e30)) == 1.0
    assert importance_weight(np.float32(-1e30)) == 0.0


def test_importance_weight_is_a_constant():
    assert jax.grad(importance_weight)(np.float32(-0.5)) == 0.0


_any = hnp.arrays(
    np.float32, (8,), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)
# 2^96 (8e28) times the saturated ratio of exp(20) = 5e8 still is a float32.
_advantages = hnp.arrays(np.float32, (8,), elements=st.floats(-(2.0**96), 2.0**96, width=32))


@jax.jit
def _value_and_gradient(log_ratio, advantage):
    def objective(x):
        return clipped_surrogate(x, advantage, clip_epsilon=0.2)

    return objective(log_ratio), jax.grad(lambda x: jnp.sum(objective(x)))(log_ratio)


@hypothesis.given(_any, _advantages)
def test_never_nan(log_ratio, advantage):
    value, gradient = _value_and_gradient(log_ratio, advantage)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    weight = np.asarray(importance_weight(log_ratio))
    assert ((weight >= 0.0) & (weight <= 1.0)).all()
