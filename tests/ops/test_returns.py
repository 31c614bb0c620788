"""Lambda-returns and advantages: by hand, by reduction, and across episode ends."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import returns

pytestmark = pytest.mark.usefixtures("strict_numerics")

# Compiled, and fed with numpy arrays: eager JAX would compile every operation by itself.
lambda_return = jax.jit(returns.lambda_return)
gae = jax.jit(returns.gae)


def floats(*values):
    return np.array(values, np.float32)


R = floats(1.0, 2.0, 3.0)
V = floats(10.0, 20.0, 30.0)
HALF = floats(0.5, 0.5, 0.5)
ONES = floats(1.0, 1.0, 1.0)


def random_trajectory(length, seed=0):
    """Rewards, discounts, values and continuations with ends of both kinds, values consistent."""
    rng = np.random.default_rng(seed)
    termination = rng.random(length) < 0.15
    truncation = (rng.random(length) < 0.15) & ~termination
    goes_on = ~(termination | truncation)
    v_tm1 = rng.normal(size=length)
    successor = np.append(v_tm1[1:], rng.normal())
    v_t = np.where(goes_on, successor, rng.normal(size=length))
    arrays = (rng.normal(size=length), 0.9 * (1.0 - termination), v_tm1, v_t, goes_on)
    return tuple(array.astype(np.float32) for array in arrays)


def reference_return(r, discount, v, goes_on, lambda_):
    """The same returns as a weighted sum of n-step returns, from the definition."""
    length = len(r)
    result = np.zeros(length)
    for t in range(length):
        n_step, scale, weight, total = 0.0, 1.0, 1.0, 0.0
        for i in range(t, length):
            n_step += scale * r[i]
            scale *= discount[i]
            if i == length - 1 or not goes_on[i]:
                total += weight * (n_step + scale * v[i])
                break
            total += weight * (1.0 - lambda_) * (n_step + scale * v[i])
            weight *= lambda_
        result[t] = total
    return result


def test_golden_without_ends():
    # G_2 = 3 + .5 * 30 = 18; G_1 = 2 + .5 * (.5 * 20 + .5 * 18) = 11.5;
    # G_0 = 1 + .5 * (.5 * 10 + .5 * 11.5) = 6.375.
    np.testing.assert_allclose(lambda_return(R, HALF, V, ONES, lambda_=0.5), [6.375, 11.5, 18.0])


def test_golden_truncation_bootstraps():
    # Step 1 is truncated: G_1 = 2 + .5 * 20 = 12; G_0 = 1 + .5 * (.5 * 10 + .5 * 12) = 6.5.
    goes_on = floats(1.0, 0.0, 1.0)
    np.testing.assert_allclose(lambda_return(R, HALF, V, goes_on, lambda_=0.5), [6.5, 12.0, 18.0])


def test_golden_termination_does_not_bootstrap():
    # Step 1 terminates, so its discount is 0: G_1 = 2; G_0 = 1 + .5 * (.5 * 10 + .5 * 2) = 4.
    discount = floats(0.5, 0.0, 0.5)
    goes_on = floats(1.0, 0.0, 1.0)
    np.testing.assert_allclose(
        lambda_return(R, discount, V, goes_on, lambda_=0.5), [4.0, 2.0, 18.0]
    )


def test_golden_gae():
    # v_tm1 = [8, 10, 20]: delta = [1 + 5 - 8, 2 + 10 - 10, 3 + 15 - 20] = [-2, 2, -2];
    # A_2 = -2; A_1 = 2 + .25 * -2 = 1.5; A_0 = -2 + .25 * 1.5 = -1.625.
    v_tm1 = floats(8.0, 10.0, 20.0)
    np.testing.assert_allclose(gae(R, HALF, v_tm1, V, ONES, lambda_=0.5), [-1.625, 1.5, -2.0])


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("length", [1, 3, 8, 21])
def test_equals_the_weighted_sum_of_n_step_returns(length, lambda_):
    r, discount, _, v_t, goes_on = random_trajectory(length, seed=length)
    expected = reference_return(*map(np.asarray, (r, discount, v_t, goes_on)), lambda_)
    actual = lambda_return(r, discount, v_t, goes_on, lambda_=lambda_)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_the_lambda_return_minus_the_value(lambda_):
    r, discount, v_tm1, v_t, goes_on = random_trajectory(21)
    targets = lambda_return(r, discount, v_t, goes_on, lambda_=lambda_)
    advantages = gae(r, discount, v_tm1, v_t, goes_on, lambda_=lambda_)
    np.testing.assert_allclose(advantages, targets - v_tm1, rtol=1e-5, atol=1e-5)


def test_lambda_zero_is_one_step_td():
    r, discount, v_tm1, v_t, goes_on = random_trajectory(21)
    target = r + discount * v_t
    np.testing.assert_allclose(
        lambda_return(r, discount, v_t, goes_on, lambda_=0.0), target, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        gae(r, discount, v_tm1, v_t, goes_on, lambda_=0.0), target - v_tm1, rtol=1e-5, atol=1e-6
    )


def test_gae_lambda_one_is_the_monte_carlo_return_minus_the_value():
    # One episode that terminates at its last step: no value but v_tm1 may enter.
    r = floats(1.0, -2.0, 4.0)
    discount = floats(0.5, 0.5, 0.0)
    v_tm1 = floats(7.0, 10.0, 20.0)
    v_t = floats(10.0, 20.0, 1e6)
    # Returns: 4; -2 + .5 * 4 = 0; 1 + .5 * 0 = 1.
    actual = gae(r, discount, v_tm1, v_t, floats(1.0, 1.0, 0.0), lambda_=1.0)
    np.testing.assert_allclose(actual, floats(1.0, 0.0, 4.0) - v_tm1, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["return", "gae"])
def test_nothing_leaks_backwards_over_an_episode_end(estimator):
    discount, v = floats(0.9, 0.9, 0.9, 0.9), floats(0.0, 1.0, 2.0, 3.0)
    goes_on = floats(1.0, 0.0, 1.0, 1.0)

    def early(r):
        if estimator == "return":
            return jnp.sum(lambda_return(r, discount, v, goes_on, lambda_=0.95)[:2])
        return jnp.sum(gae(r, discount, v, v, goes_on, lambda_=0.95)[:2])

    gradient = jax.jit(jax.grad(early))(floats(1.0, 2.0, 3.0, 4.0))
    np.testing.assert_array_equal(gradient[2:], 0.0)
    assert gradient[0] == 1.0


def test_the_last_step_bootstraps_whatever_its_continuation():
    r, discount, v_tm1, v_t, goes_on = random_trajectory(8)
    for last in (0.0, 1.0):
        flags = np.append(goes_on[:-1], np.float32(last))
        actual = lambda_return(r, discount, v_t, flags, lambda_=0.95)[-1]
        np.testing.assert_allclose(actual, r[-1] + discount[-1] * v_t[-1], rtol=1e-6)
        actual = gae(r, discount, v_tm1, v_t, flags, lambda_=0.95)[-1]
        np.testing.assert_allclose(actual, r[-1] + discount[-1] * v_t[-1] - v_tm1[-1], rtol=1e-6)


def test_vmap_over_environments_equals_a_loop():
    rows = [random_trajectory(9, seed=seed) for seed in range(4)]
    columns = [np.stack(column, axis=1) for column in zip(*rows, strict=True)]
    unbatched = functools.partial(returns.gae, lambda_=0.9)
    batched = jax.jit(jax.vmap(unbatched, in_axes=1, out_axes=1))(*columns)
    single = np.stack([gae(*row, lambda_=0.9) for row in rows], axis=1)
    np.testing.assert_allclose(batched, single, rtol=1e-6, atol=1e-6)


def test_gradient_of_the_imagined_return_reaches_every_reward():
    # dG_0 / dr_i = (discount * lambda)^i without ends.
    gradient = jax.jit(jax.grad(lambda r: lambda_return(r, HALF, V, ONES, lambda_=0.5)[0]))(R)
    np.testing.assert_allclose(gradient, [1.0, 0.25, 0.0625])


_numbers = hnp.arrays(np.float32, (12,), elements=st.floats(-(2.0**100), 2.0**100, width=32))
_unit = hnp.arrays(np.float32, (12,), elements=st.floats(0.0, 1.0, width=32))
_flags = hnp.arrays(np.bool_, (12,))


@hypothesis.given(_numbers, _unit, _numbers, _numbers, _flags)
def test_never_nan(r, discount, v_tm1, v_t, flags):
    goes_on = flags.astype(np.float32)
    assert np.isfinite(lambda_return(r, discount, v_t, goes_on, lambda_=0.95)).all()
    assert np.isfinite(gae(r, discount, v_tm1, v_t, goes_on, lambda_=0.95)).all()


def test_refuses_batches_and_unequal_lengths():
    with pytest.raises(AssertionError):
        lambda_return(R[:, None], HALF[:, None], V[:, None], ONES[:, None], lambda_=0.5)
    with pytest.raises(AssertionError):
        gae(R, HALF, V[:2], V, ONES, lambda_=0.5)
