"""MPPI in models whose best plan is known; no network anywhere."""

import functools
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import ConfigError, PlannerConfig
from m3po_jax.planning.mppi import Novelty, Plan, mppi_plan, predicted_return

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "mppi.json"
GOAL = np.array([0.6, -0.3], np.float32)
# Small arrays: compiling takes all the time, so XLA need not optimise.
COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class World(NamedTuple):
    """The context of `Move`: all its numbers, so that many worlds share one compilation."""

    goal: np.ndarray = GOAL
    step: float = 1.0  # price of each step's distance
    end: float = 0.0  # price of the last distance
    mean: float = 0.0  # of the policy
    std: float = 1.0
    expert: float = 0.0  # 1: the policy goes to the goal at once and stays there


class Move:
    """`z' = z + tanh(u)`; the squared distance to the goal costs."""

    def next(self, z, u, world):
        z = z + jnp.tanh(u)
        return z, -world.step * jnp.sum((z - world.goal) ** 2, -1), jnp.ones(z.shape[:-1])

    def value(self, z, u, world):
        return -world.end * jnp.sum((z - world.goal) ** 2, -1)

    def policy(self, z, world):
        home = jnp.arctanh(jnp.clip(world.goal - z, -0.99, 0.99))
        return world.mean + world.expert * home, jnp.full_like(z, world.std)


class Halving:
    """`z' = z + u`, reward z + 10 u, continuation 1/2, value 100 z + last action, policy 3."""

    def next(self, z, u, context):
        reward = z[..., 0] + 10.0 * u[..., 0]
        return z + u, reward, jnp.full(z.shape[:-1], 0.5)

    def value(self, z, u, context):
        return 100.0 * z[..., 0] + u[..., 0]

    def policy(self, z, context):
        return jnp.full_like(z, 3.0), jnp.zeros_like(z)


class Count:
    """z counts steps; step 1 pays its action, the value is the last action, the policy N(0, 1)."""

    def next(self, z, u, context):
        return z + 1.0, jnp.where(z[..., 0] == 1.0, u[..., 0], 0.0), jnp.ones(z.shape[:-1])

    def value(self, z, u, context):
        return u[..., 0]

    def policy(self, z, context):
        return jnp.zeros_like(z), jnp.ones_like(z)


class Hopeless(Move):
    """Every reward is infinitely low."""

    def next(self, z, u, world):
        z, reward, continuation = super().next(z, u, world)
        return z, reward - jnp.inf, continuation


class Lost(Move):
    """No state is a number after a step, and so neither are the actions of the policy there."""

    def next(self, z, u, world):
        z, reward, continuation = super().next(z, u, world)
        return z + jnp.nan, reward, continuation


class Door:
    """Nothing pays; an action below zero ends the episode."""

    def next(self, z, u, context):
        continuation = (u[..., 0] >= 0.0).astype(jnp.float32)
        return z, jnp.zeros(z.shape[:-1]), continuation

    def value(self, z, u, context):
        return jnp.zeros(z.shape[:-1])

    def policy(self, z, context):
        return jnp.zeros_like(z), jnp.ones_like(z)


def config(**changes):
    defaults = {"num_samples": 64, "num_policy_samples": 8, "iterations": 2, "num_elites": 8}
    return PlannerConfig(**{**defaults, **changes})


# A search that ends in the optimum, not beside it.
THOROUGH = config(num_samples=256, num_policy_samples=0, iterations=20, num_elites=16)


@functools.cache
def compiled(model, cfg, explore, curious):
    """`mppi_plan` of everything that is not an array."""

    def plan(key, z, plan_mean, world, mask, return_scale, curiosity) -> Plan:
        novelty = Novelty(lambda z, u: u[..., 0], lambda z: jnp.zeros(z.shape[0]), 0.9, curiosity)
        return mppi_plan(
            model(),
            z,
            world,
            plan_mean,
            key,
            action_mask=mask,
            discount=0.9,
            return_scale=return_scale,
            config=cfg,
            explore=explore,
            novelty=novelty if curious else None,
        )

    return COMPILE(plan), COMPILE(jax.vmap(plan, in_axes=(0, 0, 0, None, None, None, None)))


def plan(
    key,
    z=None,
    plan_mean=None,
    world=World(),  # noqa: B008
    *,
    mask=None,
    return_scale=1.0,
    curiosity=None,
    model=Move,
    cfg=config(),  # noqa: B008
    explore=False,
):
    """A plan, or as many as there are keys."""
    size = len(world.goal)
    z = np.zeros((*key.shape, size), np.float32) if z is None else z
    if plan_mean is None:
        plan_mean = np.zeros((*key.shape, cfg.horizon, size), np.float32)
    mask = np.ones(size, np.float32) if mask is None else mask
    world = jax.tree.map(np.float32, world)
    functions = compiled(model, cfg, explore, curiosity is not None)
    args = (world, mask, np.float32(return_scale), np.float32(curiosity or 0.0))
    return functions[key.ndim](key, z, plan_mean, *args)


