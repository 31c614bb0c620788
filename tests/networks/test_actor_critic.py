"""The policy prior and the critics: masks, bounds, gradients, zero at the start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.networks.actor_critic import Actor, Critic
from m3po_jax.ops import distributions, two_hot

pytestmark = pytest.mark.usefixtures("strict_numerics")

# Small arrays: compiling takes all the time, so XLA need not optimise.
COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
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


@COMPILE
def act(variables, mask):
    return ACTOR.apply(variables, Z, E, mask)


@COMPILE
def gradient_of_sum(variables, rows):
    """Gradient of the sum of all means and stds of the given rows `[2]`."""

    def total(v):
        mean, std = ACTOR.apply(v, Z, E, MASK)
        return jnp.sum(rows[:, None] * (mean + std))

    return jax.grad(total)(variables)


def test_inactive_dims_are_exactly_zero(variables):
    mean, std = act(variables, MASK)
    assert mean.shape == std.shape == (2, 4)
    active = np.asarray(MASK) > 0
    for x in (np.asarray(mean), np.asarray(std)):
        np.testing.assert_array_equal(x[~active], 0.0)
        assert np.all(x[active] != 0.0)


def test_the_mask_changes_no_active_dim(variables):
    for a, b in zip(act(variables, MASK), act(variables, jnp.ones_like(MASK)), strict=True):
        np.testing.assert_array_equal(a, b * MASK)


def test_gradients_through_masked_densities_are_finite(variables):
    def loss(v):
        mean, std = ACTOR.apply(v, Z, E, MASK)
        u = jax.lax.stop_gradient(mean + std) * MASK
        logp = distributions.log_prob(u, mean, std, MASK)
        kl = distributions.kl(jnp.zeros_like(mean), jnp.ones_like(std), mean, std, MASK)
        return jnp.sum(logp + kl + distributions.entropy(std, MASK))

    gradient = COMPILE(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("row", [0, 1])
def test_inactive_dims_send_no_gradient(variables, row):
    gradient = gradient_of_sum(variables, np.eye(2, dtype=np.float32)[row])
    bias = np.asarray(gradient["params"]["MLP_0"]["Dense_0"]["bias"])  # means, then stds
    np.testing.assert_array_equal(bias != 0.0, np.tile(np.asarray(MASK[row]) > 0, 2))


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e5])
def test_mean_and_log_std_stay_in_bounds(variables, scale):
    params = jax.tree.map(lambda x: x * scale, variables)
    gradient = gradient_of_sum(params, np.ones(2, np.float32))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    mean, std = act(params, jnp.ones_like(MASK))
    log_std = np.log(np.asarray(std, np.float64))
    assert log_std.min() >= -5.0 - 1e-5 and log_std.max() <= 1.0 + 1e-5
    assert np.abs(mean).max() <= 5.0
    if scale == 1e5:  # both ends are reached, so that the bounds are the stated ones
        assert log_std.min() < -4.99 and log_std.max() > 0.99


def test_critic_joins_its_inputs_and_starts_at_zero():
    critic, a = Critic(16, 21), normal(2, 4, seed=2)
    init = COMPILE(lambda key: critic.init_with_output(key, Z, a, E))
    logits, variables = init(jax.random.key(0))
    np.testing.assert_array_equal(logits, np.zeros((2, 21)))
    support = two_hot.Support(-5.0, 5.0, 21)
    np.testing.assert_array_equal(two_hot.decode(logits, support), np.zeros(2))
    kernel = variables["params"]["MLP_0"]["NormedDense_0"]["Dense_0"]["kernel"]
    assert kernel.shape == (8 + 4 + 3, 16)
