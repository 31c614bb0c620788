import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops.observation_moments import (
    init_observation_moments,
    normalize_observation,
    update_observation_moments,
)

pytestmark = pytest.mark.usefixtures("strict_numerics")
K, OBS = 3, 4


def batches(seed=0):
    """Three batches `[T, B, OBS]` with very different means; task 2 comes in the last one alone."""
    rng = np.random.default_rng(seed)
    for index, tasks in enumerate((2, 2, 3)):
        shape = (5, 6)
        task_id = rng.integers(0, tasks, shape).astype(np.int32)
        scale = 10.0 ** rng.integers(-1, 2, (K, OBS))
        x = rng.normal(100.0 * index, 1.0, (*shape, OBS)) * scale[task_id]
        x[..., -1] = 0.0  # a padded dimension
        yield x.astype(np.float32), task_id, (rng.random(shape) < 0.8).astype(np.float32)


def run(data):
    state = init_observation_moments(K, OBS)
    for x, task_id, mask in data:
        state = update_observation_moments(state, x, task_id, mask)
    return state


def test_moments_equal_numpy_over_all_samples():
    data = list(batches())
    state = run(data)
    x, task_id, mask = (np.concatenate(parts) for parts in zip(*data, strict=True))
    for k in range(K):
        samples = x[(task_id == k) & (mask > 0)].astype(np.float64)
        assert state.count[k] == len(samples)
        np.testing.assert_allclose(state.mean[k], samples.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(state.variance[k], samples.var(axis=0), rtol=1e-5)


def test_the_split_into_batches_does_not_matter():
    x, task_id, mask = next(batches())
    whole = run([(x, task_id, mask)])
    parts = run([(x[i : i + 1], task_id[i : i + 1], mask[i : i + 1]) for i in range(len(x))])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_old_samples_keep_their_weight():
    ones = np.ones((100, OBS), np.float32)
    data = [(ones, np.zeros(100, np.int32), np.ones(100, np.float32))]
    data += [(0.0 * ones[:1], np.zeros(1, np.int32), np.ones(1, np.float32))] * 300
    np.testing.assert_allclose(run(data).mean[0], 0.25, rtol=1e-4)


def test_masked_samples_never_count():
    x, task_id, mask = next(batches())
    poisoned = np.where(mask[..., None] > 0, x, np.nan)
    for a, b in zip(
        jax.tree.leaves(run([(x, task_id, mask)])),
        jax.tree.leaves(run([(poisoned, task_id, mask)])),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    state = run([(x, task_id, 0.0 * mask)])
    np.testing.assert_array_equal(state.mean, 0.0)
    np.testing.assert_array_equal(state.variance, 1.0)


def test_normalised_observations_have_mean_0_and_std_1_per_task():
    x, task_id, mask = next(batches())
    z = normalize_observation(run([(x, task_id, mask)]), x, task_id)
    for k in range(2):
        samples = np.asarray(z)[(task_id == k) & (mask > 0)]
        np.testing.assert_allclose(samples[:, :-1].mean(axis=0), 0.0, atol=1e-4)
        np.testing.assert_allclose(samples[:, :-1].std(axis=0), 1.0, atol=1e-4)
    np.testing.assert_array_equal(z[..., -1], 0.0)


def test_nothing_changes_before_the_first_sample_but_the_clip():
    x = jnp.array([[0.5, -3.0, 11.0, -1e6]])
    z = normalize_observation(init_observation_moments(1, OBS), x, jnp.zeros(1, jnp.int32))
    np.testing.assert_allclose(z, [[0.5, -3.0, 10.0, -10.0]], rtol=1e-5)


def test_no_gradient_enters_the_state():
    x, task_id, mask = next(batches())
    gradient = jax.grad(lambda x: jnp.sum(run([(x, task_id, mask)]).variance))(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, 0.0)
