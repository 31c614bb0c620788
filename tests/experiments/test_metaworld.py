"""Meta-World's experts and speed: the tables, what the page says of them, and the script."""

import csv
import pathlib

import pytest

from experiments import metaworld_experts, runs
from m3po_jax.envs import catalog
from m3po_jax.envs.metaworld import environment, installed, library

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.fixture(scope="module")
def page():
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def test_experts_score_what_they_score_in_metaworld(page):
    rows = {row["task"]: row for row in runs.read_table(metaworld_experts.TABLE)}
    assert set(catalog.MT10) <= set(rows) <= set(catalog.MT50)
    for row in rows.values():
        for rule in ("any_step", "last_step"):
            assert abs(int(row[rule]) - int(row[f"own_{rule}"])) <= 1
        assert row["episodes"] == "20"
    rates = [
        sum(int(rows[name][rule]) for name in catalog.MT10) / 200
        for rule in ("any_step", "last_step")
    ]
    assert f"{rates[0]:.3f} of their episodes succeed at some step and {rates[1]:.2f} at" in page
    assert (rows["push-v3"]["any_step"], rows["push-v3"]["last_step"]) == ("20", "10")


def test_the_page_has_the_speeds_of_the_table(page):
    path = runs.RESULTS / "metaworld_speed.csv"
    reach, peg, *_ = csv.DictReader(path.open(encoding="utf-8"))
    assert reach["task"] == "reach-v3" and peg["task"] == "peg-insert-side-v3"
    few, many, own = (
        f"{int(reach[k]):,}" for k in ("steps_8_environments", "steps_32_environments", "own_steps")
    )
    assert f"{many} control steps per CPU second" in page
    assert f"({few} with 8; Meta-World's own Python {own})" in page
    assert f"{int(peg['steps_32_environments']):,} on `peg-insert-side-v3`" in page


def test_a_row_is_measured(monkeypatch):
    if (reason := installed.unavailable()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(library, "EPISODE_LENGTH", 40)
    monkeypatch.setattr(environment.MetaWorldEnvironment, "episode_length", 40)
    row = metaworld_experts.measure("reach-v3", 3)
    assert row["task"] == "reach-v3" and row["episodes"] == 3 and row["return"] > 0.0
    # Some goals are near enough to be reached in so few steps, others are not.
    assert 0 < row["last_step"] < 3
    assert row["any_step"] == row["own_any_step"] and row["last_step"] == row["own_last_step"]
