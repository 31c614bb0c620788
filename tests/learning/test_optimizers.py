"""Step sizes over a run. Adam's steps under a constant gradient have the size of its step size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import Config
from m3po_jax.learning.optimizers import make_optimizers

ITERATIONS, TRANSITIONS = 5, 8


def config(scale=0.1, **policy):
    base = Config()
    return dataclasses.replace(
        base,
        policy=dataclasses.replace(base.policy, epochs=2, minibatches=1, **policy),
        train=dataclasses.replace(
            base.train, final_learning_rate_scale=scale, updates_per_transition=0.5
        ),
    )


def step_sizes(part, cfg, count):
    optimizers = make_optimizers(cfg, iterations=ITERATIONS, transitions=TRANSITIONS)
    optimizer = getattr(optimizers, part)
    params = {"dynamics": jnp.zeros(1)}
    state, sizes = optimizer.init(params), []
    for _ in range(count):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        sizes.append(-float(updates["dynamics"][0]))
    return np.array(sizes)


@pytest.mark.parametrize(
    ("part", "policy", "steps"),
    [
        ("world_model", {}, 20),  # half an update for each of 40 transitions
        ("policy", {}, 40),  # and two epochs in each
        # two epochs in each iteration
        ("policy", {"objective": "likelihood_ratio", "data": "real"}, 10),
    ],
)
def test_step_sizes_fall_linearly_to_their_share_over_the_run(part, policy, steps):
    cfg = config(**policy)
    first = getattr(cfg, part).learning_rate
    sizes = step_sizes(part, cfg, steps + 3)
    expected = first * np.maximum(1.0 - 0.9 * np.arange(steps + 3) / steps, 0.1)
    np.testing.assert_allclose(sizes, expected, rtol=1e-4)


def test_a_share_of_one_and_the_critics_keep_their_step_sizes():
    sizes = step_sizes("world_model", config(scale=1.0), 30)
    np.testing.assert_allclose(sizes, config().world_model.learning_rate, rtol=1e-4)
    for part in ("critic", "exploration"):
        sizes = step_sizes(part, config(), 30)
        np.testing.assert_allclose(sizes, getattr(config(), part).learning_rate, rtol=1e-4)


def test_encoder_and_embedding_take_a_share_of_the_step_size():
    names = ("encoder", "encoder_norm", "embedding", "dynamics", "dynamics_norm", "q", "explorers")
    optimizer = make_optimizers(config(scale=1.0), iterations=1, transitions=1).world_model
    params = {name: jnp.zeros(1) for name in names}
    updates, _ = optimizer.update(
        jax.tree.map(jnp.ones_like, params), optimizer.init(params), params
    )
    model = config().world_model
    slow = model.encoder_learning_rate_scale * model.learning_rate
    expected = [slow] * 3 + [model.learning_rate] * 4
    np.testing.assert_allclose([-updates[name][0] for name in names], expected, rtol=1e-4)


def test_step_sizes_fall_over_a_budget_beyond_32_bits():
    """10^12 transitions make 5 * 10^11 updates, of which half are done here."""
    cfg, steps = config(), 5 * 10**11
    optimizer = make_optimizers(cfg, iterations=10**11, transitions=10).world_model
    params = {"dynamics": jnp.zeros(1)}
    state = optimizer.init(params)
    gradient = {"dynamics": jnp.ones(1)}
    _, state = optimizer.update(gradient, state, params)
    half = jnp.array([steps // 2 % 2**32, steps // 2 // 2**32], jnp.uint32)
    old = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.uint32]
    assert len(old) == 1 and old[0].tolist() == [1, 0]
    state = jax.tree.map(lambda leaf: half if leaf.dtype == jnp.uint32 else leaf, state)
    updates, _ = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(
        -updates["dynamics"][0], 0.55 * cfg.world_model.learning_rate, rtol=1e-4
    )
