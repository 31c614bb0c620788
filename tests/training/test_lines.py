"""Tests of what is shown of tasks: a line each, one for a family."""

import numpy as np

from m3po_jax.training import lines, scores
from m3po_jax.types import TaskSpec


def spec(name, family=""):
    return TaskSpec(name, 2, 1, 10, 1, 0.9, False, family=family)


SPECS = (spec("f#1", "f"), spec("toy/a"), spec("f#2", "f"), spec("f#3", "f"))


def test_a_family_has_a_mean_and_a_spread_of_what_is_known():
    values = np.array([1.0, 7.0, np.nan, 3.0])
    assert lines.columns("rollout/episode_return", values, SPECS) == {
        "rollout/episode_return/f": 2.0,
        "rollout/episode_return_spread/f": 1.0,
        "rollout/episode_return/toy/a": 7.0,
    }
    assert lines.columns("rollout/episodes", np.array([1.0, 2.0, 0.0, 3.0]), SPECS) == {
        "rollout/episodes/f": 4.0,
        "rollout/episodes/toy/a": 2.0,
    }
    unknown = lines.columns("rollout/episode_return", np.full(4, np.nan), SPECS)
    assert len(unknown) == 3 and all(np.isnan(list(unknown.values())))


def test_lines_can_have_other_names_or_none():
    shown = lines.lines(SPECS, lambda spec: spec.family or None)
    assert {name: tasks.tolist() for name, tasks in shown.items()} == {"f": [0, 2, 3]}
    values = np.array([[1.0, 9.0, 2.0, 6.0]] * 2)
    np.testing.assert_array_equal(lines.means(values, shown), [[3.0], [3.0]])


def test_the_table_shows_the_spread_where_there_is_a_family():
    record = {
        **{"return_mean": 5.0, "return_std": 2.0, "length_mean": 10.0, "episodes": 3},
        **{"success_rate": None, "success_rate_last": None, "normalized": None},
    }
    tasks = {"f": {**record, "return_spread": 1.5}, "toy/a": record}
    table = scores.evaluation_table({"tasks": tasks})
    assert table.splitlines()[0].split() == [
        *("task", "return", "std", "spread", "length", "episodes", "normalized")
    ]
    assert table.splitlines()[1].split() == ["f", "5.0", "2.0", "1.5", "10.0", "3", "-"]
    assert (
        scores.returns_text(tasks)
        == "f 5.0 (std 2.0, 3 episodes, spread 1.5), toy/a 5.0 (std 2.0, 3 episodes)"
    )
    assert "spread" not in scores.evaluation_table({"tasks": {"toy/a": record}})
