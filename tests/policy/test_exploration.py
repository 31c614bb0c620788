"""Disagreement, the bonus made of it, and its weight, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import statistics
from m3po_jax.policy import exploration


def reward_range(*samples):
    """The range of one task's rewards."""
    x = jnp.array(samples)
    state = statistics.init_running_range(1)
    return statistics.update_running_range(
        state, x, jnp.zeros(len(samples), int), jnp.ones(len(samples))
    )


def test_disagreement_by_hand():
    # Feature 0: 1, 3 around 2, variance 1; feature 1: 2, 2, variance 0; root of their mean.
    guesses = jnp.array([[[1.0, 2.0]], [[3.0, 2.0]]])
    np.testing.assert_allclose(exploration.disagreement(guesses), [np.sqrt(0.5)], rtol=1e-6)


def test_guesses_that_are_alike_disagree_about_nothing():
    assert exploration.disagreement(jnp.ones((5, 3, 4))).tolist() == [0.0] * 3


def test_novelty_bonus_by_hand():
    bonus = exploration.novelty_bonus(
        jnp.array([0.0, 0.1, 0.3, 2.0]), jnp.array(0.2), max_bonus=5.0
    )
    np.testing.assert_allclose(bonus, [0.0, 0.5, 1.5, 5.0], rtol=1e-4)


def test_where_networks_always_agreed_the_bonus_is_finite():
    bonus = exploration.novelty_bonus(jnp.array([0.0, 1.0]), jnp.array(0.0), max_bonus=5.0)
    assert bonus.tolist() == [0.0, 5.0]


@pytest.mark.parametrize(
    ("recent", "weight"),
    [
        (-1.0, 0.4),  # as bad as it was ever seen
        (1.0, 0.2),  # half-way
        (3.0, 0.0),  # mastered
        (3.5, 0.0),
        (-2.0, 0.4),
    ],
)
def test_novelty_weight_by_hand(recent, weight):
    actual, known = exploration.novelty_weight(
        reward_range(0.0, -1.0, 3.0), jnp.array([recent]), scale=0.1
    )
    assert known.tolist() == [True]
    np.testing.assert_allclose(actual, [weight], atol=1e-6)


@pytest.mark.parametrize("samples", [(0.0, 0.0), (2.5, 2.5, 2.5)])
def test_equal_rewards_tell_nothing(samples):
    _, known = exploration.novelty_weight(
        reward_range(*samples), jnp.array([samples[0]]), scale=0.1
    )
    assert known.tolist() == [False]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("shift", [0.0, -7.0])
def test_the_weight_is_in_units_of_the_rewards_whatever_they_are(factor, shift):
    """Scores (G + w X) / max(s, w) stay as they are: G, s and w scale alike."""
    rewards = np.array([0.0, 0.5, 2.0])
    weight, _ = exploration.novelty_weight(
        reward_range(*(factor * (rewards + shift))),
        jnp.array([factor * (0.75 + shift)]),
        scale=0.1,
    )
    np.testing.assert_allclose(weight / factor, [0.125], rtol=1e-3)


def test_expectile_weight_makes_the_loss_prefer_the_better_outcome():
    weights = exploration.expectile_weight(
        jnp.array([2.0, 0.0, 1.0]), jnp.array([1.0, 1.0, 1.0]), expectile=0.9
    )
    np.testing.assert_allclose(weights, [0.9, 0.1, 0.1], rtol=1e-6)
