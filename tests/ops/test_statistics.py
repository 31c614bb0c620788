"""Masked, per-task and running statistics."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import statistics

pytestmark = pytest.mark.usefixtures("strict_numerics")

# Compiled, and fed with numpy arrays: eager JAX would compile every operation by itself.
masked_mean = jax.jit(statistics.masked_mean, static_argnums=2)
per_task_moments = jax.jit(statistics.per_task_moments, static_argnames="num_tasks")
normalize_per_task = jax.jit(statistics.normalize_per_task, static_argnames="num_tasks")
update_running_moments = jax.jit(statistics.update_running_moments, static_argnames="decay")
update_running_scale = jax.jit(statistics.update_running_scale, static_argnames="decay")


def floats(*values):
    return np.array(values, np.float32)


def batch(seed=0, size=200, num_tasks=3):
    """Samples of tasks with different scales; masked entries hold NaN."""
    rng = np.random.default_rng(seed)
    task_id = rng.integers(0, num_tasks, size).astype(np.int32)
    mask = (rng.random(size) < 0.7).astype(np.float32)
    x = (rng.normal(size=size) * 10.0**task_id + 5.0 * task_id).astype(np.float32)
    return np.where(mask > 0, x, np.nan).astype(np.float32), task_id, mask


def members(x, task_id, mask, task):
    return x[(task_id == task) & (mask > 0)].astype(np.float64)


def test_masked_golden():
    x = floats([1.0, 3.0, 100.0], [5.0, 7.0, -100.0])
    mask = floats([1.0, 1.0, 0.0], [1.0, 1.0, 0.0])
    # Mean of 1, 3, 5, 7.
    assert masked_mean(x, mask) == 4.0
    np.testing.assert_allclose(masked_mean(x, mask, axis=0), [3.0, 5.0, 0.0])


def test_full_mask_is_the_plain_statistic():
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    ones = np.ones((7, 5), bool)
    np.testing.assert_allclose(masked_mean(x, ones, 1), x.mean(axis=1), rtol=1e-5)


def test_masked_nan_reaches_neither_value_nor_gradient():
    x, mask = floats(1.0, 3.0, np.nan), floats(1.0, 1.0, 0.0)
    value, gradient = jax.jit(jax.value_and_grad(masked_mean))(x, mask)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all() and gradient[2] == 0.0


def test_nothing_unmasked_gives_zero():
    assert masked_mean(floats(1.0, 1.0, 1.0), floats(0.0, 0.0, 0.0)) == 0.0


def test_per_task_moments_equal_a_loop_over_tasks():
    x, task_id, mask = batch()
    mean, std, count = per_task_moments(x, task_id, mask, num_tasks=4)
    for task in range(3):
        own = members(x, task_id, mask, task)
        assert mean[task] == pytest.approx(own.mean(), rel=1e-5, abs=1e-5)
        assert std[task] == pytest.approx(own.std(), rel=1e-5)
        assert count[task] == len(own)
    # Task 3 exists and has no sample.
    assert (mean[3], std[3], count[3]) == (0.0, 0.0, 0.0)


def test_per_task_moments_accept_any_shape():
    x, task_id, mask = batch(size=24)
    flat = per_task_moments(x, task_id, mask, num_tasks=3)
    shaped = per_task_moments(*(array.reshape(4, 6) for array in (x, task_id, mask)), num_tasks=3)
    for actual, expected in zip(shaped, flat, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_variance_survives_a_large_mean():
    # E[x^2] - E[x]^2 in float32 would return noise here: 1e8 has a spacing of 8.
    x = (10_000.0 + np.tile([-0.5, 0.5], 50)).astype(np.float32)
    zeros, ones = np.zeros(100, np.int32), np.ones(100, np.float32)
    _, std, _ = per_task_moments(x, zeros, ones, num_tasks=1)
    assert std[0] == pytest.approx(0.5, rel=1e-5)
    state = statistics.init_running_moments(1)
    for _ in range(3):
        state = update_running_moments(state, x, zeros, ones, decay=0.9)
    assert state.std[0] == pytest.approx(0.5, rel=1e-4)


def test_normalized_tasks_have_mean_zero_and_std_one():
    x, task_id, mask = batch()
    normalized = np.asarray(normalize_per_task(x, task_id, mask, num_tasks=3))
    np.testing.assert_array_equal(normalized[mask == 0], 0.0)
    for task in range(3):
        own = members(normalized, task_id, mask, task)
        assert own.mean() == pytest.approx(0.0, abs=1e-5)
        assert own.std() == pytest.approx(1.0, rel=1e-4)


def test_a_spread_below_the_least_one_stays_small():
    x = floats(1.0, 3.0, 10.0, 30.0)  # deviations 1 and 10
    normalized = normalize_per_task(
        x, jnp.array([0, 0, 1, 1]), jnp.ones(4), num_tasks=2, min_std=floats(4.0, 4.0), epsilon=0.0
    )
    np.testing.assert_allclose(normalized, [-0.25, 0.25, -1.0, 1.0], rtol=1e-6)


def test_normalizing_ignores_the_other_tasks():
    x, task_id, mask = batch()
    one = task_id == 1
    alone = normalize_per_task(x, task_id, mask, num_tasks=3)[one]
    changed = np.where(one, x, 1000.0 * x + 7.0).astype(np.float32)
    np.testing.assert_array_equal(
        normalize_per_task(changed, task_id, mask, num_tasks=3)[one], alone
    )


def test_a_weight_counts_as_so_many_samples():
    x, task_id, _ = batch(size=60)
    x = np.nan_to_num(x)
    times = np.random.default_rng(1).integers(0, 4, 60)
    repeated = (np.repeat(x, times), np.repeat(task_id, times))
    expected = per_task_moments(*repeated, np.ones(times.sum(), np.float32), num_tasks=3)
    weight = times.astype(np.float32)
    for scale in (1.0, 1e-3):  # a sum of weights below 1 is a sum as any other
        mean, std, count = per_task_moments(x, task_id, np.float32(scale) * weight, num_tasks=3)
        np.testing.assert_allclose(mean, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(std, expected[1], rtol=1e-4)
        np.testing.assert_allclose(count, scale * expected[2], rtol=1e-4)


def test_samples_of_little_weight_hardly_move_the_others():
    x, task_id, _ = batch(size=60)
    x = np.nan_to_num(x)
    weight = np.ones(60, np.float32)
    weight[::2] = 1e-6
    wild = np.where(weight < 1.0, 50.0 * x, x).astype(np.float32)
    whole = normalize_per_task(wild, task_id, weight, num_tasks=3)
    mask = (weight == 1.0).astype(np.float32)
    alone = normalize_per_task(x, task_id, mask, num_tasks=3)
    np.testing.assert_allclose(whole[1::2], alone[1::2], rtol=1e-2, atol=1e-2)


def test_a_single_sample_normalizes_to_zero():
    normalized = normalize_per_task(floats(5.0), np.zeros(1, np.int32), floats(1.0), num_tasks=1)
    np.testing.assert_array_equal(normalized, 0.0)


def test_running_moments_are_those_of_the_weighted_mixture():
    decay = 0.8
    state = statistics.init_running_moments(3)
    batches = [batch(seed) for seed in range(5)]
    for x, task_id, mask in batches:
        state = update_running_moments(state, x, task_id, mask, decay=decay)
    weights = decay ** np.arange(4, -1, -1)
    weights /= weights.sum()
    for task in range(3):
        own = [members(*one, task) for one in batches]
        mean = sum(w * x.mean() for w, x in zip(weights, own, strict=True))
        second = sum(w * (x**2).mean() for w, x in zip(weights, own, strict=True))
        assert state.mean[task] == pytest.approx(mean, rel=1e-4, abs=1e-4)
        assert state.variance[task] == pytest.approx(second - mean**2, rel=1e-4)
    np.testing.assert_allclose(state.weight, 1.0 - decay**5, rtol=1e-5)


def test_the_first_update_takes_the_batch_whatever_the_decay():
    x, task_id, mask = batch()
    mean, std, _ = per_task_moments(x, task_id, mask, num_tasks=3)
    state = update_running_moments(
        statistics.init_running_moments(3), x, task_id, mask, decay=0.999
    )
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(state.std, std, rtol=1e-5)


def test_tasks_without_samples_keep_their_state():
    x, task_id, mask = batch()
    moments = update_running_moments(
        statistics.init_running_moments(3), x, task_id, mask, decay=0.9
    )
    scale = update_running_scale(statistics.init_running_scale(3), x, task_id, mask, decay=0.9)
    only_one = np.where(task_id == 1, mask, 0.0).astype(np.float32)
    moved = (
        update_running_moments(moments, x + np.float32(1.0), task_id, only_one, decay=0.9),
        update_running_scale(scale, np.float32(2.0) * x, task_id, only_one, decay=0.9),
    )
    for before, after in zip((moments, scale), moved, strict=True):
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(np.delete(new, 1), np.delete(old, 1))
            assert new[1] != old[1]


def test_initial_states_change_nothing():
    moments = statistics.init_running_moments(2)
    np.testing.assert_array_equal(moments.mean, 0.0)
    np.testing.assert_array_equal(moments.std, 1.0)
    np.testing.assert_array_equal(statistics.init_running_scale(2).scale, 1.0)


def test_running_scale_golden():
    # 0, 1, ..., 100 shuffled: the 5th percentile is 5 and the 95th is 95, so the range is 90.
    x = np.random.default_rng(0).permutation(101).astype(np.float32)
    task_id, mask = np.zeros(101, np.int32), np.ones(101, np.float32)
    state = update_running_scale(statistics.init_running_scale(1), x, task_id, mask, decay=0.99)
    assert state.scale[0] == pytest.approx(90.0, rel=1e-5)
    # The second batch is half as wide; debiased weights of decay 0.99 are .99 / 1.99 and 1 / 1.99.
    state = update_running_scale(state, np.float32(0.5) * x, task_id, mask, decay=0.99)
    assert state.scale[0] == pytest.approx((0.99 * 90.0 + 45.0) / 1.99, rel=1e-4)


@pytest.mark.parametrize("size", [5, 37, 200])
def test_running_scale_equals_numpy_percentiles(size):
    x, task_id, mask = batch(seed=size, size=size)
    state = update_running_scale(statistics.init_running_scale(3), x, task_id, mask, decay=0.0)
    for task in range(3):
        own = members(x, task_id, mask, task)
        expected = np.subtract(*np.percentile(own, [95, 5])) if len(own) else 0.0
        assert state.spread[task] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert state.scale[task] == pytest.approx(max(expected, 1.0), rel=1e-4)


def test_no_gradient_flows_into_running_statistics():
    x, task_id, mask = floats(0.0, 1.0, 2.0, 3.0), np.zeros(4, np.int32), np.ones(4, bool)

    def total(x):
        moments = update_running_moments(
            statistics.init_running_moments(1), x, task_id, mask, decay=0.5
        )
        scale = update_running_scale(statistics.init_running_scale(1), x, task_id, mask, decay=0.5)
        return jnp.sum(moments.mean + moments.std + scale.scale)

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(x), 0.0)


def test_states_can_be_donated():
    x, task_id, mask = batch()
    for init, update in (
        (statistics.init_running_moments, statistics.update_running_moments),
        (statistics.init_running_scale, statistics.update_running_scale),
    ):
        step = jax.jit(functools.partial(update, decay=0.9), donate_argnums=0)
        first = step(init(3), x, task_id, mask)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_refuses_a_decay_outside_its_range(decay):
    x, task_id, mask = batch()
    with pytest.raises(ValueError, match="decay"):
        update_running_moments(statistics.init_running_moments(3), x, task_id, mask, decay=decay)


@hypothesis.given(
    hnp.arrays(np.float32, (9,), elements=st.floats(-(2.0**56), 2.0**56, width=32)),
    hnp.arrays(np.int32, (9,), elements=st.integers(0, 2)),
    hnp.arrays(np.bool_, (9,)),
)
def test_never_nan(x, task_id, mask):
    # Up to 2^56 = 7e16, because a variance of float32 values beyond 1e19 is no float32.
    data = (x, task_id, mask)
    moments = update_running_moments(statistics.init_running_moments(3), *data, decay=0.9)
    scale = update_running_scale(statistics.init_running_scale(3), *data, decay=0.9)
    normalized = normalize_per_task(*data, num_tasks=3)
    for leaf in jax.tree.leaves((moments, scale, normalized, moments.std, scale.scale)):
        assert np.isfinite(leaf).all()
    assert (np.asarray(scale.scale) >= 1.0).all()
    assert (np.asarray(moments.variance) >= 0.0).all()


def test_running_range_by_hand():
    """Two tasks of three; what is masked out never counts, NaN included."""
    state = statistics.init_running_range(3)
    assert state.width.tolist() == [0.0, 0.0, 0.0]
    tasks = jnp.array([0, 0, 1, 1, 0])
    x = jnp.array([2.0, -1.0, 5.0, jnp.nan, 9.0])
    state = statistics.update_running_range(state, x, tasks, jnp.array([1, 1, 1, 0, 0]))
    assert state.low.tolist() == [-1.0, 5.0, 0.0] and state.high.tolist() == [2.0, 5.0, 0.0]
    assert state.seen.tolist() == [1.0, 1.0, 0.0] and state.width.tolist() == [3.0, 0.0, 0.0]
    # The first sample replaces the zeros of a task without one, later ones widen.
    x = jnp.array([1.0, 7.0, 4.0, 8.0, 8.5])
    state = statistics.update_running_range(state, x, jnp.array([0, 0, 1, 2, 2]), jnp.ones(5))
    assert state.low.tolist() == [-1.0, 4.0, 8.0] and state.high.tolist() == [7.0, 5.0, 8.5]
