"""Statistics of experiments, against numbers worked out by hand."""

import numpy as np
import pytest

from experiments import curves
from tests.experiments.tables import row

ROWS = [
    row("a", seed, step, task, base + 0.1 * seed)
    for seed in (0, 1)
    for step, base in ((100, 0.2), (200, 0.6), (300, 0.8))
    for task in ("x", "y")
]


def test_curves_hold_seeds_by_tasks_at_steps_that_all_seeds_have():
    unfinished = [row("b", 0, 100, "x", 0.1), row("b", 1, 100, "x", 0.3), row("b", 0, 200, "x", 1)]
    found = curves.curves([*ROWS, *unfinished, row("c", 0, 1, "x", 1.0, "other")], "s")
    assert set(found) == {"a", "b"}
    np.testing.assert_allclose(found["a"][200], [[0.6, 0.6], [0.7, 0.7]])
    assert list(found["b"]) == [100]


def test_steps_to_is_the_first_evaluation_that_reaches_the_score():
    curve = curves.curves(ROWS, "s")["a"]  # means 0.25, 0.65, 0.85
    assert curves.steps_to(curve, 0.25) == 100
    assert curves.steps_to(curve, 0.5) == 200
    assert curves.steps_to(curve, 0.9) is None


def test_interval_encloses_the_mean_and_one_seed_has_none():
    scores = np.array([[0.0], [0.5], [1.0]])
    estimate, low, high = curves.interval(scores)
    # The standard error is 0.5 / sqrt(3), and t of 2 degrees of freedom is 4.3027.
    assert estimate == pytest.approx(0.5)
    assert (low, high) == pytest.approx((0.5 - 1.2421, 0.5 + 1.2421), abs=1e-4)
    assert curves.interval(np.ones((4, 2)))[1:] == (1.0, 1.0)
    assert np.all(np.isnan(curves.interval(np.ones((1, 2)))[1:]))


def test_tasks_of_one_run_are_not_independent_samples():
    # Twice the same task says no more than once; only the means of the seeds count.
    scores = np.array([[0.1], [0.5], [0.9]])
    assert curves.interval(np.repeat(scores, 5, axis=1)) == pytest.approx(curves.interval(scores))
    opposed = np.hstack([scores, 1.0 - scores])
    assert curves.interval(opposed) == pytest.approx((0.5, 0.5, 0.5))


def test_intervals_of_three_seeds_cover_the_mean_as_often_as_they_say():
    draws = np.random.RandomState(0).normal(size=(4000, 3, 1))
    intervals = np.array([curves.interval(scores) for scores in draws])
    covered = (intervals[:, 1] <= 0.0) & (intervals[:, 2] >= 0.0)
    assert 0.94 < covered.mean() < 0.96
    # What a percentile bootstrap of three seeds of one task comes to: their range.
    within = (draws.min(axis=1) <= 0.0) & (draws.max(axis=1) >= 0.0)
    assert 0.73 < within.mean() < 0.77


def test_difference_has_the_sign_of_a_minus_b():
    a, b = np.full((3, 2), 0.9), np.full((5, 2), 0.4)
    assert curves.difference(a, b) == pytest.approx((0.5, 0.5, 0.5))
    estimate, low, high = curves.difference(np.array([[0.0], [1.0]]), np.array([[0.5], [0.5]]))
    # The standard error is 0.5, all of it from `a`, and t of 1 degree of freedom is 12.706.
    assert estimate == 0.0 and (low, high) == pytest.approx((-6.3531, 6.3531), abs=1e-4)
    estimate, low, high = curves.difference(a, b[:1])
    assert estimate == pytest.approx(0.5) and np.isnan(low) and np.isnan(high)


def test_summary_compares_every_agent_with_m3po():
    scores = {"m3po": (0.3, 0.6, 0.9), "b": (0.1, 0.2, 0.5), "c": (0.1, 0.2, 0.95)}
    table = [
        row(agent, seed, step, "x", score)
        for agent, values in scores.items()
        for seed in (0, 1)
        for step, score in zip((100, 200, 300), values, strict=True)
    ]
    lines = {line["agent"]: line for line in curves.summary(table)}
    assert lines["m3po"]["m3po_minus"] == lines["m3po"]["steps_ratio"] == ""
    assert lines["b"]["m3po_minus"] == lines["b"]["m3po_minus_low"] == "0.400"
    assert lines["b"]["m3po_steps"] == "200" and lines["b"]["steps_ratio"] == "1.50"
    assert lines["c"]["m3po_minus_high"] == "-0.050"
    assert lines["c"]["m3po_steps"] == "never" and lines["c"]["steps_ratio"] == ""


def test_summary_and_figures_are_written(tmp_path):
    lines = curves.summary(ROWS)
    assert len(lines) == 1
    assert lines[0]["mean"] == "0.850" and lines[0]["steps_to_50_percent"] == "200"
    assert lines[0]["steps_to_80_percent"] == "300" and lines[0]["seeds"] == "2"
    curves.write_summary(lines, tmp_path / "summary.csv")
    assert (tmp_path / "summary.csv").read_text().startswith("setting,agent,seeds")
    curves.draw(ROWS, {"s": "title"}, tmp_path / "curve.png", labels={"a": "A", "missing": "B"})
    numbered = [{**r, "setting": n} for r in ROWS for n in ("1", "8")]
    curves.draw_final(numbered, {"a": "A"}, tmp_path / "final.png", label="environments")
    for name in ("curve.png", "final.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_column_that_a_line_lacks_is_empty_in_its_row(tmp_path):
    path = tmp_path / "summary.csv"
    curves.write_summary([{"a": "1"}, {"a": "2", "b": "3"}], path)
    assert path.read_text() == "a,b\n1,\n2,3\n"
