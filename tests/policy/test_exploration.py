"""The value-discrepancy bonus and its schedule, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import ConfigError, ExplorationConfig
from m3po_jax.ops.statistics import RunningMoments
from m3po_jax.policy import exploration

DISCREPANCY = ExplorationConfig(bonus="discrepancy", max_bonus=2.0)
POME = ExplorationConfig(bonus="pome", max_bonus=2.0)


def floats(*values):
    return np.array(values, np.float32)


def moments(mean, std):
    variance = np.square(np.array(std, np.float32))
    return RunningMoments(mean=floats(*mean), variance=variance, weight=np.ones(len(mean)))


TASK_ID = np.array([0, 0, 0, 1, 1])
MOMENTS = moments(mean=(1.0, 10.0), std=(0.5, 5.0))
bonus = jax.jit(exploration.discrepancy_bonus, static_argnames="cfg")


def test_discrepancy_by_hand():
    q_mf = floats(1.0, 2.0, -5.0, 12.0, 3.0)
    q_mb = floats(2.5, 2.0, 5.0, 0.0, 0.0)
    actual = bonus(q_mf, q_mb, np.zeros(5, np.float32), TASK_ID, MOMENTS, cfg=DISCREPANCY)
    # Task 0, N(1, 0.5): |delta| = 1.5 is 1 deviation over the mean; 0 is under it: 0;
    # 10 is 18 over it: clipped to 2. Task 1, N(10, 5): 12 is 0.4 over; 3 is under.
    np.testing.assert_allclose(actual, [1.0, 0.0, 2.0, 0.4, 0.0], rtol=1e-4)


@pytest.mark.parametrize("max_bonus", [0.5, 3.0])
def test_bonus_is_clipped_at_its_maximum(max_bonus):
    for cfg in (DISCREPANCY, POME):
        cfg = dataclasses.replace(cfg, max_bonus=max_bonus)
        q_mf = floats(1e4, 0.0, 0.0)
        value = floats(-1e4, 1.0, 1.0)
        actual = bonus(q_mf, np.zeros(3, np.float32), value, TASK_ID[:3], MOMENTS, cfg=cfg)
        assert actual[0] == max_bonus
        assert np.all(np.abs(np.asarray(actual)[1:]) < max_bonus)


def test_the_sign_of_the_disagreement_does_not_matter():
    a, b = floats(3.0, 1.0, 0.0, 20.0, -20.0), floats(1.0, 2.0, 4.0, 2.0, 5.0)
    for cfg in (DISCREPANCY, POME):
        one = bonus(a, b, a + 1.0, TASK_ID, MOMENTS, cfg=cfg)
        other = bonus(b, a, b + 1.0, TASK_ID, MOMENTS, cfg=cfg)
        np.testing.assert_array_equal(one, other)
        assert np.any(np.asarray(one) != 0.0)


@pytest.mark.parametrize("statistics", [MOMENTS, moments((0.0, 0.0), (0.0, 0.0))])
@pytest.mark.parametrize("cfg", [DISCREPANCY, POME], ids=lambda cfg: cfg.bonus)
def test_no_bonus_where_nothing_disagrees(cfg, statistics):
    q = floats(1.0, -2.0, 3.0, 100.0, 0.0)
    value = floats(0.0, 0.0, 9.0, 0.0, 0.0)
    actual = bonus(q, q, value, TASK_ID, statistics, cfg=cfg)
    np.testing.assert_array_equal(actual, np.zeros(5))


def test_pome_by_hand():
    q_mf = floats(1.0, 2.0, 4.0, 10.0, 30.0)
    q_mb = floats(0.0, 0.0, 0.0, 0.0, 0.0)
    value = floats(0.9, 2.0, 2.0, 0.0, 10.0)
    actual = bonus(q_mf, q_mb, value, TASK_ID, MOMENTS, cfg=POME)
    # Task 0: delta = 1, 2, 4 with median 2: -1, 0, 2, within |q_mf - V| = 0.1, 0, 2: -0.1, 0, 2;
    # over its deviation 0.5: -0.2, 0, 4, clipped to 2.
    # Task 1: delta = 10, 30 with median 20: -10, 10, within 10, 20; over 5: -2, 2.
    np.testing.assert_allclose(actual, [-0.2, 0.0, 2.0, -2.0, 2.0], rtol=1e-4, atol=1e-6)


def test_tasks_do_not_mix():
    q_mf, q_mb, value = floats(3.0, 1.0, 0.5, 4.0, 9.0), np.zeros(5, np.float32), floats(*[1.0] * 5)
    for cfg in (DISCREPANCY, POME):
        whole = bonus(q_mf, q_mb, value, TASK_ID, MOMENTS, cfg=cfg)
        louder = bonus(q_mf * floats(1, 1, 1, 50, 50), q_mb, value, TASK_ID, MOMENTS, cfg=cfg)
        np.testing.assert_array_equal(whole[:3], louder[:3])
        assert np.any(np.asarray(whole)[3:] != np.asarray(louder)[3:])


def test_pome_of_a_task_without_samples_is_finite():
    only_first = np.zeros(5, np.int32)
    q_mf, zero = floats(3.0, 1.0, 0.5, 4.0, 9.0), np.zeros(5, np.float32)
    assert np.all(np.isfinite(bonus(q_mf, zero, zero, only_first, MOMENTS, cfg=POME)))


def test_the_median_is_that_of_valid_transitions():
    q_mf, zero = floats(1.0, 2.0, 4.0, 90.0, 95.0), np.zeros(5, np.float32)
    one_task, value = np.zeros(5, np.int32), floats(9.0, 9.0, 9.0, 9.0, 9.0)
    valid = floats(1.0, 1.0, 1.0, 0.0, 0.0)
    actual = bonus(q_mf, zero, value, one_task, MOMENTS, cfg=POME, valid=valid)
    alone = bonus(q_mf[:3], zero[:3], value[:3], one_task[:3], MOMENTS, cfg=POME)
    # Median 2, and not 4: -1, 0, 2 over the deviation 0.5, clipped to 2.
    np.testing.assert_allclose(actual[:3], [-2.0, 0.0, 2.0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(actual[:3], alone)


@pytest.mark.parametrize("word", ["Discrepancy", "none"])
def test_a_bonus_of_another_name_is_refused(word):
    zero, cfg = np.zeros(5, np.float32), ExplorationConfig(bonus=word)
    with pytest.raises(
        ConfigError, match=rf"exploration.bonus = '{word}' is not a choice; .*discrep"
    ):
        exploration.discrepancy_bonus(zero, zero, zero, TASK_ID, MOMENTS, cfg=cfg)


@pytest.mark.parametrize(
    ("progress", "beta"), [(0.0, 0.1), (0.25, 0.08), (1.0, 0.02), (-1.0, 0.1), (7.0, 0.02)]
)
def test_weight_falls_linearly_between_its_ends(progress, beta):
    actual = exploration.exploration_weight(progress, start=0.1, end=0.02)
    assert actual == pytest.approx(beta, rel=1e-6)


def test_weight_ends_at_exactly_zero():
    assert exploration.exploration_weight(jnp.float32(1.0), start=0.5, end=0.0) == 0.0
