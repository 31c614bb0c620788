"""The world model's modules and the frozen bundle that applies them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import NetworkConfig
from m3po_jax.networks.factory import make_networks
from m3po_jax.ops import two_hot
from m3po_jax.types import TaskSpec

CFG = NetworkConfig(
    encoder_width=16,
    encoder_layers=2,
    mlp_width=16,
    latent_size=8,
    num_q=3,
    embedding_size=4,
    simplex_size=4,
    num_bins=101,
)
MASKS = np.array([[1, 1, 0], [1, 1, 1]], np.float32)


def specs(*can_terminate):
    return [
        TaskSpec(f"toy/{i}", 5, int(MASKS[i].sum()), 100, 1, 0.95, flag)
        for i, flag in enumerate(can_terminate)
    ]


def build(*can_terminate, cfg=CFG):
    tasks = specs(*can_terminate)
    masks = MASKS[: len(tasks)]
    return make_networks(tasks, masks, observation_size=5, config=cfg, num_explorers=2)


NETWORKS = build(False, True)
# Small arrays: compiling takes all the time, so XLA need not optimise.
COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
INIT = COMPILE(NETWORKS.init)


@pytest.fixture(scope="module")
def params():
    return INIT(jax.random.key(0))


@pytest.fixture(scope="module")
def inputs(params):
    """Latents, actions and embeddings of a batch of both tasks."""
    rng = np.random.default_rng(0)
    task_id = jnp.array([0, 1, 1])
    observation = rng.normal(size=(3, 5)).astype(np.float32)
    u = rng.normal(size=(3, 3)).astype(np.float32)

    @COMPILE
    def make(model):
        e = NETWORKS.embed(model, task_id)
        return (
            NETWORKS.encode(model, observation, e),
            jnp.tanh(u) * NETWORKS.action_mask(task_id),
            e,
        )

    return make(params.world_model)


def test_latents_lie_on_simplices(params, inputs):
    z_next = NETWORKS.apply_model(params.world_model, "next_latent", *inputs)
    for z in (inputs[0], z_next):
        assert z.shape == (3, 8)
        np.testing.assert_allclose(np.asarray(z).reshape(3, 2, 4).sum(-1), 1.0, rtol=1e-6)


def test_zero_initialised_heads_decode_to_zero(params, inputs):
    z, a, e = inputs

    @COMPILE
    def heads(params):
        return {
            "reward": NETWORKS.apply_model(params.world_model, "reward_logits", z, a, e),
            "q": NETWORKS.apply_model(params.world_model, "q_logits", z, a, e),
            "v_mf": NETWORKS.value_logits(params.critic, z, e),
            "v_x": NETWORKS.exploration_logits(params.exploration, z, e),
        }

    for name, logits in heads(params).items():
        assert logits.shape == ((3, 3, 101) if name == "q" else (3, 101))
        np.testing.assert_array_equal(logits, 0.0)
        # The bins cancel, but a float32 sum of 101 of them only to its last digit.
        np.testing.assert_allclose(two_hot.decode(logits, NETWORKS.support), 0.0, atol=1e-6)


def test_members_of_the_ensemble_start_different(params):
    kernel = params.world_model["q"]["NormedDense_0"]["Dense_0"]["kernel"]
    assert kernel.shape == (3, 8 + 3 + 4, 16)
    assert not np.allclose(kernel[0], kernel[1]) and not np.allclose(kernel[1], kernel[2])


def test_dropout_acts_in_training_only(params, inputs):
    def spread(keys):
        # The last layer starts at zero and would hide the dropout.
        q = jax.tree.map(lambda x: x + 0.1, params.world_model["q"])
        model = {**params.world_model, "q": q}
        draws = [
            NETWORKS.apply_model(model, "q_logits", *inputs, dropout_keys=keys and keys(i))
            for i in range(3)
        ]
        return np.ptp(np.stack(draws), axis=0).max()

    assert spread(None) == 0.0
    assert spread(lambda i: jax.random.split(jax.random.key(i), inputs[0].shape[0])) > 0.0


def test_heads_that_are_alike_drop_units_of_their_own(params, inputs):
    module = NETWORKS.world_model.clone(dropout=0.5)
    networks = dataclasses.replace(NETWORKS, world_model=module)
    rng = np.random.default_rng(1)
    draw = lambda x: np.repeat(rng.normal(size=x[:1].shape), 3, axis=0)  # noqa: E731
    q = jax.tree.map(lambda x: draw(x).astype(np.float32), params.world_model["q"])
    apply = COMPILE(lambda keys: networks.q_logits(q, *inputs, dropout_keys=keys))
    one, two, three = apply(None)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    one, two, three = apply(jax.random.split(jax.random.key(0), 3))
    for x, y in ((one, two), (two, three), (one, three)):
        assert np.all(np.any(x != y, axis=-1))


def test_termination_head_exists_where_some_task_terminates(params, inputs):
    logit = NETWORKS.apply_model(params.world_model, "termination_logit", *inputs)
    assert logit.shape == (3,)
    endless = build(False, False)
    assert not endless.world_model.has_termination
    assert "termination" not in jax.eval_shape(endless.init, jax.random.key(0)).world_model


def test_which_tasks_can_terminate():
    np.testing.assert_array_equal(NETWORKS.can_terminate(np.array([1, 0])), [[1.0], [0.0]])
    for alike in (False, True):  # nothing to tell apart
        assert build(alike, alike).can_terminate(np.array([1, 0])) is None


def test_every_module_sees_the_task(params, inputs):
    z, a, e = inputs
    other = -e
    noisy = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    model = noisy.world_model

    @COMPILE
    def outputs(e):
        return (
            NETWORKS.encode(model, jnp.ones((3, 5)), e),
            NETWORKS.apply_model(model, "next_latent", z, a, e),
            NETWORKS.apply_model(model, "reward_logits", z, a, e),
            NETWORKS.apply_model(model, "termination_logit", z, a, e),
            NETWORKS.apply_model(model, "q_logits", z, a, e),
            NETWORKS.apply_model(model, "guesses", z, a, e),
            NETWORKS.policy(noisy.policy, z, e, jnp.ones_like(a))[0],
            NETWORKS.value_logits(noisy.critic, z, e),
            NETWORKS.exploration_logits(noisy.exploration, z, e),
        )

    for this, that in zip(outputs(e), outputs(other), strict=True):
        assert np.abs(this - that).max() > 1e-5


def test_action_masks_by_task():
    np.testing.assert_array_equal(NETWORKS.action_mask(jnp.array([1, 0])), MASKS[[1, 0]])


def test_init_is_a_function_of_the_key(params):
    again, other = INIT(jax.random.key(0)), INIT(jax.random.key(1))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    kernel = lambda p: p.policy["MLP_0"]["NormedDense_0"]["Dense_0"]["kernel"]  # noqa: E731
    assert not np.allclose(kernel(params), kernel(other))


def test_the_bundle_is_hashable_and_compares_by_value():
    assert hash(build(False, True)) == hash(NETWORKS)
    assert build(False, True) == NETWORKS
    assert build(False, False) != NETWORKS


def test_sizes_of_zero_come_from_the_preset():
    networks = build(False, True, cfg=NetworkConfig(size="1M", mlp_width=24))
    model = networks.world_model
    assert (model.encoder_width, model.encoder_layers, model.latent_size) == (256, 2, 128)
    assert (model.mlp_width, networks.actor.width, networks.critic.width) == (24, 24, 24)
    assert model.embedding_size == 16