def test_finds_the_optimum_of_a_quadratic(key):
    found = plan(key, cfg=THOROUGH)
    # The best plan reaches the goal in one step and stays: tanh(u) = goal, 0, 0 with return 0.
    np.testing.assert_allclose(np.tanh(found.u), GOAL, atol=0.06)
    np.testing.assert_allclose(np.tanh(found.plan_mean), [GOAL, [0, 0], [0, 0]], atol=0.06)
    assert -0.02 < found.value <= 0.0


def test_plans_for_the_end_of_the_horizon(key):
    # The goal is three steps away and only the last state counts.
    world = World(goal=np.array([1.8, -1.5], np.float32), step=0.0, end=1.0)
    found = plan(key, world=world, cfg=THOROUGH)
    np.testing.assert_allclose(np.tanh(found.plan_mean).sum(0), world.goal, atol=0.1)
    assert -0.02 < found.value <= 0.0


def test_the_search_narrows_down_to_its_lowest_std(key):
    wide, narrow = plan(key, cfg=config(iterations=1)).plan_std, plan(key, cfg=THOROUGH).plan_std
    assert np.mean(narrow) < 0.2 * np.mean(wide)
    assert np.min(narrow) == np.float32(0.05)
    assert np.max(wide) <= 2.0


@pytest.mark.parametrize("explore", [True, False])
def test_inactive_dims_are_exactly_zero(key, explore):
    mask = np.array([1.0, 0.0, 1.0], np.float32)
    # This policy knows no mask and would move in every dim; so would the warm start.
    world = World(goal=np.array([0.6, -0.3, 0.9], np.float32), mean=0.5, std=0.3)
    start = np.ones((3, 3), np.float32)
    found = plan(key, plan_mean=start, world=world, mask=mask, explore=explore)
    for x in (found.u, found.mean, found.std, found.plan_mean.T, found.plan_std.T):
        assert np.all(np.asarray(x)[1] == 0.0)
    for x in (found.u, found.mean, found.plan_mean.T, found.plan_std.T):
        assert np.all(np.asarray(x)[[0, 2]] != 0.0)


def test_policy_samples_stay_in_the_mask(key):
    cfg = config(num_samples=8, num_policy_samples=8, num_elites=2)
    mask = np.array([1.0, 0.0], np.float32)
    found = plan(key, world=World(expert=1.0, std=0.0), mask=mask, cfg=cfg)
    assert np.tanh(found.u[0]) == pytest.approx(0.6, rel=1e-5)
    assert found.u[1] == 0.0
    # It pays for the dim that it cannot move, three times.
    assert found.value == pytest.approx(-0.09 * (1.0 + 0.9 + 0.81), rel=1e-5)


def test_evaluation_takes_the_best_sequence_without_noise(key):
    found = plan(key)
    np.testing.assert_array_equal(found.std, 0.0)
    np.testing.assert_array_equal(found.u, found.mean)
    assert found.returns.shape == (64,)
    assert found.value == np.max(found.returns)


def test_exploring_draws_from_the_recorded_gaussian():
    plans = plan(jax.random.split(jax.random.key(0), 3000), explore=True)
    noise = np.asarray((plans.u - plans.mean) / plans.std)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.08)
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.05)
    # The noise is fresh: one dim knows nothing of the other, nor of which elite was drawn.
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.08
    assert abs(np.corrcoef(noise[:, 0], plans.mean[:, 0])[0, 1]) < 0.08
    assert np.min(plans.std) >= np.float32(0.05)


def test_exploring_draws_elites_by_score():
    """In small units of return the best elite alone comes up, in large ones all alike."""
    keys = jax.random.split(jax.random.key(0), 200)

    def ranks(return_scale):
        plans = plan(keys, cfg=config(iterations=1), explore=True, return_scale=return_scale)
        return np.sum(np.asarray(plans.returns) > np.asarray(plans.value)[:, None], 1)

    assert np.all(ranks(1e-5) == 0)
    alike = ranks(1e5)
    assert set(alike) == set(range(8))
    assert alike.mean() == pytest.approx(3.5, abs=0.6)


