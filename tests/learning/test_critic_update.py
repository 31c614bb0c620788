"""Which rows of the fresh rollout continue the one before, by hand."""

import numpy as np

from m3po_jax.learning.values import continues
from m3po_jax.types import Trajectory


def column(*values):
    return np.array(values, np.float32)[:, None]


def trajectory(*, valid, termination=None, truncation=None):
    """One environment that pays 1 for each valid step; its faults are truncations."""
    zeros = np.zeros_like(valid)
    state, action = np.zeros((*valid.shape, 2), np.float32), np.zeros((*valid.shape, 1), np.float32)
    return Trajectory(
        observation=state,
        pre_tanh_action=action,
        reward=valid,
        termination=zeros if termination is None else termination,
        truncation=1.0 - valid if truncation is None else truncation,
        valid=valid,
        next_observation=state,
        task_id=np.zeros(valid.shape, np.int32),
        behaviour_mean=action,
        behaviour_std=action + 1.0,
    )


def test_the_next_row_counts_within_an_episode_and_without_a_fault():
    steps = trajectory(
        valid=column(1, 1, 1, 0, 1, 0),
        termination=column(1, 0, 0, 0, 0, 0),
        truncation=column(0, 0, 0, 1, 0, 1),
    )
    np.testing.assert_array_equal(continues(steps), column(0, 1, 0, 0, 0, 0))


def test_without_a_fault_only_the_end_of_an_episode_stops_a_return():
    truncation = column(0, 1, 0, 0)
    steps = trajectory(valid=np.ones((4, 1), np.float32), truncation=truncation)
    np.testing.assert_array_equal(continues(steps), 1.0 - truncation)
