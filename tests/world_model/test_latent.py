"""The learned model behind the LatentModel protocol."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import two_hot
from m3po_jax.world_model.latent import WorldModelLatent, task_context, two_heads

RNG = np.random.default_rng(0)
Z = RNG.dirichlet(np.ones(4), size=(3, 2, 4)).reshape(3, 2, 16).astype(np.float32)
U = RNG.normal(size=(3, 2, 3)).astype(np.float32)
TASK_ID = np.array([0, 1])


def latent(networks, params, q=None):
    q = params.world_model["q"] if q is None else q
    return WorldModelLatent(params.world_model, q, params.policy, networks)


# Small arrays: compiling takes all the time, so XLA need not optimise.
COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@COMPILE
def everything(model, z, u, context):
    """All that the protocol offers, and what goes beyond it."""
    return {
        "next": model.next(z, u, context),
        "values": model.values(z, u, context),
        "value": model.value(z, u, context),
        "policy": model.policy(z, context),
        "state_value": model.state_value(z, context),
    }


@pytest.fixture(scope="module")
def batched(networks, params):
    context = task_context(networks, params.world_model, TASK_ID)
    return everything(latent(networks, params), Z, U, context)


def test_shapes(batched):
    shapes = jax.tree.map(jnp.shape, batched)
    assert shapes["next"] == ((3, 2, 16), (3, 2), (3, 2))
    assert shapes["policy"] == ((3, 2, 3), (3, 2, 3))
    assert shapes["values"] == (3, 3, 2)
    assert shapes["value"] == shapes["state_value"] == (3, 2)


def test_context_broadcasts_against_the_latent(networks, params, batched):
    """A `[B]` context for `[W, B]` latents and an unbatched one agree with one state at a time."""
    model = latent(networks, params)
    for b, task in enumerate(TASK_ID):
        context = task_context(networks, params.world_model, task)
        assert context.e.shape == (4,)
        column = everything(model, Z[:, b], U[:, b], context)
        single = everything(model, Z[1, b], U[1, b], context)
        for name in batched:
            axis = 2 if name == "values" else 1
            leaves = (jax.tree.leaves(tree[name]) for tree in (batched, column, single))
            for x, y, z in zip(*leaves, strict=True):
                of_task = np.take(np.asarray(x), b, axis)
                np.testing.assert_allclose(of_task, y, rtol=1e-4, atol=1e-6)
                of_state = np.take(of_task, 1, axis - 1)
                np.testing.assert_allclose(of_state, z, rtol=1e-4, atol=1e-6)


def test_inactive_action_dims_change_nothing(networks, params, batched):
    context = task_context(networks, params.world_model, TASK_ID)
    changed = U.copy()
    changed[:, 0, 2] = 50.0  # the first task has two actions
    other = everything(latent(networks, params), Z, changed, context)
    for x, y in zip(jax.tree.leaves(batched), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)
    changed = U.copy()
    changed[:, 1, 2] = 50.0  # the second has three
    other = everything(latent(networks, params), Z, changed, context)
    assert np.abs(other["value"] - batched["value"])[:, 1].min() > 0.0

    def total(u):
        z_next, reward, continuation = latent(networks, params).next(Z, u, context)
        value = latent(networks, params).value(Z, u, context)
        return jnp.sum(z_next[..., 0] + reward + continuation + value)

    gradient = COMPILE(jax.grad(total))(U)
    np.testing.assert_array_equal(gradient[:, 0, 2], 0.0)
    assert np.all(np.asarray(gradient)[:, 1] != 0.0)


def test_actions_are_squashed_before_the_model_sees_them(networks, params, batched):
    a = np.tanh(U) * np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    e = networks.embed(params.world_model, jnp.broadcast_to(TASK_ID, (3, 2)))
    logits = networks.apply_model(params.world_model, "reward_logits", Z, a, e)
    expected = two_hot.decode(logits, networks.support)
    np.testing.assert_allclose(batched["next"][1], expected, rtol=1e-4, atol=1e-6)


def test_continuation_is_one_minus_the_predicted_termination(networks, params, batched):
    continuation = np.asarray(batched["next"][2])[:, 1]
    assert np.all((continuation > 0.0) & (continuation < 1.0))
    a = np.tanh(U) * np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    e = networks.embed(params.world_model, jnp.broadcast_to(TASK_ID, (3, 2)))
    logit = networks.apply_model(params.world_model, "termination_logit", Z, a, e)
    expected = 1.0 - 1.0 / (1.0 + np.exp(-np.asarray(logit)))
    np.testing.assert_allclose(continuation, expected[:, 1], rtol=1e-5)


def test_a_task_that_cannot_terminate_continues_whatever_the_head_says(networks, params, batched):
    np.testing.assert_array_equal(batched["next"][2][:, 0], 1.0)
    assert networks.world_model.has_termination  # for the other task


def test_continuation_is_one_without_a_termination_head(endless_networks, endless_params):
    context = task_context(endless_networks, endless_params.world_model, TASK_ID)
    out = everything(latent(endless_networks, endless_params), Z, U, context)
    np.testing.assert_array_equal(out["next"][2], np.ones((3, 2), np.float32))


def test_value_is_the_mean_of_the_given_heads(networks, params, batched):
    np.testing.assert_allclose(batched["value"], np.mean(batched["values"], 0), rtol=1e-5)
    assert np.abs(batched["values"][0] - batched["values"][1]).max() > 1e-3
    ema = jax.tree.map(jnp.zeros_like, params.world_model["q"])
    context = task_context(networks, params.world_model, TASK_ID)
    other = everything(latent(networks, params, q=ema), Z, U, context)
    np.testing.assert_allclose(other["values"], np.zeros((3, 3, 2)), atol=1e-6)
    np.testing.assert_array_equal(other["next"][1], batched["next"][1])


def test_two_random_heads_stand_for_the_ensemble(networks, params, batched):
    context = task_context(networks, params.world_model, TASK_ID)
    model = latent(networks, params)
    draw = COMPILE(lambda model, key: model.two_heads(key).values(Z, U, context))
    pairs = set()
    for seed in range(12):
        drawn = np.asarray(draw(model, jax.random.key(seed)))
        distance = np.abs(drawn[:, None] - np.asarray(batched["values"])).max(axis=(2, 3))
        assert drawn.shape[0] == 2 and distance.min(axis=1).max() < 1e-5
        pairs.add(frozenset(distance.argmin(axis=1).tolist()))
    assert pairs == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))}


def test_an_ensemble_of_two_stays_as_it_is(key):
    q = {"kernel": jnp.arange(6.0).reshape(2, 3)}
    assert two_heads(q, key) is q


def test_state_value_takes_the_mean_action(networks, params, batched):
    context = task_context(networks, params.world_model, TASK_ID)
    model = latent(networks, params)
    mean, _ = batched["policy"]
    expected = jax.jit(lambda u: model.value(Z, u, context))(mean)
    np.testing.assert_allclose(batched["state_value"], expected, rtol=1e-4, atol=1e-6)


def test_no_gradient_reaches_the_embedding_through_the_context(networks, params):
    def loss(world_model):
        context = task_context(networks, world_model, TASK_ID)
        model = WorldModelLatent(world_model, world_model["q"], params.policy, networks)
        return jnp.sum(model.value(Z, U, context)) + jnp.sum(model.policy(Z, context)[0])

    gradient = COMPILE(jax.grad(loss))(params.world_model)
    np.testing.assert_array_equal(gradient["embedding"]["table"], 0.0)
    assert np.abs(gradient["q"]["Dense_0"]["bias"]).max() > 0.0
