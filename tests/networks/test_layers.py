"""Mish, SimNorm, the Dense-LayerNorm-Mish layer, dropout and ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.networks import layers

pytestmark = pytest.mark.usefixtures("strict_numerics")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fill(init, *args, seed=0):
    """Parameters as `init` makes them, with random kernels that need no compiled generator."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        value = {"scale": np.ones, "bias": np.zeros}.get(path[-1].key, lambda s: rng.normal(size=s))
        return value(shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(init, jax.random.key(0), *args))


def identity(x):
    return x


def test_mish_and_its_gradient_equal_the_definition():
    x = np.linspace(-50.0, 50.0, 2001).astype(np.float32)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(layers.mish)))(x)
    # In float64: x tanh(s) with s = softplus(x), and its derivative
    # tanh(s) + x sigmoid(x) / cosh(s)^2.
    wide = x.astype(np.float64)
    softplus = np.logaddexp(0.0, wide)
    slope = np.tanh(softplus) + wide / (1.0 + np.exp(-wide)) / np.cosh(softplus) ** 2
    np.testing.assert_allclose(value, wide * np.tanh(softplus), rtol=1e-5)
    # The slope crosses zero near -1.2, where only the absolute error means something.
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("x", [-1e30, -200.0, 200.0, 1e30])
def test_mish_is_finite_far_out(x):
    value, gradient = jax.value_and_grad(layers.mish)(jnp.float32(x))
    assert value == max(x, 0.0) == pytest.approx(float(value))
    assert gradient == float(x > 0)


def test_sim_norm_groups_sum_to_one():
    x = 5.0 * normal(3, 4, 24)
    y = jax.jit(layers.sim_norm, static_argnames="simplex_size")(x, simplex_size=8)
    assert y.shape == x.shape
    assert np.all(np.asarray(y) >= 0.0)
    np.testing.assert_allclose(y.reshape(3, 4, 3, 8).sum(-1), 1.0, rtol=1e-6)


def test_sim_norm_groups_are_separate_softmaxes():
    x = normal(12)
    y = layers.sim_norm(x, simplex_size=4)
    exp = np.exp(x[4:8])
    np.testing.assert_allclose(y[4:8], exp / exp.sum(), rtol=1e-6)
    changed = layers.sim_norm(np.concatenate([x[:4], x[4:8] * 3.0, x[8:]]), simplex_size=4)
    np.testing.assert_array_equal(changed[:4], y[:4])
    np.testing.assert_array_equal(changed[8:], y[8:])


def test_sim_norm_refuses_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match="10 features cannot be split into groups of 4"):
        layers.sim_norm(jnp.zeros((2, 10)), simplex_size=4)


def test_normed_dense_is_dense_layer_norm_mish():
    x = normal(5, 6)
    module = layers.NormedDense(7)
    variables = jax.tree.map(lambda v: v + normal(*v.shape), fill(module.init, x))
    dense = variables["params"]["Dense_0"]
    h = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    norm = variables["params"]["LayerNorm_0"]
    h = h * norm["scale"] + norm["bias"]
    expected = h * np.tanh(np.log1p(np.exp(h)))
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.01, 0.25])
def test_dropout_has_the_stated_rate_in_training_only(rate):
    width = 2**15
    x = normal(1, 3)
    module = layers.NormedDense(width, activation=identity, dropout=rate)
    variables = fill(module.init, x)
    plain = layers.NormedDense(width, activation=identity).apply(variables, x)
    np.testing.assert_array_equal(module.apply(variables, x), plain)

    dropped = np.asarray(module.apply(variables, x, jax.random.split(jax.random.key(1), 1)))
    # LayerNorm sends all the zeros of dropout to one value; no two other outputs are equal.
    values, counts = np.unique(dropped, return_counts=True)
    fraction = counts.max() / width
    assert fraction == pytest.approx(rate, abs=5.0 * np.sqrt(rate / width))
    kept = dropped != values[counts.argmax()]
    # The kept ones move together: an affine map of what they are without dropout.
    assert np.corrcoef(dropped[kept], np.asarray(plain)[kept])[0, 1] > 0.9999


def test_dropout_scales_what_it_keeps():
    x = jnp.ones((2, 2**7, 2**8))
    y = np.asarray(layers._dropout(x, jax.random.split(jax.random.key(0), 2**7), rate=0.25))
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.0 / 0.75)}
    assert y.mean() == pytest.approx(1.0, abs=0.02)


def test_each_row_drops_with_its_own_key():
    x, keys = jnp.ones((3, 8, 64)), jax.random.split(jax.random.key(0), 8)
    y = np.asarray(layers._dropout(x, keys, rate=0.25))
    assert len({row.tobytes() for step in y for row in step}) == 3 * 8
    some = np.array([6, 1])
    np.testing.assert_array_equal(layers._dropout(x[:, some], keys[some], rate=0.25), y[:, some])


def test_mlp_drops_in_the_first_hidden_layer_only():
    x = normal(4, 3)
    module = layers.MLP((16, 16), 2, dropout=0.5)
    variables = fill(module.init, x)
    keys = jax.random.split(jax.random.key(1), 4)
    y, state = module.apply(variables, x, keys, capture_intermediates=True)
    hidden = state["intermediates"]
    first = hidden["NormedDense_0"]["LayerNorm_0"]["__call__"][0]
    second = hidden["NormedDense_1"]["LayerNorm_0"]["__call__"][0]
    repeats = lambda h: [np.unique(row, return_counts=True)[1].max() for row in np.asarray(h)]  # noqa: E731
    assert min(repeats(first)) > 1 and max(repeats(second)) == 1
    assert not np.allclose(y, module.apply(variables, x))


def test_zero_output_starts_at_zero_and_learns(key):
    x = normal(4, 3)
    module = layers.MLP((16,), 5, zero_output=True)
    variables = module.init(key, x)
    y, pullback = jax.vjp(jax.jit(lambda v: module.apply(v, x)), variables)
    np.testing.assert_array_equal(y, np.zeros((4, 5)))
    (gradient,) = pullback(jnp.ones_like(y))
    assert np.abs(gradient["params"]["Dense_0"]["kernel"]).max() > 0.0


def test_ensemble_equals_a_loop_over_its_members():
    x = normal(4, 3)
    members = layers.ensemble(layers.MLP, 3)((16, 16), 2, dropout=0.1)
    variables = fill(members.init, x, None)
    y = jax.jit(members.apply)(variables, x, None)
    assert y.shape == (3, 4, 2)
    for i in range(3):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], variables)
        single = layers.MLP((16, 16), 2).apply(member, x)
        np.testing.assert_allclose(y[i], single, rtol=1e-5, atol=1e-7)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(y[i] - y[j]).max() > 1e-3


def test_ensemble_members_drop_different_units():
    x = normal(4, 3)
    members = layers.ensemble(layers.MLP, 2)((64,), 2, dropout=0.5)
    variables = fill(members.init, x, None)
    same = jax.tree.map(lambda leaf: jnp.stack([leaf[0], leaf[0]]), variables)
    keys = jax.random.split(jax.random.key(1), (2, 4))
    y = jax.jit(members.apply)(same, x, keys)
    assert np.abs(y[0] - y[1]).max() > 1e-3
