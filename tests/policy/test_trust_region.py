"""The surrogate, the pathwise loss, and the bound on the KL of an update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from m3po_jax.config import ConfigError, PolicyConfig
from m3po_jax.ops import distributions
from m3po_jax.policy import trust_region
from m3po_jax.policy.trust_region import Gaussians

N, A = 24, 3
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(N, 4)).astype(np.float32)
MASK = np.ones((N, A), np.float32)
MASK[::2, 2] = 0.0
WEIGHT = RNG.uniform(0.2, 1.0, N).astype(np.float32)
PARAMS = {
    "kernel": RNG.normal(0.0, 0.5, (4, A)).astype(np.float32),
    "log_std": np.array([-1.0, 0.0, 0.5], np.float32),
}


def policy(params, z, mask):
    """A linear Gaussian policy, zero in inactive dims."""
    mean = (z @ params["kernel"]) * mask
    std = jnp.exp(jnp.clip(params["log_std"], -5.0, 1.0)) * mask
    return Gaussians(mean, std)


OLD = jax.tree.map(np.asarray, policy(PARAMS, Z, MASK))
U = np.asarray(OLD.mean + OLD.std * RNG.normal(size=(N, A)).astype(np.float32))
ADVANTAGE = RNG.normal(size=N).astype(np.float32)


def surrogate(params, clip_epsilon, *, u=U, advantage=ADVANTAGE, weight=WEIGHT, entropy_scale=0.0):
    return trust_region.surrogate_loss(
        policy(params, Z, MASK),
        OLD,
        u,
        advantage,
        weight,
        MASK,
        clip_epsilon=clip_epsilon,
        entropy_scale=entropy_scale,
    )


def gaussian_log_prob(u, mean, std, mask):
    """Masked log-density, by the formula."""
    safe = jnp.where(mask > 0, std, 1.0)
    terms = -0.5 * ((u - mean) / safe) ** 2 - jnp.log(safe) - 0.5 * np.log(2.0 * np.pi)
    return jnp.sum(terms * mask, -1)


def data(advantage=ADVANTAGE):
    return {"z": Z, "u": U, "old": OLD, "a": advantage, "w": WEIGHT, "mask": MASK}


def loss_fn(params, batch, key, *, clip_epsilon):
    del key
    return trust_region.surrogate_loss(
        policy(params, batch["z"], batch["mask"]),
        batch["old"],
        batch["u"],
        batch["a"],
        batch["w"],
        batch["mask"],
        clip_epsilon=clip_epsilon,
        entropy_scale=0.0,
    )


@functools.cache
def updater(trust, epochs, minibatches):
    """`trust_region_update`, compiled once for all targets and learning rates."""
    loss = functools.partial(loss_fn, clip_epsilon=0.2 if trust == "clip" else None)

    def update(params, state, data, key, kl_target, learning_rate):
        cfg = PolicyConfig(
            trust_region=trust, epochs=epochs, minibatches=minibatches, kl_target=kl_target
        )
        optimizer = optax.adam(learning_rate)
        return trust_region.trust_region_update(
            loss, params, state, data, key, optimizer=optimizer, config=cfg
        )

    # A small program that compiles longer than it runs.
    return jax.jit(update, compiler_options={"xla_backend_optimization_level": 0})


def init(params=PARAMS, kl_penalty=1.0):
    state = trust_region.init_trust_region(params, optax.adam(1.0))
    return state.replace(kl_penalty=jnp.float32(kl_penalty))


def run(
    trust,
    batch=None,
    params=PARAMS,
    state=None,
    *,
    epochs=4,
    minibatches=1,
    kl_target=0.05,
    learning_rate=1e-2,
    seed=0,
):
    state = init(params) if state is None else state
    batch = data() if batch is None else batch
    update = updater(trust, epochs, minibatches)
    return update(params, state, batch, jax.random.key(seed), kl_target, learning_rate)


def assert_trees(compare, a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        compare(x, y)


same = functools.partial(assert_trees, np.testing.assert_array_equal)


def exact_kl(params):
    new = policy(params, Z, MASK)
    return float(trust_region.mean_kl(OLD, new, WEIGHT, MASK))


@pytest.mark.parametrize("clip_epsilon", [0.2, None])
def test_gradient_at_ratio_one_is_the_policy_gradient(clip_epsilon):
    def expected(params):
        new = policy(params, Z, MASK)
        log_prob = gaussian_log_prob(U, new.mean, new.std, MASK)
        return -jnp.sum(WEIGHT * ADVANTAGE * log_prob) / jnp.sum(WEIGHT)

    loss_fn = jax.jit(jax.value_and_grad(lambda p: surrogate(p, clip_epsilon), has_aux=True))
    (loss, kl), gradient = loss_fn(PARAMS)
    assert float(loss) == pytest.approx(-np.sum(WEIGHT * ADVANTAGE) / WEIGHT.sum(), rel=1e-4)
    assert kl < 1e-9
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    assert_trees(close, gradient, jax.jit(jax.grad(expected))(PARAMS))


def test_kl_is_the_gaussian_formula_in_the_stated_direction():
    moved = {"kernel": PARAMS["kernel"] + 0.1, "log_std": PARAMS["log_std"] + 0.2}
    _, kl = surrogate(moved, 0.2)
    new = jax.tree.map(np.asarray, policy(moved, Z, MASK))
    old_std, new_std = np.where(MASK, OLD.std, 1.0), np.where(MASK, new.std, 1.0)
    terms = np.log(new_std / old_std) - 0.5
    terms += (old_std**2 + (OLD.mean - new.mean) ** 2) / (2.0 * new_std**2)
    expected = np.sum(WEIGHT * np.sum(terms * MASK, -1)) / WEIGHT.sum()
    assert float(kl) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("sign", "ratio", "gradient_flows"),
    [(1, 1.5, False), (1, 0.5, True), (-1, 1.5, True), (-1, 0.5, False), (1, 1.1, True)],
)
def test_clipping_stops_only_what_would_go_too_far(sign, ratio, gradient_flows):
    """One sample with N(0, 1) old and N(m, 1) new at u = 1: log ratio = m - m^2 / 2."""
    one = np.ones((1, 1), np.float32)
    mean = np.float32(1.0 - np.sqrt(1.0 - 2.0 * np.log(ratio))).reshape(1, 1)

    def loss(mean, clip_epsilon):
        old, new = Gaussians(0.0 * one, one), Gaussians(mean, one)
        return trust_region.surrogate_loss(
            new, old, one, sign * one[0], one[0], one, clip_epsilon=clip_epsilon, entropy_scale=0.0
        )[0]

    value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    clipped = min(sign * ratio, sign * np.clip(ratio, 0.8, 1.2))
    value, gradient = value_and_grad(mean, 0.2)
    assert value == pytest.approx(-clipped, rel=1e-5)
    assert (gradient[0, 0] != 0.0) == gradient_flows
    value, gradient = value_and_grad(mean, None)
    assert value == pytest.approx(-sign * ratio, rel=1e-5)
    assert gradient[0, 0] == pytest.approx(-sign * ratio * (1.0 - mean[0, 0]), rel=1e-4)


@pytest.mark.parametrize("clip_epsilon", [0.2, None])
def test_ratios_beyond_float32_stay_finite(clip_epsilon):
    far = {"kernel": PARAMS["kernel"], "log_std": np.full(A, -5.0, np.float32)}
    narrow = Gaussians(OLD.mean + 100.0, OLD.std)  # the old policy calls u impossible
    new = policy(far, Z, MASK)
    for advantage in (ADVANTAGE, 0.0 * ADVANTAGE):
        loss, _ = trust_region.surrogate_loss(
            new, narrow, np.asarray(new.mean), advantage, WEIGHT, MASK,
            clip_epsilon=clip_epsilon, entropy_scale=0.0,
        )  # fmt: skip
        assert np.isfinite(loss)


@pytest.mark.parametrize("anything", [1e6, np.nan, np.inf])
def test_samples_of_weight_zero_do_not_count(anything):
    weight = WEIGHT.copy()
    weight[5:9] = 0.0
    wild = ADVANTAGE.copy()
    wild[5:9] = anything
    loss = jax.jit(
        jax.value_and_grad(lambda p, a: surrogate(p, 0.2, weight=weight, advantage=a)[0])
    )
    moved = jax.tree.map(lambda x: x + 0.05, PARAMS)
    same(loss(moved, ADVANTAGE), loss(moved, wild))


def test_entropy_bonus_widens_active_dims():
    def loss(params):
        return surrogate(params, 0.2, advantage=0.0 * ADVANTAGE, entropy_scale=0.3)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(PARAMS)
    # d entropy / d log std is 1 in each active dim; the last is active in half of the samples.
    share = np.sum(WEIGHT * MASK[:, 2]) / WEIGHT.sum()
    np.testing.assert_allclose(gradient["log_std"], [-0.3, -0.3, -0.3 * share], rtol=1e-5)
    log_std = np.log(np.where(MASK, OLD.std, 1.0)) + 0.5 * np.log(2.0 * np.pi * np.e)
    entropy = np.sum(WEIGHT * np.sum(log_std * MASK, -1)) / WEIGHT.sum()
    assert float(value) == pytest.approx(-0.3 * entropy, rel=1e-5)


def test_pathwise_loss_by_formula():
    noise = np.random.default_rng(3).normal(size=(N, A)).astype(np.float32)
    scale = np.random.default_rng(4).uniform(1.0, 3.0, N).astype(np.float32)

    def both(params):
        new = policy(params, Z, MASK)
        u = new.mean + new.std * noise
        value = -jnp.sum((jnp.tanh(u) - 0.3) ** 2 * MASK, -1)
        loss = trust_region.pathwise_loss(new, u, value, scale, WEIGHT, MASK, entropy_scale=0.1)
        # Density of tanh(u): that of u over |d tanh(u) / du| = 1 - tanh(u)^2.
        jacobian = jnp.sum(jnp.log(1.0 - jnp.tanh(u) ** 2) * MASK, -1)
        entropy = -(gaussian_log_prob(u, new.mean, new.std, MASK) - jacobian)
        expected = -jnp.sum(WEIGHT * (value / scale + 0.1 * entropy)) / jnp.sum(WEIGHT)
        return loss, expected

    (loss, expected), (gradient, expected_gradient) = jax.jit(
        lambda p: (both(p), tuple(jax.grad(lambda p, i=i: both(p)[i])(p) for i in (0, 1)))
    )(PARAMS)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    assert_trees(close, gradient, expected_gradient)


@pytest.mark.parametrize("trust", ["clip", "kl", "none"])
def test_reports_the_exact_kl_of_the_parameters_it_returns(trust):
    params, _, metrics = run(trust, minibatches=4)
    assert metrics["kl"] == pytest.approx(exact_kl(params), rel=1e-3)
    assert metrics["kl"] > 1e-5
    assert metrics["skipped"] == 0.0


@pytest.mark.parametrize("minibatches", [1, 4])
@pytest.mark.parametrize("trust", ["clip", "kl"])
def test_holds_the_bound_at_an_absurd_learning_rate(trust, minibatches):
    state = None
    for seed, advantage in enumerate((ADVANTAGE, -100.0 * ADVANTAGE, np.sign(U[:, 0]) * 1e4)):
        batch = data(advantage.astype(np.float32))
        params, state, metrics = run(
            trust, batch, state=state, learning_rate=1.0, minibatches=minibatches, seed=seed
        )
        kl = exact_kl(params)
        assert 0.0 < kl <= 1.5 * 0.05 * (1.0 + 1e-3)
        assert metrics["kl"] == pytest.approx(kl, rel=1e-3)
        assert metrics["shortened"] == 1.0
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((params, state)))


def test_without_a_trust_region_nothing_is_held():
    params, _, metrics = run("none", learning_rate=1.0)
    assert exact_kl(params) > 10.0 * 0.05
    assert metrics["shortened"] == 0.0 and metrics["steps"] == 4.0


def test_a_shortened_step_keeps_its_direction():
    # A penalty of zero and the unclipped ratio: the same loss as without a trust region.
    free, _, _ = run("none", learning_rate=0.3)
    held, _, metrics = run("kl", state=init(kl_penalty=0.0), learning_rate=0.3)
    assert metrics["shortened"] == 1.0
    ratios = [
        (np.asarray(h) - o) / (np.asarray(f) - o)
        for h, f, o in zip(*map(jax.tree.leaves, (held, free, PARAMS)), strict=True)
    ]
    alpha = np.concatenate([r.ravel() for r in ratios])
    np.testing.assert_allclose(alpha, alpha[0], rtol=1e-3)
    assert 0.0 < alpha[0] < 1.0
    # As long as it may be, within the safety margin of the search.
    assert metrics["kl"] > 0.7 * 1.5 * 0.05


def test_a_step_inside_the_bound_is_returned_to_the_last_bit():
    free, _, _ = run("none", learning_rate=1e-3)
    held, _, metrics = run("kl", state=init(kl_penalty=0.0), learning_rate=1e-3)
    assert metrics["shortened"] == 0.0 and 0.0 < metrics["kl"] < 1.5 * 0.05
    assert metrics["steps"] == 4.0
    same(held, free)


def test_takes_the_optimizers_steps():
    held, state, _ = run("clip", learning_rate=1e-3)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, opt_state):
        gradient = jax.grad(lambda p: loss_fn(p, data(), None, clip_epsilon=0.2)[0])(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = PARAMS, optimizer.init(PARAMS)
    for _ in range(4):
        params, opt_state = step(params, opt_state)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    assert_trees(close, (held, state.opt_state), (params, opt_state))


def test_clip_stops_at_the_bound():
    _, _, held = run("clip", epochs=40, learning_rate=2e-2)
    _, _, free = run("none", epochs=40, learning_rate=2e-2)
    assert 1.0 < held["steps"] < 40.0
    assert free["steps"] == 40.0 and free["kl"] > 1.5 * 0.05


@pytest.mark.parametrize("trust", ["clip", "kl", "none"])
@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_a_fault_leaves_parameters_and_optimizer_alone(trust, fault):
    _, good, _ = run(trust)
    advantage = ADVANTAGE.copy()
    advantage[3] = fault
    params, state, metrics = run(trust, data(advantage), state=good)
    same(params, PARAMS)
    same(state, good)
    assert metrics["steps"] == 0.0 and metrics["skipped"] == 4.0 and metrics["kl"] < 1e-9
    assert not np.isfinite(metrics["gradient_norm"])
    # The next update works.
    params, _, metrics = run(trust, state=state)
    assert metrics["steps"] > 0.0 and 0.0 < metrics["kl"] < 1.0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))


def test_a_fault_costs_only_its_own_minibatch():
    advantage = ADVANTAGE.copy()
    advantage[3] = np.nan
    params, _, metrics = run("none", data(advantage), minibatches=4)
    assert metrics["steps"] == 12.0 and metrics["skipped"] == 4.0
    assert 0.0 < exact_kl(params) < 1.0


def test_minibatches_are_all_used():
    _, _, metrics = run("none", minibatches=4)
    assert metrics["steps"] == 16.0
    with pytest.raises(ValueError, match="24 samples cannot be split into 5"):
        run("none", minibatches=5)


@pytest.mark.parametrize(
    ("word", "hint"), [("KL", "did you mean kl"), ("off", "choose one of clip, kl, none")]
)
def test_a_trust_region_of_another_name_is_refused(word, hint):
    with pytest.raises(
        ConfigError, match=f"policy.trust_region = '{word}' is not a choice; {hint}"
    ):
        run(word)


def test_kl_penalty_adapts_both_ways():
    def penalties(**changes):
        state, history = None, [1.0]
        for seed in range(3):
            _, state, metrics = run("kl", state=state, seed=seed, **changes)
            assert metrics["kl_penalty"] == history[-1]
            history.append(float(state.kl_penalty))
        return history

    # Too long a step is shortened into the range; the penalty must grow nevertheless.
    assert penalties(learning_rate=1.0) == [1.0, 2.0, 4.0, 8.0]
    assert penalties(learning_rate=1e-5) == [1.0, 0.5, 0.25, 0.125]


def test_kl_penalty_rests_near_the_target():
    kl = float(run("kl", kl_target=10.0)[2]["kl"])
    for target, expected in ((1.4 * kl, 1.0), (kl / 1.4, 1.0), (1.6 * kl, 0.5), (kl / 1.6, 2.0)):
        _, state, metrics = run("kl", kl_target=target)
        assert float(state.kl_penalty) == expected
        assert metrics["shortened"] == (expected == 2.0)


def test_kl_penalty_stays_in_its_range():
    for learning_rate, start, end in ((1.0, 900.0, 1e3), (1e-5, 1.5e-3, 1e-3)):
        _, state, _ = run("kl", state=init(kl_penalty=start), learning_rate=learning_rate)
        assert float(state.kl_penalty) == pytest.approx(end)


def test_kl_penalty_holds_the_policy_back():
    free = run("kl", state=init(kl_penalty=0.0), kl_target=100.0, epochs=40)[2]
    held = run("kl", state=init(kl_penalty=100.0), kl_target=100.0, epochs=40)[2]
    assert held["kl"] < 0.1 * free["kl"]


@pytest.mark.parametrize("trust", ["clip", "none"])
def test_only_the_penalty_mode_has_a_penalty(trust):
    for learning_rate in (1.0, 1e-5):
        params, state, _ = run(trust, learning_rate=learning_rate)
        assert state.kl_penalty == 1.0
        heavy, _, _ = run(trust, state=init(kl_penalty=100.0), learning_rate=learning_rate)
        same(params, heavy)


@pytest.mark.parametrize("trust", ["clip", "kl"])
def test_repeated_updates_solve_a_bandit(trust):
    """Reward `-|u - 0.5|^2`: mean and spread must go there, each update within its bound."""

    @jax.jit
    def draw(params, key):
        old = policy(params, Z, MASK)
        u = distributions.sample(old.mean, old.std, MASK, key)
        reward = -jnp.sum((u - 0.5) ** 2 * MASK, -1)
        advantage = (reward - reward.mean()) / reward.std()
        return {**data(), "u": u, "old": old, "a": advantage}

    def expected_cost(params):
        new = policy(params, Z, MASK)
        return float(np.mean(np.sum(((new.mean - 0.5) ** 2 + new.std**2) * MASK, -1)))

    params = {"kernel": np.zeros((4, A), np.float32), "log_std": np.zeros(A, np.float32)}
    state, start = init(params), expected_cost(params)
    for seed in range(60):
        batch = draw(params, jax.random.key(seed))
        params, state, metrics = run(trust, batch, params, state, learning_rate=2e-2, seed=seed)
        assert metrics["kl"] <= 1.5 * 0.05 * (1.0 + 1e-3)
    assert expected_cost(params) < 0.5 * start
