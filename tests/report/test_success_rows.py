"""Success in the table of final scores: both rules, and their means over tasks."""

import pathlib

from m3po_jax.report.runs import Group, RecordedRun
from m3po_jax.report.sections import learning_curves

TASKS = ("mine/A", "mine/B", "mine/C")


def _run(seed, shares):
    """A run whose tasks have these shares of success by both rules; None is no goal."""
    tasks = {
        name: {
            "return_mean": 1.0,
            "episodes": 4,
            "success_rate": any_step,
            "success_rate_last": last,
            "normalized": None,
        }
        for name, (any_step, last) in zip(TASKS, shares, strict=True)
    }
    record = {"env_steps": 10, "policy": "planner", "tasks": tasks}
    record |= {"success_mean": 0.625, "success_mean_last": 0.25}
    config = {"seed": seed, "tasks": TASKS}
    return RecordedRun(pathlib.Path(), "r", config, {}, None, [], [record], [], {})


def test_tasks_with_a_goal_have_rows_by_both_rules_and_their_mean():
    run = _run(0, [(1.0, 0.5), (0.25, 0.0), (None, None)])
    (group,) = [Group("g", (run,))]
    table, _ = learning_curves([group]).tables
    rows = {name: value for name, value in table.rows if "goal" in name or "last step" in name}
    assert rows == {
        "mine/A, share of episodes that met the goal": "1.00",
        "mine/B, share of episodes that met the goal": "0.25",
        "mean over tasks, share of episodes that met the goal": "0.62",
        "mine/A, share of episodes that met it in the last step": "0.50",
        "mine/B, share of episodes that met it in the last step": "0.00",
        "mean over tasks, share of episodes that met it in the last step": "0.25",
    }
