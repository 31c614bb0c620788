"""The value-discrepancy bonus and its schedule, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import ConfigError, ExplorationConfig
from m3po_jax.ops.statistics import RunningMoments
from m3po_jax.policy import exploration

CONFIG = ExplorationConfig(max_bonus=2.0)


def floats(*values):
    return np.array(values, np.float32)


def moments(mean, std):
    variance = np.square(np.array(std, np.float32))
    return RunningMoments(mean=floats(*mean), variance=variance, weight=np.ones(len(mean)))


TASK_ID = np.array([0, 0, 0, 1, 1])
MOMENTS = moments(mean=(1.0, 10.0), std=(0.5, 5.0))
bonus = jax.jit(exploration.discrepancy_bonus, static_argnames="config")


def test_bonus_by_hand():
    q_mf = floats(1.0, 2.0, -5.0, 12.0, 3.0)
    q_mb = floats(2.5, 2.0, 5.0, 0.0, 0.0)
    actual = bonus(q_mf, q_mb, TASK_ID, MOMENTS, config=CONFIG)
    # Task 0, N(1, 0.5): |delta| = 1.5 is 1 deviation over the mean; 0 is under it: 0;
    # 10 is 18 over it: clipped to 2. Task 1, N(10, 5): 12 is 0.4 over; 3 is under.
    np.testing.assert_allclose(actual, [1.0, 0.0, 2.0, 0.4, 0.0], rtol=1e-4)


@pytest.mark.parametrize("max_bonus", [0.5, 3.0])
def test_bonus_is_clipped_at_its_maximum(max_bonus):
    config = ExplorationConfig(max_bonus=max_bonus)
    zeros = np.zeros(3, np.float32)
    actual = bonus(floats(1e4, 0.0, 1.1), zeros, TASK_ID[:3], MOMENTS, config=config)
    np.testing.assert_allclose(actual, [max_bonus, 0.0, 0.2], rtol=1e-4)


def test_the_sign_of_the_disagreement_does_not_matter():
    a, b = floats(3.0, 1.0, 0.0, 20.0, -20.0), floats(1.0, 2.0, 4.0, 2.0, 5.0)
    one, other = (bonus(*pair, TASK_ID, MOMENTS, config=CONFIG) for pair in ((a, b), (b, a)))
    np.testing.assert_array_equal(one, other)
    assert np.any(np.asarray(one) != 0.0)


@pytest.mark.parametrize("statistics", [MOMENTS, moments((0.0, 0.0), (0.0, 0.0))])
def test_no_bonus_where_nothing_disagrees(statistics):
    q = floats(1.0, -2.0, 3.0, 100.0, 0.0)
    np.testing.assert_array_equal(bonus(q, q, TASK_ID, statistics, config=CONFIG), np.zeros(5))


def test_tasks_do_not_mix():
    q_mf, q_mb = floats(3.0, 1.0, 0.5, 4.0, 9.0), np.zeros(5, np.float32)
    whole = bonus(q_mf, q_mb, TASK_ID, MOMENTS, config=CONFIG)
    louder = bonus(q_mf * floats(1, 1, 1, 50, 50), q_mb, TASK_ID, MOMENTS, config=CONFIG)
    np.testing.assert_array_equal(whole[:3], louder[:3])
    assert np.any(np.asarray(whole)[3:] != np.asarray(louder)[3:])


def test_a_size_that_is_not_one_is_refused():
    zero, config = np.zeros(5, np.float32), ExplorationConfig(max_bonus=-1.0)
    with pytest.raises(ConfigError, match=r"exploration.max_bonus = -1.0 must be above 0"):
        exploration.discrepancy_bonus(zero, zero, TASK_ID, MOMENTS, config=config)


@pytest.mark.parametrize(
    ("progress", "beta"), [(0.0, 0.1), (0.25, 0.08), (1.0, 0.02), (-1.0, 0.1), (7.0, 0.02)]
)
def test_weight_falls_linearly_between_its_ends(progress, beta):
    actual = exploration.exploration_weight(progress, start=0.1, end=0.02)
    assert actual == pytest.approx(beta, rel=1e-6)


def test_weight_ends_at_exactly_zero():
    assert exploration.exploration_weight(jnp.float32(1.0), start=0.5, end=0.0) == 0.0
