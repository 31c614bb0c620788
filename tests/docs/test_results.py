"""The pages that quote results quote the tables beside them."""

import csv
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {"README.md": 10, "docs/results.md": 20}


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


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_estimates_with_intervals_are_those_of_the_summaries(page, least):
    text = (ROOT / page).read_text(encoding="utf-8").replace("**", "")
    quoted = set(re.findall(r"-?[\d.]+ \(-?[\d.]+ to -?[\d.]+\)", text))
    assert len(quoted) >= least
    assert quoted <= set(_quotable())


def test_the_tables_of_the_readme_stand_on_the_page():
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    rows = re.findall(r"^\|.*$", readme.split("<!-- results: ")[1], re.MULTILINE)
    assert len(rows) >= 10
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
