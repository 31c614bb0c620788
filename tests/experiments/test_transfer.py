"""The table and summary of the transfer experiment, against numbers worked out by hand."""

import pytest

from experiments import curves, transfer
from tests.experiments.tables import row

# Scores of seeds 0 and 1 by env steps; the last task of a set is repeated for the pretrained agent.
FINETUNED = {0: (0.2, 0.4), 100: (0.4, 0.6), 200: (0.8, 0.9), 300: (0.85, 0.95)}
SCRATCH = {100: (0.0, 0.2), 200: (0.5, 0.5), 300: (0.6, 0.8)}


def rows(agent, setting, curve, task):
    return [
        row(agent, seed, step, task, score, setting)
        for step, values in curve.items()
        for seed, score in enumerate(values)
    ]


def table(finetuned=FINETUNED, scratch=SCRATCH):
    task = transfer.HELD_OUT["reacher"]
    return [
        *rows("pretrained", "reacher", {100: (0.5, 0.7)}, "dmc/PointMass"),
        *rows("pretrained", "reacher", {100: (0.1, 0.3)}, "dmc/CartpoleBalance"),
        *rows("finetuned", "reacher", finetuned, task),
        *rows("scratch", "reacher", scratch, task),
        *rows("scratch", "swingup", scratch, transfer.HELD_OUT["swingup"]),
    ]


def test_every_held_out_task_is_learned_from_an_agent_that_never_saw_it():
    # Partial results are useful: all tasks of the first seed come first.
    assert [run.seed for run in transfer.RUNS] == sorted(run.seed for run in transfer.RUNS)
    finetuned = [run for run in transfer.RUNS if run.start is not None]
    assert len(finetuned) == 12
    for run in finetuned:
        (task,) = run.tasks
        assert task not in run.start.tasks and len(run.start.tasks) == 4
        assert run.seed == run.start.seed
        scratch = next(r for r in transfer.RUNS if (r.curve, *key(r)) == ("scratch", *key(run)))
        assert (scratch.tasks, scratch.overrides) == (run.tasks, run.overrides)


def key(run):
    return run.setting, run.seed


def test_summary_by_hand():
    random = [{"task": "dmc/ReacherEasy?action_repeat=4", "return_mean": "51.25"}]
    (line,) = transfer.summary(table(), random)  # the swing-up is not finetuned yet
    assert line["held_out"] == "dmc/ReacherEasy"
    assert (line["seeds_finetuned"], line["seeds_scratch"], line["env_steps"]) == ("2", "2", "300")
    assert (line["pretrained"], line["random"], line["zero_shot"]) == ("400.0", "51.2", "300.0")
    assert (line["finetuned"], line["scratch"], line["minus"]) == ("900.0", "700.0", "200.0")
    # Variances of the means 0.0025 and 0.01; Welch: 1.471 degrees of freedom, t = 6.188.
    assert (line["minus_low"], line["minus_high"]) == ("-491.9", "891.9")
    # Means over 100 to 300, not 0: (2.05, 2.45) / 3 and (1.1, 1.5) / 3.
    assert line["mean_minus"] == "316.7"
    # Variance of either mean (0.4 / 3)^2 / 4, so 2 degrees of freedom and t = 4.3027.
    assert (line["mean_minus_low"], line["mean_minus_high"]) == ("-89.0", "722.3")
    assert (line["finetuned_steps_to_50"], line["scratch_steps_to_50"]) == ("100", "200")
    assert (line["finetuned_steps_to_80"], line["scratch_steps_to_80"]) == ("200", "never")
    assert (line["ratio_50"], line["ratio_80"]) == ("2.00", ">1.50")


def test_a_single_seed_has_no_interval():
    first = [row for row in table() if row["seed"] == "0"]
    (line,) = transfer.summary(first)
    assert line["minus"] == "250.0" and line["minus_low"] == line["minus_high"] == ""
    assert line["random"] == ""


@pytest.mark.parametrize(
    ("finetuned", "scratch", "expected"),
    [
        (100, 250, "2.50"),
        (250, 100, "0.40"),
        (0, 100, "inf"),
        (0, None, "inf"),
        (100, None, ">3.00"),
        (None, 150, "<0.50"),
        (None, None, ""),
    ],
)
def test_ratio_is_a_bound_where_one_never_arrives(finetuned, scratch, expected):
    assert transfer.ratio(finetuned, scratch, 300) == expected


def test_the_figure_has_a_panel_for_each_task(tmp_path):
    titles = {"reacher": "ReacherEasy", "swingup": "CartpoleSwingup"}
    curves.draw(table(), titles, tmp_path / "figure.png", labels=transfer.LABELS)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
