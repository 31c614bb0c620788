"""Where the next plan starts."""

import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.planning import warm_start

pytestmark = pytest.mark.usefixtures("strict_numerics")


def test_shift_drops_the_executed_step():
    plan = jnp.arange(1.0, 7.0).reshape(3, 2)
    np.testing.assert_array_equal(warm_start.shift(plan), [[3, 4], [5, 6], [0, 0]])


def test_shift_keeps_leading_axes_apart():
    plans = jnp.arange(1.0, 25.0).reshape(2, 2, 3, 2)
    shifted = warm_start.shift(plans)
    assert shifted.shape == plans.shape
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(shifted[i, j], warm_start.shift(plans[i, j]))


def test_shift_of_one_step_starts_anew():
    np.testing.assert_array_equal(warm_start.shift(jnp.ones((4, 1, 2))), jnp.zeros((4, 1, 2)))


def test_plans_restart_where_the_episode_ended():
    plans = jnp.stack([jnp.full((3, 2), 1.0), jnp.full((3, 2), jnp.nan), jnp.full((3, 2), 3.0)])
    kept = warm_start.reset_where(plans, jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(kept[0], plans[0])
    np.testing.assert_array_equal(kept[1], jnp.zeros((3, 2)))
    np.testing.assert_array_equal(kept[2], plans[2])