def test_no_novelty_and_one_of_share_zero_give_the_same_plan(key):
    cfg = config(iterations=1)
    without = plan(key, cfg=cfg, explore=True)
    zero = plan(key, cfg=cfg, explore=True, curiosity=0.0)
    for a, b in zip(without, zero, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_novelty_moves_the_plan_but_no_return(key):
    cfg = config(iterations=1)
    plain = plan(key, cfg=cfg, explore=True, curiosity=0.0)
    curious = plan(key, cfg=cfg, explore=True, curiosity=10.0)
    np.testing.assert_array_equal(plain.returns, curious.returns)
    assert curious.plan_mean[0, 0] > plain.plan_mean[0, 0] + 0.5
    assert curious.value < plain.value


def test_in_an_infinite_unit_of_return_novelty_is_all_that_counts(key):
    cfg = config(iterations=1)
    here, there = (
        plan(key, world=World(goal=goal), cfg=cfg, return_scale=np.inf, curiosity=1.0, explore=True)
        for goal in (GOAL, -GOAL)
    )
    assert np.any(np.asarray(here.returns) != np.asarray(there.returns))
    np.testing.assert_array_equal(here.plan_mean, there.plan_mean)
    assert here.plan_mean[0, 0] > 0.5


def novel_plan(key, bonus, share=5.0):
    """A plan from the origin that seeks `bonus(u)`."""
    novelty = Novelty(lambda z, u: bonus(u), lambda z: jnp.zeros(z.shape[0]), 0.9, share)
    args = (Move(), jnp.zeros(2), World(), jnp.zeros((3, 2)), key)
    return COMPILE(
        lambda: mppi_plan(
            *args, action_mask=jnp.ones(2), discount=0.9, return_scale=1.0,
            config=config(iterations=1), explore=True, novelty=novelty,
        )
    )()  # fmt: skip


def test_the_unit_of_novelty_does_not_matter(key):
    small = novel_plan(key, lambda u: 10.0 * u[..., 0])
    large = novel_plan(key, lambda u: 1000.0 * u[..., 0] + 3.0)
    np.testing.assert_allclose(small.plan_mean, large.plan_mean, rtol=1e-2, atol=1e-2)


def test_a_sequence_without_finite_novelty_is_the_worst_and_decides_nothing_else(key):
    broken = novel_plan(key, lambda u: jnp.where(u[..., 0] > 2.5, jnp.nan, u[..., 0]))
    whole = novel_plan(key, lambda u: u[..., 0])
    assert np.isfinite(broken.plan_mean).all()
    assert 0.2 < broken.plan_mean[0, 0] < whole.plan_mean[0, 0]


def test_predicted_return_by_hand(key):
    u = jnp.array([[[1.0], [2.0]], [[0.0], [0.0]]])
    z = jnp.array([5.0])
    novelty = Novelty(
        lambda z, u: z[..., 0] * u[..., 0], lambda z: 10.0 * z[..., 0], discount=0.5, share=7.0
    )
    predict = functools.partial(predicted_return, Halving(), z, None, u, key, discount=0.8)
    returns, new = COMPILE(lambda: predict(novelty=novelty))()
    # z = 5, 6, 8: r = 5 + 10, 6 + 20; weights 1, 0.8 / 2, (0.8 / 2)^2; the last value is
    # 100 * 8 + 3 (the policy's action). Without actions: z = 5 throughout.
    np.testing.assert_allclose(
        returns, [15.0 + 0.4 * 26.0 + 0.16 * 803.0, 5.0 + 0.4 * 5.0 + 0.16 * 503.0], rtol=1e-6
    )
    # 5 * 1, then with weight 1/2 (discount) times 1/2 (reached) 6 * 2, then with (1/4)^2 what is
    # ahead of the last state, 10 * 8 and 10 * 5; `share` is the planner's.
    np.testing.assert_allclose(new, [5.0 + 3.0 + 5.0, 3.125], rtol=1e-6)
    again, none = COMPILE(predict)()
    np.testing.assert_allclose(again, returns, rtol=1e-6)
    np.testing.assert_array_equal(none, [0.0, 0.0])


def test_there_is_nothing_to_explore_behind_the_end_of_an_episode(key):
    on_and_out = jnp.array([[[1.0], [1.0], [1.0], [1.0]], [[-1.0], [1.0], [1.0], [1.0]]])
    novelty = Novelty(
        lambda z, u: jnp.ones(z.shape[:-1]), lambda z: 6.0 * jnp.ones(z.shape[:-1]), 1.0, 1.0
    )
    returns, new = COMPILE(
        lambda: predicted_return(
            Door(), jnp.zeros(1), None, on_and_out, key, discount=0.8, novelty=novelty
        )
    )()
    assert returns[0] == returns[1]
    # All four steps and what is ahead, or the first alone.
    np.testing.assert_allclose(new, [10.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("model", [Hopeless, Lost])
def test_a_plan_is_finite_where_no_prediction_is(key, model, explore):
    found = plan(key, model=model, explore=explore, cfg=config(iterations=1))
    for name in ("u", "mean", "std", "plan_mean", "plan_std"):
        assert np.isfinite(getattr(found, name)).all(), name
    assert not np.isfinite(found.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_samples": 4, "num_elites": 2},
            "planner.num_policy_samples = 8 must be at most planner.num_samples = 4",
        ),
        (
            {"num_samples": 8, "num_elites": 9},
            "planner.num_elites = 9 must be at most planner.num_samples = 8",
        ),
        ({"iterations": 0}, "planner.iterations = 0 must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(key, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(key, cfg=config(**changes))


@pytest.mark.parametrize("shape", [(4, 2), (3, 1), (3,)])
def test_a_plan_of_another_shape_is_refused(key, shape):
    with pytest.raises(ValueError, match=r"plan_mean is \[.*\] and must be \[3, 2\]"):
        plan(key, plan_mean=np.zeros(shape, np.float32))


def test_policy_samples_make_a_plan_no_worse_than_the_policy(key):
    """Eight action dims and few samples: the search alone is lost, the policy knows the way."""
    world = World(goal=np.linspace(-0.9, 0.9, 8).astype(np.float32), expert=1.0, std=0.0)
    few = {"num_samples": 16, "num_elites": 4}
    found = plan(key, world=world, cfg=config(**few, num_policy_samples=1))
    alone = plan(key, world=world, cfg=config(**few, num_policy_samples=0))
    assert found.value == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(np.tanh(found.u), world.goal, atol=1e-5)
    assert alone.value < -0.5


def test_the_last_action_is_drawn_apart_from_the_policys_path(key):
    cfg = config(num_samples=4096, num_policy_samples=4096, num_elites=1, iterations=1)
    returns = plan(key, world=World(goal=np.zeros(1)), model=Count, cfg=cfg).returns
    # 0.9 u_1 + 0.9^3 u_3 of two independent N(0, 1): variance 0.81 + 0.53.
    assert np.var(returns) == pytest.approx(0.9**2 + 0.9**6, rel=0.1)


def test_starts_from_the_given_plan(key):
    """Too narrow a search to find the goal from afar stays near where it starts."""
    cfg = config(min_std=0.01, max_std=0.01, num_policy_samples=0)
    start = np.array([[0.5, -0.5], [0.2, 0.1], [-0.3, 0.0]], np.float32)
    found = plan(key, plan_mean=start, cfg=cfg)
    np.testing.assert_allclose(found.plan_mean, start, atol=0.1)
    assert np.abs(found.plan_mean - start).max() > 0.0


def test_only_returns_in_units_of_their_scale_matter(key):
    plain = plan(key, explore=True)
    scaled = plan(key, world=World(step=1024.0), return_scale=1024.0, explore=True)
    np.testing.assert_allclose(plain.u, scaled.u, rtol=1e-5)
    np.testing.assert_allclose(plain.plan_mean, scaled.plan_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled.returns, 1024.0 * plain.returns, rtol=1e-5)


def test_a_batch_of_plans_equals_single_plans():
    keys = jax.random.split(jax.random.key(0), 3)
    z = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    mean = np.random.default_rng(1).normal(size=(3, 3, 2)).astype(np.float32)
    batch = plan(keys, z, mean, explore=True)
    for i in range(3):
        single = plan(keys[i], z[i], mean[i], explore=True)
        for a, b in zip(batch, single, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


def test_is_traced_once(key):
    traces = []

    class Counted(Move):
        def value(self, z, u, world):
            traces.append(z.shape)
            return super().value(z, u, world)

    cfg = config(iterations=5)
    first = plan(key, model=Counted, cfg=cfg)
    # The policy's samples and the others, whatever the number of iterations.
    assert sorted(set(traces)) == [(8, 2), (56, 2)]
    count = len(traces)
    second = plan(
        jax.random.key(1), np.ones(2, np.float32), np.ones((3, 2), np.float32), World(step=2.0),
        model=Counted, cfg=cfg, return_scale=2.0,
    )  # fmt: skip
    assert len(traces) == count <= 4
    assert np.any(first.u != second.u)


def test_golden_plan():
    """Fixed numbers of a fixed key: a change here changes every recorded run."""
    golden = json.loads(GOLDEN.read_text())
    found = plan(jax.random.key(42), np.array([0.1, 0.2], np.float32), explore=True)
    for name in ("u", "mean", "std", "plan_mean", "plan_std", "value"):
        np.testing.assert_allclose(getattr(found, name), golden[name], rtol=1e-3, atol=1e-4)
