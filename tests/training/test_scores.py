"""Tests of the references of normalised scores."""

import csv
import pathlib

import numpy as np
import pytest

from m3po_jax.envs import toy
from m3po_jax.envs.catalog import CATALOG
from m3po_jax.training import scores


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


def test_the_table_lists_tasks_and_their_scores_together():
    task = {"return_mean": 812.25, "return_std": 3.04, "length_mean": 250.0, "episodes": 16}
    first, second = {**task, "normalized": 0.81225}, {**task, "normalized": 0.5}
    assert scores.evaluation_table({"tasks": {"dmc/A": first, "dmc/Long": second}}) == (
        "task                return  std  length  episodes  normalized\n"
        "dmc/A                812.2  3.0   250.0        16       0.812\n"
        "dmc/Long             812.2  3.0   250.0        16       0.500\n"
        "mean                                                    0.656\n"
        "interquartile mean                                      0.656\n"
        "worst task                                              0.500"
    )


def test_the_table_has_a_column_for_success_where_a_task_defines_it():
    task = {"return_mean": 8.0, "return_std": 1.0, "length_mean": 9.0, "episodes": 4}
    goal = {**task, "success_rate": 0.25, "success_rate_last": 0.125, "normalized": 0.5}
    plain = {**task, "success_rate": None, "normalized": 0.5}
    assert scores.evaluation_table({"tasks": {"a": goal, "b": plain}}).splitlines()[:4] == [
        "task                return  std  length  episodes  success  at the end  normalized",
        "a                      8.0  1.0     9.0         4    0.250       0.125       0.500",
        "b                      8.0  1.0     9.0         4        -           -       0.500",
        "mean                                                 0.250       0.125       0.500",
    ]
    # Runs of earlier versions know one rule.
    del goal["success_rate_last"]
    header = scores.evaluation_table({"tasks": {"a": goal, "b": plain}}).splitlines()[0]
    assert "success" in header and "at the end" not in header
    assert "success" not in scores.evaluation_table({"tasks": {"b": plain}})


def test_the_table_shows_a_dash_where_no_score_is_known():
    task = {"return_mean": 1.0, "return_std": 0.0, "length_mean": 9.0, "episodes": 1}
    record = {"tasks": {"mine/A": {**task, "normalized": None}}}
    assert [line.split()[-1] for line in scores.evaluation_table(record).splitlines()[1:]] == [
        "-",
        "-",
    ]


def test_a_task_without_a_whole_episode_leaves_no_overall_score():
    task = {"return_mean": 500.0, "return_std": 0.0, "length_mean": 9.0, "episodes": 4}
    fine = {**task, "faults": 0, "normalized": 0.5}
    lost = {**dict.fromkeys(task), "episodes": 0, "faults": 4, "normalized": None}
    assert scores.overall({"dmc/A": fine, "x:Own": lost})["normalized_mean"] == 0.5
    overall = scores.overall({"dmc/A": fine, "dmc/B": lost})
    assert set(overall.values()) == {None}
    table = scores.evaluation_table({"tasks": {"dmc/A": fine, "dmc/B": lost}})
    assert "faults" in table.splitlines()[0] and table.splitlines()[3].split() == ["mean", "-"]
    assert "faults" not in scores.evaluation_table({"tasks": {"dmc/A": fine}})
