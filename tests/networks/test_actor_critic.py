"""The policy prior and the critics: masks, bounds, gradients, zero at the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.networks.actor_critic import Actor, Critic
from m3po_jax.ops import distributions, two_hot

pytestmark = pytest.mark.usefixtures("strict_numerics")

ACTOR = Actor(width=16, action_size=4, log_std_min=-5.0, log_std_max=1.0)
MASK = jnp.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


Z, E = normal(2, 8), normal(2, 3, seed=1)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(ACTOR.init, jax.random.key(0), Z, E, MASK)
    return jax.tree.map(lambda s: rng.normal(0.0, 0.3, s.shape).astype(np.float32), shapes)


def test_inactive_dims_are_exactly_zero(variables):
    mean, std = ACTOR.apply(variables, Z, E, MASK)
    assert mean.shape == std.shape == (2, 4)
    active = np.asarray(MASK) > 0
    for x in (np.asarray(mean), np.asarray(std)):
        np.testing.assert_array_equal(x[~active], 0.0)
        assert np.all(x[active] != 0.0)


def test_the_mask_changes_no_active_dim(variables):
    masked = ACTOR.apply(variables, Z, E, MASK)
    full = ACTOR.apply(variables, Z, E, jnp.ones_like(MASK))
    for a, b in zip(masked, full, strict=True):
        np.testing.assert_array_equal(a, b * MASK)


def test_gradients_through_masked_densities_are_finite(variables):
    def loss(v):
        mean, std = ACTOR.apply(v, Z, E, MASK)
        u = jax.lax.stop_gradient(mean + std) * MASK
        logp = distributions.log_prob(u, mean, std, MASK)
        kl = distributions.kl(jnp.zeros_like(mean), jnp.ones_like(std), mean, std, MASK)
        return jnp.sum(logp + kl + distributions.entropy(std, MASK))

    gradient = jax.jit(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    # Dim 0 of the second sample and dim 1 of the first are the only users of their output rows
    # besides the other sample, so one sample alone must leave the rows of its own mask at zero.
    one = jax.grad(lambda v: jnp.sum(ACTOR.apply(v, Z[:1], E[:1], MASK[:1])[0]))(variables)
    bias = np.asarray(one["params"]["MLP_0"]["Dense_0"]["bias"])
    np.testing.assert_array_equal(bias[:4] != 0.0, np.asarray(MASK[0]) > 0)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e5])
def test_mean_and_log_std_stay_in_bounds(variables, scale):
    params = jax.tree.map(lambda x: x * scale, variables)
    gradient = jax.grad(lambda v: sum(jnp.sum(x) for x in ACTOR.apply(v, Z, E, MASK)))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    mean, std = ACTOR.apply(params, Z, E, jnp.ones_like(MASK))
    log_std = np.log(np.asarray(std, np.float64))
    assert log_std.min() >= -5.0 - 1e-5 and log_std.max() <= 1.0 + 1e-5
    assert np.abs(mean).max() <= 5.0
    if scale == 1e5:  # both ends are reached, so that the bounds are the stated ones
        assert log_std.min() < -4.99 and log_std.max() > 0.99


def test_critic_joins_its_inputs_and_starts_at_zero():
    critic, a = Critic(16, 21), normal(2, 4, seed=2)
    init = jax.jit(lambda key: critic.init_with_output(key, Z, a, E))
    logits, variables = init(jax.random.key(0))
    np.testing.assert_array_equal(logits, np.zeros((2, 21)))
    support = two_hot.Support(-5.0, 5.0, 21)
    np.testing.assert_array_equal(two_hot.decode(logits, support), np.zeros(2))
    kernel = variables["params"]["MLP_0"]["NormedDense_0"]["Dense_0"]["kernel"]
    assert kernel.shape == (8 + 4 + 3, 16)
