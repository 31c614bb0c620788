"""World-model targets in models of known value, and losses against a plain loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from m3po_jax.config import WorldModelConfig
from m3po_jax.ops import two_hot
from m3po_jax.types import Window
from m3po_jax.world_model.losses import (
    lambda_targets,
    td_targets,
    total_loss,
    world_model_losses,
)

# Small arrays: compiling takes all the time, so XLA need not optimise.
COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
DISCOUNT = np.array([0.5, 0.8], np.float32)


def window(mask=None, horizon=3, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    termination = np.zeros((horizon, batch), np.float32)
    termination[1, 1] = 1.0
    return Window(
        observation=normal(horizon, batch, 5),
        pre_tanh_action=normal(horizon, batch, 3),
        reward=normal(horizon, batch),
        termination=termination,
        next_observation=normal(horizon, batch, 5),
        task_id=np.arange(batch, dtype=np.int32) % 2,
        mask=np.ones((horizon, batch), np.float32) if mask is None else np.float32(mask),
    )


class Known:
    """`z' = z / 2`, reward z, of one action that changes nothing; the context is the discount.

    Following it for ever from z pays `z + gamma z / 2 + ... = z / (1 - gamma / 2)`. The heads
    say that times 1, 2 and 3 if `wrong` is set, else all the truth.
    """

    def __init__(self, continuation=1.0, wrong=False):
        self.continuation = continuation
        self.factors = (1.0, 2.0, 3.0) if wrong else (1.0, 1.0, 1.0)

    def next(self, z, u, context):
        return z / 2.0, z[..., 0], jnp.full(z.shape[:-1], self.continuation)

    def values(self, z, u, context):
        exact = z[..., 0] / (1.0 - self.continuation * context / 2.0)
        return jnp.stack([factor * exact for factor in self.factors])

    def value(self, z, u, context):
        return self.values(z, u, context).mean(0)

    def policy(self, z, context):
        return jnp.zeros_like(z), jnp.zeros_like(z)


class Sided(Known):
    """One head is the smaller below 3.5, the other above."""

    def values(self, z, u, context):
        return jnp.stack([z[..., 0], 7.0 - z[..., 0]])


class Drawn(Known):
    """The value is the action itself, drawn from N(z, 0.5^2)."""

    def values(self, z, u, context):
        return jnp.stack([u[..., 0]] * 3)

    def policy(self, z, context):
        return z, jnp.full_like(z, 0.5)


Z_NEXT = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)[..., None]


def reference(w, future):
    """`r + gamma (1 - d) * future`."""
    return w.reward + DISCOUNT * (1.0 - w.termination) * future


def test_td_targets_bootstrap_unless_the_episode_terminates(key):
    w = window()
    target = jax.jit(lambda k: td_targets(Known(), Z_NEXT, DISCOUNT, w, DISCOUNT, k))(key)
    expected = reference(w, Z_NEXT[..., 0] / (1.0 - DISCOUNT / 2.0))
    np.testing.assert_allclose(target, expected, rtol=1e-5)
    assert target[1, 1] == w.reward[1, 1]


def test_truncation_does_not_cut_the_bootstrap(key):
    # A truncation shows in a window only as a mask of 0 from the next step on.
    cut, whole = window(mask=[[1, 1], [0, 1], [0, 1]]), window()
    cfg = WorldModelConfig()

    @jax.jit
    def both(w):
        args = (Known(), Z_NEXT, DISCOUNT, w, DISCOUNT, key)
        return td_targets(*args), lambda_targets(*args, config=cfg)

    for a, b in zip(both(cut), both(whole), strict=True):
        np.testing.assert_array_equal(a, b)
        assert abs(a[0, 0] - cut.reward[0, 0]) > 0.1


def test_td_targets_take_the_smallest_head(key):
    w = window()
    target = jax.jit(lambda k: td_targets(Sided(), Z_NEXT, DISCOUNT, w, DISCOUNT, k))(key)
    z = Z_NEXT[..., 0]
    np.testing.assert_allclose(target, reference(w, np.minimum(z, 7.0 - z)), rtol=1e-5)


def test_td_targets_draw_the_action():
    w = window()
    draw = jax.jit(lambda k: td_targets(Drawn(), Z_NEXT, DISCOUNT, w, DISCOUNT, k))
    targets = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(targets.mean(0), reference(w, Z_NEXT[..., 0]), atol=0.05)
    np.testing.assert_allclose(targets.std(0), reference(w, 0.5) - w.reward, atol=0.03)


def by_lambda(model, w, key, *, steps):
    """Lambda targets as a compiled function of lambda."""

    def targets(lambda_):
        cfg = WorldModelConfig(imagined_target_steps=steps, lambda_=lambda_)
        return lambda_targets(model, Z_NEXT, DISCOUNT, w, DISCOUNT, key, config=cfg)

    return jax.jit(targets)


@pytest.mark.parametrize("steps", [1, 4])
def test_lambda_targets_of_exact_values_depend_on_neither_steps_nor_lambda(key, steps):
    w = window()
    target_of = by_lambda(Known(continuation=0.75), w, key, steps=steps)
    expected = reference(w, Z_NEXT[..., 0] / (1.0 - 0.75 * DISCOUNT / 2.0))
    for lambda_ in (0.0, 0.95, 1.0):
        target = target_of(lambda_)
        np.testing.assert_allclose(target, expected, rtol=1e-5)
        assert target[1, 1] == w.reward[1, 1]


def test_one_imagined_step_by_hand(key):
    w = window()
    model = Known(continuation=0.75, wrong=True)  # heads average to twice the truth
    target_of = by_lambda(model, w, key, steps=1)
    z = Z_NEXT[..., 0]
    value = 2.0 / (1.0 - 0.75 * DISCOUNT / 2.0)  # of a latent of 1
    one_step, two_step = value * z, z + DISCOUNT * 0.75 * value * z / 2.0
    for lambda_ in (0.0, 0.25, 1.0):
        expected = reference(w, (1.0 - lambda_) * one_step + lambda_ * two_step)
        np.testing.assert_allclose(target_of(lambda_), expected, rtol=1e-5)


def test_lambda_targets_mix_n_step_returns(key):
    """Against the definition, with wrong values so that the mixture matters."""
    steps, w = 3, window()
    target_of = by_lambda(Known(continuation=0.75, wrong=True), w, key, steps=steps)
    gamma, z = DISCOUNT * 0.75, Z_NEXT[..., 0]
    for lambda_ in (0.0, 0.6, 1.0):
        future, mixed = np.zeros_like(z), 0.0
        for n in range(steps + 1):  # imagined steps after the real one
            n_step = future + gamma**n * 2.0 * (z / 2.0**n) / (1.0 - gamma / 2.0)
            mixed = mixed + (1.0 if n == steps else 1.0 - lambda_) * lambda_**n * n_step
            future = future + gamma**n * z / 2.0**n
        np.testing.assert_allclose(target_of(lambda_), reference(w, mixed), rtol=1e-5)


def test_lambda_targets_value_each_state_by_its_own_action():
    """Two imagined steps where the value is the action, drawn around the state."""
    w, z = window(), Z_NEXT[..., 0]
    # Lambda 1: G = z + gamma z / 2 + gamma^2 u, u ~ N(z / 4, 0.5^2) drawn for the last state.
    # Lambda 0: G = u, u ~ N(z, 0.5^2) the action that imagination takes first.
    expected = {
        1.0: (z + DISCOUNT * z / 2.0 + DISCOUNT**2 * z / 4.0, 0.5 * DISCOUNT**2),
        0.0: (z, 0.5),
    }
    draw = jax.jit(jax.vmap(lambda k, x: by_lambda(Drawn(), w, k, steps=2)(x), in_axes=(0, None)))
    for lambda_, (mean, std) in expected.items():
        targets = np.asarray(draw(jax.random.split(jax.random.key(0), 4000), lambda_))
        np.testing.assert_allclose(targets.mean(0), reference(w, mean), atol=0.05)
        np.testing.assert_allclose(targets.std(0), reference(w, std) - w.reward, atol=0.03)


def test_total_loss_weighs_steps_by_hand():
    cfg = WorldModelConfig(
        rho=0.5, consistency_scale=20.0, reward_scale=0.1, value_scale=0.2, termination_scale=3.0
    )
    mask = np.array([[1, 1], [1, 0], [1, 0]], np.float32)
    step = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    losses = {"consistency": step, "reward": 10.0 * step, "value": step * 0, "termination": step}
    total, means = total_loss(losses, mask, config=cfg)
    # Over W = 3 steps and B = 2 windows: (1 (1 + 2) + 0.5 * 3 + 0.25 * 5) / 6 = 5.75 / 6.
    assert total == pytest.approx(5.75 / 6.0 * (20.0 + 10.0 * 0.1 + 3.0), rel=1e-6)
    # Reported means are plain: (1 + 2 + 3 + 5) / 4 steps that count.
    assert means["reward"] == pytest.approx(27.5, rel=1e-6)
    assert means["value"] == 0.0


def test_total_loss_of_nothing_is_zero():
    losses = {"reward": np.ones((2, 3), np.float32)}
    total, means = total_loss(losses, np.zeros((2, 3), np.float32), config=WorldModelConfig())
    assert total == 0.0 and means["reward"] == 0.0


def with_dropout(networks, rate):
    return dataclasses.replace(networks, world_model=networks.world_model.clone(dropout=rate))


@pytest.fixture(scope="module")
def compute(networks):
    """`(params, window, z_target, value_target) -> ((total, losses), gradient)`, compiled once.

    Without dropout, which would move the value loss a little.
    """
    networks = with_dropout(networks, 0.0)

    def loss(params, w, z_target, value_target):
        key = jax.random.key(7)
        losses, first = world_model_losses(networks, params, w, z_target, value_target, key)
        total, _ = total_loss(losses, w.mask, config=WorldModelConfig())
        return total, (losses, first)

    return COMPILE(jax.value_and_grad(loss, has_aux=True))


def targets(seed=5, horizon=3, batch=2):
    rng = np.random.default_rng(seed)
    z = rng.dirichlet(np.ones(4), size=(horizon, batch, 4)).reshape(horizon, batch, 16)
    return z.astype(np.float32), rng.normal(size=(horizon, batch)).astype(np.float32)


def test_losses_equal_a_loop_over_steps(networks, params, compute):
    w, (z_target, value_target) = window(), targets()
    model = params.world_model
    (_, (losses, first)), _ = compute(model, w, z_target, value_target)
    assert {name: loss.shape for name, loss in losses.items()} == dict.fromkeys(
        ("consistency", "reward", "value", "termination"), (3, 2)
    )

    @jax.jit
    def start(model):
        e = networks.embed(model, w.task_id)
        return networks.encode(model, w.observation[0], e), e

    @jax.jit
    def step(z, a, e):
        names = ("next_latent", "reward_logits", "termination_logit", "q_logits")
        return [networks.apply_model(model, name, z, a, e) for name in names]

    def cross_entropy(logits, x):
        encoding = np.asarray(two_hot.encode(x, networks.support))
        peak = np.max(logits, -1, keepdims=True)
        log_normaliser = peak + np.log(np.sum(np.exp(logits - peak), -1, keepdims=True))
        return -np.sum(encoding * (logits - log_normaliser), -1)

    z, e = start(model)
    np.testing.assert_allclose(first, z, rtol=1e-5)
    for t in range(3):
        a = np.tanh(w.pre_tanh_action[t]) * np.array([[1, 1, 0], [1, 1, 1]], np.float32)
        z, reward, termination, q = (np.asarray(x) for x in step(z, a, e))
        p, d = 1.0 / (1.0 + np.exp(-termination)), w.termination[t]
        heads = [cross_entropy(logits, value_target[t]) for logits in q]
        expected = {
            "consistency": np.mean((z - z_target[t]) ** 2, -1),
            "reward": cross_entropy(reward, w.reward[t]),
            "termination": -(d * np.log(p) + (1.0 - d) * np.log(1.0 - p)),
            "value": np.mean(heads, 0),
        }
        for name, loss in expected.items():
            np.testing.assert_allclose(losses[name][t], loss, rtol=1e-4, err_msg=name)


def test_each_row_drops_units_of_the_q_heads_by_the_key(networks, params):
    """Two equal windows of one task differ, and so do two keys; the other losses drop nothing."""
    one, (z, value) = window(), targets()
    twice = lambda x: x[..., [1, 1]] if x.ndim < 3 else x[:, [1, 1]]  # noqa: E731
    w, z, value = jax.tree.map(twice, (one, z, value))

    @COMPILE
    def losses_of(key):
        args = (with_dropout(networks, 0.5), params.world_model, w, z, value)
        losses, _ = world_model_losses(*args, key)
        return losses["value"], losses["reward"]

    found, other = (losses_of(jax.random.key(seed)) for seed in (0, 1))
    for value in (found[0], other[0]):
        assert np.all(np.abs(value[:, 0] - value[:, 1]) > 1e-4)
    assert np.all(np.abs(found[0] - other[0]) > 1e-4)
    np.testing.assert_array_equal(found[1], other[1])


def test_no_later_observation_enters(params, compute):
    w, t = window(), targets()
    changed = w.observation.copy()
    changed[1:] += 1.0
    before = compute(params.world_model, w, *t)
    after = compute(params.world_model, w.replace(observation=changed), *t)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(x, y)


def test_steps_after_an_episode_end_contribute_nothing(params, compute):
    w = window(mask=[[1, 1], [1, 1], [1, 0]])
    z_target, value_target = targets()
    (total, _), gradient = compute(params.world_model, w, z_target, value_target)

    def perturbed(t):
        """The same window with everything of step t of the second column replaced."""
        w2 = jax.tree.map(np.copy, w)
        z2, v2 = z_target.copy(), value_target.copy()
        for x in (w2.pre_tanh_action, w2.reward, w2.next_observation, w2.observation, z2, v2):
            x[t, 1] += 2.0
        w2.termination[t, 1] = 1.0 - w2.termination[t, 1]
        return compute(params.world_model, w2, z2, v2)

    (same, _), same_gradient = perturbed(2)
    assert same == pytest.approx(float(total), rel=1e-6)
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(same_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    (other, _), other_gradient = perturbed(1)
    assert abs(other - total) > 0.01
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), gradient, other_gradient)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_the_loss_trains_every_part(params, compute):
    _, gradient = compute(params.world_model, window(), *targets())
    parts = jax.tree.map(lambda x: np.abs(x).max(), gradient)
    assert set(parts) >= {"embedding", "encoder", "dynamics", "reward", "termination", "q"}
    for name, part in parts.items():
        assert min(jax.tree.leaves(part)) > 0.0, name


def test_there_is_no_termination_loss_without_the_head(endless_networks, endless_params, key):
    losses, _ = jax.eval_shape(
        lambda p: world_model_losses(endless_networks, p, window(), *targets(), key),
        endless_params.world_model,
    )
    assert set(losses) == {"consistency", "reward", "value"}


def test_one_batch_is_learned_by_heart(networks, params, compute):
    w = window()
    # Rewards on a bin, so that the cross-entropy can reach zero.
    bins = np.asarray(networks.support.bins)[np.random.default_rng(1).integers(6, 15, (3, 2))]
    w = w.replace(reward=np.asarray(two_hot.symexp(bins)))
    optimizer = optax.chain(optax.clip_by_global_norm(20.0), optax.adam(5e-3))

    @jax.jit
    def latents(model):
        e = networks.embed(model, jnp.broadcast_to(w.task_id, (3, 2)))
        return networks.encode(model, w.next_observation, e)

    @jax.jit
    def move(model, opt_state, gradient):
        updates, opt_state = optimizer.update(gradient, opt_state, model)
        return optax.apply_updates(model, updates), opt_state

    model, opt_state, history = params.world_model, optimizer.init(params.world_model), []
    for _ in range(300):
        (_, (losses, _)), gradient = compute(model, w, latents(model), w.reward)
        model, opt_state = move(model, opt_state, gradient)
        history.append({name: float(loss.mean()) for name, loss in losses.items()})
    for name, first in history[0].items():
        assert history[-1][name] < first / 10.0, name
