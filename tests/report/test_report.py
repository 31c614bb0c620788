"""The page as a browser would read it, and the files beside it."""

import csv
import html.parser
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from m3po_jax.config import PolicyConfig, UserError
from m3po_jax.report import curves, figures, runs, write
from m3po_jax.workdir import metrics
from tests.report.fake_runs import STEPS, evaluation, make_run

SECTIONS = (
    "learning_curves",
    "planner_and_prior",
    "trust_region",
    "exploration",
    "world_model",
    "health",
    "settings",
    "versions",
)
VOID = {"meta", "br", "hr", "img", "link", "input"}
TASK = "toy/PointReachA"


class Page(html.parser.HTMLParser):
    """Notes elements, attributes, and the cells of tables by caption."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.tables, self.cell = {}, None
        self.feed(text)
        assert self.open == [], "elements stay open"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.cell = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
        if tag == "caption":
            self.rows = self.tables.setdefault(self.cell, [])

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def table(self, start):
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(start)]
        return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two settings, one with three seeds; saved evaluations of all policies of one run."""
    folder = tmp_path_factory.mktemp("runs")
    made = [make_run(folder / f"m3po_s{seed}", seed=seed) for seed in range(3)]
    for policy, better in (("prior", -3.0), ("random", -20.0)):
        record = evaluation(0, STEPS[-1], policy, better=better, episodes=32)
        metrics.save_evaluation(made[0], record)
    policy = PolicyConfig(kl_target=0.02)
    made.append(make_run(folder / "<b>narrow & tight", seed=0, better=-5.0, policy=policy))
    path = write.write_report(made, folder / "out")
    return path, Page(path.read_text()), made


def test_all_sections_are_there_and_all_links_lead_somewhere(report):
    _, page, _ = report
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert set(SECTIONS) <= set(ids)
    links = [value for _, name, value in page.attributes if name == "href"]
    assert {f"#{key}" for key in SECTIONS} <= set(links)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    used = re.findall(r"url\(#([^)]+)\)", report[0].read_text())
    assert set(used) <= set(ids)


def test_nothing_comes_from_the_network(report):
    path, page, _ = report
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", path.read_text())
    assert not re.search(r"(https?:)?//\w", text)
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert not [value for _, name, value in page.attributes if name == "src"]
    assert "default-src 'none'" in text


def test_pictures_are_valid_and_told_in_words(report):
    path, _, _ = report
    pictures = re.findall(r"<figure>(<svg.*?</svg>)</figure>", path.read_text(), re.DOTALL)
    assert len(pictures) > 15
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        names = {child.tag.rpartition("}")[2]: child.text for child in root}
        assert root.get("role") == "img"
        assert len(names["title"]) > 3 and len(names["desc"]) > 40
        assert root.get("aria-labelledby").split()[0].endswith("-title")
        assert not root.get("width") and root.get("viewBox")
        assert "var(--series-0)" in picture


def test_names_are_text_and_never_markup(report):
    path, page, _ = report
    assert "<b>narrow" not in path.read_text()
    assert "b" not in page.tags
    assert "<b>narrow & tight" in page.table("Settings that differ")["setting"]


def test_numbers_are_those_of_the_evaluations(report):
    _, page, made = report
    finals = [
        json.loads((path / "eval.jsonl").read_text().splitlines()[-1])["tasks"] for path in made
    ]
    table = page.table("Last evaluation during training")
    for task in (TASK, "brax/swimmer"):
        values = [final[task]["return_mean"] for final in finals]
        several, one = table[task]
        assert several.startswith(f"{np.mean(values[:3]):.1f} [")
        low, high = (float(x) for x in several.partition("[")[2].rstrip("]").split(", "))
        assert (
            min(values[:3]) - 0.06 <= low <= np.mean(values[:3]) <= high <= max(values[:3]) + 0.06
        )
        assert one == f"{values[3]:.1f}"
    scores = [final[TASK]["normalized"] for final in finals]
    assert table["mean normalised score"][1] == f"{scores[3]:.3f}"
    assert table["mean normalised score"][0].startswith(f"{np.mean(scores[:3]):.3f} [")
    assert table["seeds"] == ["3", "1"]


def test_success_is_shown_where_a_task_defines_it(report):
    _, page, made = report
    table = page.table("Last evaluation during training")
    last = [json.loads((path / "eval.jsonl").read_text().splitlines()[-1]) for path in made]
    for rate, words in (("success_rate", "met the goal"), ("success_rate_last", "the last step")):
        rates = [record["tasks"]["brax/swimmer"][rate] for record in last]
        (row,) = (name for name in table if words in name)
        assert row.startswith("brax/swimmer,")
        assert table[row][0].startswith(f"{np.mean(rates[:3]):.2f} [")
        assert table[row][1] == f"{rates[3]:.2f}"


def test_policies_are_compared_at_their_newest_evaluation(report):
    _, page, made = report
    rows = page.table("Mean return over seeds")
    assert rows["task"] == [
        "m3po, planner",
        "m3po, prior",
        "m3po, random",
        "<b>narrow & tight, planner",
    ]
    saved = metrics.read_saved_evaluations(made[0])
    for column, record in zip((1, 2), saved, strict=True):
        assert rows[TASK][column] == f"{record['tasks'][TASK]['return_mean']:.1f}"


