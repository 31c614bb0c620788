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


def apply(contexts, params, num_tasks=3):
    module = TaskEmbedding(num_tasks, 4, contexts)
    return module.apply({"params": params}, jnp.arange(num_tasks))


def test_what_is_told_gives_the_embedding_also_of_tasks_that_were_not_there():
    contexts = ((), (1.0, -0.5), (1.0, 0.7))
    params = TaskEmbedding(3, 4, contexts).init(jax.random.key(0), jnp.arange(3))["params"]
    assert set(params) == {"table", "context"}
    params["table"] = params["table"].at[0].set(jnp.array([3.0, 0.0, 4.0, 0.0]))
    e = apply(contexts, params)
    # the first is told nothing: its row, with a norm of at most 1
    np.testing.assert_allclose(e[0], [0.6, 0.0, 0.8, 0.0], rtol=1e-6)
    assert not np.allclose(e[1], e[2])
    # the same numbers give the same embedding, whatever the table holds; others lie between
    other = apply(((1.0, 0.7), (1.0, 0.1)), {**params, "table": jnp.ones((2, 4))}, num_tasks=2)
    np.testing.assert_allclose(other[0], e[2], rtol=1e-6)
    assert not np.allclose(other[1], e[1]) and not np.allclose(other[1], e[2])


def test_nothing_told_is_a_table_alone():
    params = TaskEmbedding(2, 4, ((), ())).init(jax.random.key(0), jnp.arange(2))["params"]
    assert set(params) == {"table"}


def test_gradients_reach_the_encoder_of_told_tasks_and_the_rows_of_the_others():
    contexts = ((), (1.0, -0.5))
    params = TaskEmbedding(2, 4, contexts).init(jax.random.key(0), jnp.arange(2))["params"]
    weight = jnp.arange(8.0).reshape(2, 4)
    gradient = jax.grad(lambda p: jnp.sum(weight * apply(contexts, p, 2)))(params)
    assert np.any(gradient["table"][0] != 0.0) and np.all(gradient["table"][1] == 0.0)
    assert any(np.any(x != 0.0) for x in jax.tree.leaves(gradient["context"]))
