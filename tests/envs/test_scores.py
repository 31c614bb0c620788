"""Tests of the references of normalised scores."""

import csv
import pathlib

import numpy as np
import pytest

from m3po_jax.envs import scores, toy
from m3po_jax.envs.catalog import CATALOG


def _references(name):
    """Returns the returns of score 0 and 1, computed from the task."""
    environment = toy.make(name)
    length = environment.episode_length
    if name == "TerminatingPole":
        return 0.0, environment.optimal_return()
    if name == "LinearQuadratic":
        start = np.eye(3) * environment.start_range**2 / 3.0  # variance of a uniform start
        best = -np.trace(environment.riccati(length)[0] @ start)
        # Uniform actions have the variance 1/3 and keep the mean state at zero.
        covariance, low = start, 0.0
        for _ in range(length):
            low -= np.trace(environment.state_cost @ covariance)
            low -= np.trace(environment.action_cost) / 3.0
            covariance = (
                environment.transition @ covariance @ environment.transition.T
                + environment.control @ environment.control.T / 3.0
            )
        return low, best
    axis = (np.arange(200) + 0.5) / 100.0 - 1.0
    starts = np.stack(np.meshgrid(axis, axis), axis=-1)
    return 0.0, environment.optimal_return(starts).mean()


@pytest.mark.parametrize("name", CATALOG["toy"])
def test_toy_references_are_what_the_tasks_give(name):
    low, high = _references(name)
    assert scores.normalized_score(f"toy/{name}", low) == pytest.approx(0.0, abs=0.01)
    assert scores.normalized_score(f"toy/{name}", high) == pytest.approx(1.0, abs=0.01)


def test_dmc_score_is_a_thousandth():
    assert scores.normalized_score("dmc/CartpoleSwingup", 250.0) == 0.25


def test_brax_scores_begin_at_the_measured_returns_of_random_actions():
    path = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "random_returns.csv"
    with path.open(newline="") as file:
        measured = {row["task"]: float(row["return_mean"]) for row in csv.DictReader(file)}
    scored = {f"brax/{name}" for name in CATALOG["brax"] if scores.references(f"brax/{name}")}
    assert len(scored) == 10 and scored <= set(measured)
    for task in scored:
        low, high = scores.references(task)
        assert low == pytest.approx(measured[task], abs=0.06)
        assert scores.normalized_score(task, high) == 1.0 and low < high


def test_tasks_without_references_have_no_score():
    assert scores.normalized_score("brax/fast", 250.0) is None


def test_many_tasks_are_summed_up_by_mean_interquartile_mean_and_the_worst():
    given = {"a": 0.9, "b": 0.0, "c": 0.4, "d": 0.5, "unknown": None}
    overall = scores.aggregate(given)
    assert overall["normalized_mean"] == pytest.approx(0.45)
    assert overall["normalized_iqm"] == pytest.approx(0.45)  # of 0.4 and 0.5
    assert overall["worst_task"] == "b"
    assert scores.aggregate({**given, "e": 5.0})["normalized_iqm"] == pytest.approx(0.6)
    assert set(scores.aggregate({"unknown": None}).values()) == {None}