def test_spread_and_number_of_episodes_are_shown(report):
    _, page, made = report
    table = page.table("Episodes of each run")
    assert table["task"][0] == "m3po_s0, planner at 12,000"
    final = json.loads((made[0] / "eval.jsonl").read_text().splitlines()[-1])["tasks"][TASK]
    assert table[TASK][0] == f"{final['return_mean']:.1f} ± 1.0 (8)"
    assert len(table["task"]) == 4


def test_the_best_checkpoint_has_a_column_and_is_not_taken_for_the_newest(tmp_path):
    run = make_run(tmp_path / "a")
    for episodes, checkpoint in ((4, "newest"), (64, "best")):
        record = evaluation(0, STEPS[-1], better=float(episodes), episodes=episodes)
        metrics.save_evaluation(run, {**record, "checkpoint": checkpoint})
    page = Page(write.write_report([run]).read_text())
    header, cells = (page.table("Episodes of each run")[name] for name in ("task", TASK))
    assert header == ["a, planner at 12,000", "a, best checkpoint, planner at 12,000"]
    assert [cell.partition("(")[2] for cell in cells] == ["8)", "64)"]
    assert float(cells[1].split()[0]) > 64.0


def test_sizes_are_those_that_the_run_had(report, tmp_path):
    everything = report[1].table("All settings")
    assert everything["network.num_q"] == ["2", "2"]
    assert everything["network.embedding_size"] == ["16", "16"]
    assert everything["network.mlp_width"] == ["128", "128"]
    record = {"network.size": "12M", "network.num_q": 0, "tasks": ["a"]}
    assert runs._resolved(record) == record  # a size that only another version knows


def test_curves_over_steps_begin_at_zero():
    series = curves.point_series("a", {4000.0: [[1.0]], 8000.0: [[2.0]]})
    for label, begins in (("env steps", True), ("agent steps ahead", False)):
        _, (axes,) = figures._canvas(1, 1)
        figures._draw(figures.Panel("t", (figures.Line(series, 0),), label), axes)
        assert (axes.get_xlim()[0] == 0.0) == begins
        assert axes.get_xlim()[1] > 8000.0


def test_settings_versions_and_counts_are_listed(report):
    _, page, _ = report
    assert page.table("Settings that differ")["policy.kl_target"] == ["0.05", "0.02"]
    assert page.table("All settings")["seed"] == ["0", "0"]
    versions = page.table("Versions")
    assert (
        versions["jax"][0]
        == json.loads((report[2][0] / "config.json").read_text())["versions"]["jax"]
    )
    assert "commit" in versions
    listed = page.table("Runs")
    assert listed["m3po_s1"] == ["1", "12,000", "0:02:00", "1", "0"]


def test_files_beside_the_page_hold_the_same_numbers(report):
    path, _, made = report
    folder = path.parent
    for key in SECTIONS[:-2]:
        assert (folder / f"{key}.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "learning_curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    got = {int(r["x"]): r for r in rows if r["picture"] == TASK and r["series"] == "m3po"}
    assert sorted(got) == list(STEPS)
    for index, step in enumerate(STEPS):
        lines = [(run / "eval.jsonl").read_text().splitlines()[index] for run in made[:3]]
        values = [json.loads(line)["tasks"][TASK]["return_mean"] for line in lines]
        assert float(got[step]["mean"]) == pytest.approx(np.mean(values), rel=1e-7)
        assert float(got[step]["low_95"]) <= float(got[step]["mean"]) <= float(got[step]["high_95"])
        assert got[step]["seeds"] == "3"
    with open(folder / "trust_region.csv", newline="") as file:
        kl = [
            r for r in csv.DictReader(file) if r["picture"] == "Mean KL" and r["series"] == "m3po"
        ]
    assert len(kl) == 30
    assert {round(float(r["mean"]), 9) for r in kl} == {0.021}
    with open(folder / "world_model.csv", newline="") as file:
        ahead = [r for r in csv.DictReader(file) if r["picture"] == f"Reward, {TASK}"]
    model = [r for r in ahead if r["series"] == "m3po, model"]
    assert [(r["x"], r["mean"]) for r in model] == [("1", "0.1"), ("2", "0.2")]


def test_one_run_is_reported_into_its_own_folder(tmp_path):
    run = make_run(tmp_path / "classic")
    (run / "eval.jsonl").unlink()
    path = write.write_report([run])
    assert path == run / "report" / "report.html"
    page = Page(path.read_text())
    assert "Nothing was logged" in path.read_text()
    assert page.table("Last evaluation")[TASK] == ["-"]
    assert not (path.parent / "planner_and_prior.png").exists()


def test_several_runs_are_reported_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda panel, identity: "<svg></svg>")
    monkeypatch.setattr(figures, "png", lambda panels, path: None)
    made = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    assert write.write_report(made) == tmp_path / "report" / "report.html"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    run = make_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report to .*file/x.*--out"):
        write.write_report([run], tmp_path / "file" / "x")


def test_no_two_of_many_settings_look_alike():
    looks = [figures._look(style) for style in range(30)]
    assert len(set(looks)) == 30
    assert len({colour for colour, _, _ in looks[:6]}) == 6
    assert len({str(dashes) for _, dashes, _ in looks[:6]}) == 6
    assert len({figures.legend_mark(style) for style in range(30)}) == 30
