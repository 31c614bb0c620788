"""The task embedding: lookup, the bound on its norm, and gradients at and over the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.networks.task_embedding import TaskEmbedding

pytestmark = pytest.mark.usefixtures("strict_numerics")

MODULE = TaskEmbedding(num_tasks=3, features=4)
IDS = jnp.array([2, 0, 1, 2])


def embed(table, ids=IDS):
    return MODULE.apply({"params": {"table": jnp.asarray(table, jnp.float32)}}, ids)


def test_tasks_start_apart_and_within_the_bound(key):
    table = MODULE.init(key, IDS)["params"]["table"]
    assert table.shape == (3, 4)
    assert len(np.unique(table, axis=0)) == 3
    assert np.linalg.norm(table, axis=-1).max() <= 1.0


@pytest.mark.parametrize("scale", [1e-3, 0.9, 1.1, 1e3, 1e12])
def test_norm_is_at_most_one(scale):
    table = np.random.default_rng(0).normal(size=(3, 4))
    table *= scale / np.linalg.norm(table, axis=-1, keepdims=True)
    norms = np.linalg.norm(np.asarray(embed(table), np.float64), axis=-1)
    np.testing.assert_allclose(norms, min(scale, 1.0), rtol=1e-5)


def test_short_vectors_are_looked_up_unchanged():
    table = 0.1 * np.arange(12, dtype=np.float32).reshape(3, 4) / 12.0
    np.testing.assert_array_equal(embed(table), table[np.asarray(IDS)])


def test_gradient_reaches_only_the_tasks_looked_up():
    table = jnp.full((3, 4), 0.1)
    gradient = jax.grad(lambda t: jnp.sum(embed(t, jnp.array([1]))))(table)
    np.testing.assert_array_equal(gradient, [[0.0] * 4, [1.0] * 4, [0.0] * 4])


def test_gradient_over_the_bound_only_turns():
    table = jnp.array([[3.0, 4.0, 0.0, 0.0]] * 3)
    gradient = jax.grad(lambda t: embed(t, jnp.array([0]))[0, 0])(table)[0]
    # d (x / |x|)_0 = (e_0 - x x_0 / |x|^2) / |x| with x = (3, 4), |x| = 5.
    np.testing.assert_allclose(gradient, [0.16 / 1.25, -0.12 / 1.25, 0, 0], rtol=1e-5)
    assert np.dot(gradient, table[0]) == pytest.approx(0.0, abs=1e-6)


def test_gradient_at_zero_is_finite():
    assert np.all(np.isfinite(jax.grad(lambda t: jnp.sum(embed(t) ** 2))(jnp.zeros((3, 4)))))
