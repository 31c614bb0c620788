"""The arena's summaries, against numbers worked out by hand."""

import pytest

from experiments import arena
from tests.experiments.tables import row


def rows_of(agent, seed, setting, *scores, finished="yes"):
    """Evaluations at 10, 30 and 50 thousand steps."""
    return [
        {**row(agent, seed, step, "x", score, setting), "finished": finished}
        for step, score in zip((10_000, 30_000, 50_000), scores, strict=True)
    ]


ROWS = [
    *rows_of("m3po", 0, "FingerSpin", 0.1, 0.5, 0.9),
    *rows_of("m3po", 1, "FingerSpin", 0.3, 0.7, 0.9),
    *rows_of("m3po", 0, "WalkerWalk", 0.0, 0.2, 0.4),
    *rows_of("m3po", 1, "WalkerWalk", 0.0, 0.2, 0.4, finished="no"),
    *rows_of("tdmpc2", 0, "FingerSpin", 0.0, 0.2, 0.8),
    *rows_of("tdmpc2", 1, "FingerSpin", 0.0, 0.4, 0.8),
]


def test_scores_are_interpolated_and_of_whole_seeds():
    found = arena.scores(ROWS, ["FingerSpin"])
    assert found["m3po"][20_000].tolist() == [[pytest.approx(0.3)], [pytest.approx(0.5)]]
    assert found["tdmpc2"][43_000].tolist() == [[pytest.approx(0.59)], [pytest.approx(0.66)]]
    both = arena.scores(ROWS, ["FingerSpin", "WalkerWalk"])
    assert list(both) == ["m3po"]
    assert both["m3po"][50_000].tolist() == [[0.9, 0.4]]


def test_a_line_says_mean_and_lead():
    lines = arena.lines_of("FingerSpin", arena.scores(ROWS, ["FingerSpin"]))
    (ours,) = [x for x in lines if x["agent"] == "m3po" and x["env_steps"] == "30000"]
    (theirs,) = [x for x in lines if x["agent"] == "tdmpc2" and x["env_steps"] == "30000"]
    assert (ours["mean"], ours["seeds"], ours["m3po_minus"]) == ("0.600", "2", "")
    assert (theirs["mean"], theirs["m3po_minus"]) == ("0.300", "0.300")
    assert float(theirs["minus_low"]) < 0.3 < float(theirs["minus_high"])


def test_the_ratio_of_steps_is_read_off_interpolated_means():
    # 95 % of 0.8 is 0.76: TD-MPC2's mean, 0.3 at 30 and 0.8 at 50 thousand, has it at 48,400,
    # and M3PO's, 0.6 and 0.9, at 40,667.
    ratios = arena.steps_ratios(ROWS)
    assert ratios == {"FingerSpin": pytest.approx(48_400 / 40_666.7, rel=1e-4)}


def test_every_run_has_a_task_of_its_own_and_published_agents_have_all_tasks():
    assert len(arena.RUNS) == len({run.name for run in arena.RUNS}) == 5 * 2 * 12
    lines = {(x["agent"], x["env_steps"]): x for x in arena.published(list(arena.TASKS))}
    # The means of the curves that the projects publish.
    assert lines["BRO UTD10 (published)", "50000"]["mean"] == "0.700"
    assert lines["BRO UTD10 (published)", "25000"]["mean"] == "0.503"
    assert lines["TD-MPC2 (published)", "100000"]["mean"] == "0.627"
