"""Imagination in a model whose future is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.world_model.imagine import imagine, reach_probability


class Decay:
    """`z' = z / 2 + u + c`, reward the sum of z, continuation falling in |u|, policy around -z."""

    def __init__(self, std):
        self.std = std

    def next(self, z, u, context):
        continuation = jnp.exp(-jnp.abs(u).sum(-1))
        return z / 2.0 + u + context, z.sum(-1), continuation

    def value(self, z, u, context):
        raise AssertionError("imagination needs no value")

    def policy(self, z, context):
        return -z + context, jnp.full_like(z, self.std)


Z = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
CONTEXT = np.array([0.25, -1.0], np.float32)


def test_equals_a_loop_over_the_steps(key):
    model = Decay(std=0.0)
    noise = jax.random.normal(key, (4, *Z.shape))
    imagined = jax.jit(lambda z, noise: imagine(model, z, CONTEXT, noise))(Z, noise)
    z = Z
    for step in range(4):
        mean = -z + CONTEXT
        np.testing.assert_allclose(imagined.z[step], z, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(imagined.mean[step], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(imagined.u[step], imagined.mean[step])
        np.testing.assert_allclose(imagined.reward[step], z.sum(-1), rtol=1e-4, atol=1e-5)
        expected = np.exp(-np.abs(mean).sum(-1))
        np.testing.assert_allclose(imagined.continuation[step], expected, rtol=1e-4)
        z = z / 2.0 + mean + CONTEXT
        np.testing.assert_allclose(imagined.z_next[step], z, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(imagined.std) == 0.0)


def test_actions_are_those_of_the_recorded_gaussian(key):
    z = jnp.zeros((20, 2))
    noise = jax.random.normal(key, (2, 20, 2))
    imagined = jax.jit(lambda noise: imagine(Decay(std=0.5), z, CONTEXT, noise))(noise)
    drawn = (imagined.u - imagined.mean) / imagined.std
    np.testing.assert_allclose(drawn, noise, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(imagined.z_next[0], imagined.z[1])
    np.testing.assert_allclose(imagined.z_next[0], imagined.u[0] + CONTEXT, rtol=1e-6, atol=1e-6)


def test_reach_probability_by_hand():
    continuation = jnp.array([[0.5, 1.0], [0.2, 0.0], [0.7, 1.0], [0.1, 1.0]])
    expected = [[1.0, 1.0], [0.5, 1.0], [0.1, 0.0], [0.07, 0.0]]
    np.testing.assert_allclose(reach_probability(continuation), expected, rtol=1e-6)


@pytest.mark.parametrize("horizon", [1, 3])
def test_reach_probability_keeps_the_shape(horizon):
    reach = reach_probability(jnp.full((horizon, 2, 5), 0.5))
    assert reach.shape == (horizon, 2, 5)
    np.testing.assert_array_equal(reach[0], 1.0)
