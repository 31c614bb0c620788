"""The pages that quote results quote the tables beside them."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest
from scipy import stats

from experiments import curves, runs

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {"README.md": 3, "docs/results.md": 20}


def _quotable():
    """Every estimate with its interval in the summaries, as score and as return."""
    for path in (ROOT / "experiments" / "results").glob("*_summary.csv"):
        for row in csv.DictReader(path.open(encoding="utf-8")):
            for name in row:
                values = [row.get(f"{name}{end}") for end in ("", "_low", "_high")]
                if all(values):
                    numbers = [float(value) for value in values]
                    yield "{:.3f} ({:.3f} to {:.3f})".format(*numbers)
                    yield "{:.0f} ({:.0f} to {:.0f})".format(*numbers)
                    yield "{:.0f} ({:.0f} to {:.0f})".format(*(1000 * n for n in numbers))
    one, many = (_final("parallelism", setting, "m3po") for setting in ("1", "256"))
    yield "{:.3f} ({:.3f} to {:.3f})".format(*curves.difference(one, many))


def _curve(experiment, setting, agent):
    """Scores `[seeds, tasks]` by env steps."""
    return curves.curves(runs.read_table(runs.RESULTS / f"{experiment}.csv"), setting)[agent]


def _final(experiment, setting, agent):
    curve = _curve(experiment, setting, agent)
    return curve[max(curve)]


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_estimates_with_intervals_are_those_of_the_summaries(page, least):
    text = (ROOT / page).read_text(encoding="utf-8").replace("**", "")
    quoted = set(re.findall(r"-?[\d.]+ \(-?[\d.]+ to -?[\d.]+\)", text))
    assert len(quoted) >= least
    assert quoted <= set(_quotable())


def test_the_tables_of_the_readme_stand_on_the_page():
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    rows = re.findall(r"^\|.*$", readme.split("<!-- results: ")[1], re.MULTILINE)
    assert len(rows) >= 5
    assert set(rows) <= set(page.splitlines())


@pytest.mark.parametrize("page", PAGES)
def test_files_and_figures_of_results_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"experiments/results/\w+\.(?:csv|json)", text))
    drawn = set(re.findall(r"!\[[^\]]+\]\(([^):]+)\)", text))
    assert named and drawn
    assert all((ROOT / name).exists() for name in named)
    assert all(((ROOT / page).parent / name).exists() for name in drawn)


def test_the_pages_of_the_site_link_nowhere_into_the_clone():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert not re.findall(r"\]\((?!https?:|figures/|#)", text)


def page_text():
    """The results page in one line, without emphasis."""
    return " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())


def test_the_summaries_are_those_of_their_tables():
    for name in ("sample_efficiency", "parallelism", "ablation", "distractors"):
        lines = curves.summary(runs.read_table(runs.RESULTS / f"{name}.csv"))
        assert lines == runs.read_table(runs.RESULTS / f"{name}_summary.csv")


def test_the_mean_over_the_run_falls_with_more_environments():
    found = [_curve("parallelism", setting, "m3po") for setting in ("1", "8", "64", "256")]
    means = [f"{np.mean(list(curve.values())):.3f}" for curve in found]
    assert f"| M3PO, mean over the four evaluations | {' | '.join(means)} |" in page_text()
    assert f"the mean over the run falls from {means[0]} to {means[-1]}" in page_text()


def test_the_spread_of_the_seeds_is_that_of_the_tables():
    found = {
        agent: _final("sample_efficiency", "five", agent) for agent in ("m3po", "tdmpc2", "ppo")
    }
    for scores, label in zip(
        found.values(), ("M3PO", "TD-MPC2 in the same loop", "PPO in the same loop"), strict=True
    ):
        spread = [f"{1000 * value:.0f}" for value in scores.std(axis=0, ddof=1)]
        seeds = ", ".join(f"{value:.3f}" for value in scores.mean(axis=1))
        assert f"| {label} | {' | '.join(spread)} | {seeds} |" in page_text()
    held, free = (
        _final("ablation", "classic", agent).mean(axis=1)
        for agent in ("m3po", "m3po_no_trust_region")
    )
    assert "{:.3f}, {:.3f} and {:.3f} with it".format(*held) in page_text()
    assert "{:.3f}, {:.3f} and {:.3f} without".format(*free) in page_text()
    p = 2 * stats.f.cdf(held.var(ddof=1) / free.var(ddof=1), 2, 2)
    assert f"p = {p:.2f}" in page_text()
    # The claim that it makes seeds end closer together does not hold on five tasks.
    assert found["m3po"].mean(axis=1).std() > found["tdmpc2"].mean(axis=1).std()


def test_the_ablation_is_named_as_what_it_is():
    rows = runs.read_table(runs.RESULTS / "ablation.csv")
    (ratio,) = {float(r["updates_per_transition"]) for r in rows if r["setting"] == "classic"}
    assert ratio == 0.5 and "but half an update per transition" in page_text()


def test_the_numbers_of_tuning_runs_are_those_of_the_tables():
    measured = {"env_steps", "env_steps_per_task", "task", "return_mean", "return_std", "episodes"}
    measured |= {"date", "planner_return", "prior_return", "evaluation", "normalized_mean"}
    counts = {"M3PO": 0, "TD-MPC2": 0, "PPO": 0}
    for name in ("value_targets", "step_sizes", "cartpole_swingup"):
        rows = runs.read_table(runs.RESULTS / f"defaults_{name}.csv")
        # a run of several tasks has a row for each; the others name their one task
        keys = [
            k
            for k in rows[0]
            if k not in measured - ({"task"} if "run_tasks" not in rows[0] else set())
        ]
        for run in {tuple(row[key] for key in keys) for row in rows}:
            counts["TD-MPC2" if "pathwise, no trust region" in run else "M3PO"] += 1
    rows = runs.read_table(runs.RESULTS / "ppo_sweep.csv")
    counts["PPO"] = len({(r["learning_rate"], r["entropy_scale"], r["seed"]) for r in rows})
    said = re.search(
        r"chosen with (\d+) runs .*? of TD-MPC2 with (\d+) runs and those of PPO with (\d+)",
        page_text(),
    )
    assert [int(number) for number in said.groups()] == list(counts.values())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "with {} tuning runs on these tasks".format(counts["M3PO"]) in readme
    assert "TD-MPC2 had {} such runs and PPO {}".format(counts["TD-MPC2"], counts["PPO"]) in readme


def test_the_demonstration_is_that_of_its_table():
    record = json.loads((runs.RESULTS / "classic.json").read_text())
    labels = {
        "random": "random actions",
        "planner": "**M3PO, planner**",
        "prior": "M3PO, policy alone",
    }
    for policy, label in labels.items():
        *returns, mean = record["final"][f"{policy}_16_episodes"].values()
        row = [f"{value:.0f}" for value in returns] + [f"{mean:.3f}"]
        if policy == "planner":
            row = [f"**{cell}**" for cell in row]
        assert f"| {label} | {' | '.join(row)} |" in page_text()
    assert f"commit {record['commit'][:7]}" in page_text()
