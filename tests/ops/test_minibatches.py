"""Minibatches: every sample once an epoch, freshly shuffled, leaves together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops.minibatches import minibatches

pytestmark = pytest.mark.usefixtures("strict_numerics")

DATA = {"x": np.arange(12), "y": 100.0 + np.arange(24, dtype=np.float32).reshape(12, 2)}


def test_every_sample_comes_once_an_epoch(key):
    batches = minibatches(DATA, key, epochs=3, num_minibatches=4)
    assert batches["x"].shape == (12, 3) and batches["y"].shape == (12, 3, 2)
    epochs = np.asarray(batches["x"]).reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(not np.array_equal(epoch, np.arange(12)) for epoch in epochs)


def test_leaves_are_shuffled_together(key):
    batches = minibatches(DATA, key, epochs=2, num_minibatches=3)
    np.testing.assert_array_equal(batches["y"], DATA["y"][np.asarray(batches["x"])])


def test_the_order_is_a_function_of_the_key(key):
    draw = lambda k: minibatches(DATA, k, epochs=2, num_minibatches=2)["x"]  # noqa: E731
    np.testing.assert_array_equal(draw(key), draw(jax.random.key(0)))
    assert not np.array_equal(draw(key), draw(jax.random.key(1)))


def test_one_minibatch_keeps_the_order(key):
    batches = minibatches(DATA, key, epochs=2, num_minibatches=1)
    for name, leaf in DATA.items():
        np.testing.assert_array_equal(batches[name], np.stack([leaf, leaf]))


def test_as_many_minibatches_as_samples(key):
    batches = minibatches(jnp.arange(5), key, epochs=1, num_minibatches=5)
    assert batches.shape == (5, 1)
    assert sorted(np.asarray(batches)[:, 0]) == list(range(5))


@pytest.mark.parametrize("num_minibatches", [5, 24])
def test_refuses_a_number_that_does_not_divide(key, num_minibatches):
    with pytest.raises(ValueError, match=f"12 samples cannot be split into {num_minibatches}"):
        minibatches(DATA, key, epochs=1, num_minibatches=num_minibatches)
