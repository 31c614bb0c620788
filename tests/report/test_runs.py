import dataclasses
import json

import pytest

from m3po_jax.config import PolicyConfig, TrainConfig, UserError
from m3po_jax.report import runs
from tests.report.fake_runs import STEPS, evaluation, make_run


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    made = [make_run(tmp_path / f"a_s{seed}", seed=seed) for seed in (1, 0)]
    log = dataclasses.replace(TrainConfig(total_env_steps=STEPS[-1]), log_every=7)
    made.append(make_run(tmp_path / "a_s2", seed=2, train=log))
    made.append(make_run(tmp_path / "other", policy=PolicyConfig(entropy_scale=0.5)))
    groups = runs.group_runs(runs.load_runs(made))
    assert [(g.label, [run.seed for run in g.runs]) for g in groups] == [
        ("a", [0, 1, 2]),
        ("other", [0]),
    ]
    assert runs.config_differences(groups) == [("policy.entropy_scale", ["0.0001", "0.5"])]
    assert runs.notes(groups) == []


def test_a_run_that_is_given_twice_counts_once(tmp_path):
    path = make_run(tmp_path / "a")
    assert len(runs.load_runs([path, str(path) + "/", tmp_path / "x" / ".." / "a"])) == 1


def test_names_are_as_long_as_it_takes_to_tell_them_apart(tmp_path):
    made = [make_run(tmp_path / name / "classic") for name in ("one", "two")]
    assert [run.name for run in runs.load_runs(made)] == ["one/classic", "two/classic"]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["toy_s0", "toy_s1"], "toy"),
        (["toy-seed1", "toy-seed12"], "toy"),
        (["runs0", "runs1"], "runs"),
        (["cheetahs1", "cheetahs2"], "cheetahs"),
        (["0", "1"], "0 + 1"),
    ],
)
def test_labels(tmp_path, names, label):
    made = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate(names)]
    (group,) = runs.group_runs(runs.load_runs(made))
    assert group.label == label


def test_notes_warn_of_what_makes_a_comparison_unfair(tmp_path):
    made = [make_run(tmp_path / name) for name in ("a", "b")]
    record = json.loads((made[1] / "config.json").read_text())
    record["commit"] = "0" * 40
    record["config"]["train"]["total_env_steps"] = 2 * STEPS[-1]
    (made[1] / "config.json").write_text(json.dumps(record))
    text = "\n".join(runs.notes(runs.group_runs(runs.load_runs(made))))
    assert "b is not finished: 12,000 of 24,000 steps" in text
    record["config"]["train"]["total_env_steps"] = STEPS[-1]
    (made[1] / "config.json").write_text(json.dumps(record))
    text = "\n".join(runs.notes(runs.group_runs(runs.load_runs(made))))
    assert "same seed" in text
    assert "different versions or commits" in text


def break_config(path):
    (path / "config.json").write_text("{")


def foreign_config(path):
    (path / "config.json").write_text('{"config": {}}')


def no_seed(path):
    record = json.loads((path / "config.json").read_text())
    del record["config"]["seed"]
    (path / "config.json").write_text(json.dumps(record))


def torn_row(path):
    lines = (path / "metrics.csv").read_text().splitlines()
    lines[4] = lines[4][:9]
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")


def word_for_a_number(path):
    text = (path / "metrics.csv").read_text()
    (path / "metrics.csv").write_text(text.replace(",0.07,", ",much,", 1))


def torn_evaluation(path):
    (path / "eval.jsonl").write_text('{"env_steps": 1\n{"env_steps": 2}\n')


def foreign_evaluation(path):
    (path / "eval.jsonl").write_text('{"env_steps": 1}\n')


def empty(path):
    for name in ("metrics.csv", "eval.jsonl"):
        (path / name).unlink()


def missing(path):
    (path / "config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_config, r"config\.json cannot be read"),
        (foreign_config, "was not written by m3po_jax"),
        (no_seed, "damaged or was written by another version .*seed"),
        (torn_row, r"line 5 of .*metrics\.csv is damaged"),
        (word_for_a_number, r"line 2 of .*metrics\.csv is damaged"),
        (torn_evaluation, r"line 1 of .*eval\.jsonl is damaged"),
        (foreign_evaluation, "damaged or was written by another version .*policy"),
        (empty, "has no metrics yet"),
        (missing, r"holds no run \(no config\.json\)"),
    ],
)
def test_one_clear_message_for_a_run_that_cannot_be_read(tmp_path, harm, message):
    make_run(tmp_path / "good")
    path = make_run(tmp_path / "harmed")
    harm(path)
    with pytest.raises(UserError, match=message) as caught:
        runs.load_runs([tmp_path / "good", path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_and_no_folder_at_all(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        runs.load_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match="no run is given"):
        runs.load_runs([])


def test_a_run_that_has_not_yet_been_evaluated_can_be_read(tmp_path):
    path = make_run(tmp_path / "a")
    (path / "eval.jsonl").unlink()
    with open(path / "metrics.csv", "a") as file:
        file.write("12400,31")  # a line that is being written
    (run,) = runs.load_runs([path])
    assert run.env_steps == 12000
    assert run.evaluations == []


def test_a_run_of_another_version_with_other_settings_can_be_read(tmp_path):
    path = make_run(tmp_path / "a")
    record = json.loads((path / "config.json").read_text())
    record["config"]["new_part"] = {"setting": 3}
    del record["config"]["planner"]["temperature"]
    (path / "config.json").write_text(json.dumps(record))
    groups = runs.group_runs(runs.load_runs([path, make_run(tmp_path / "b")]))
    assert sorted(runs.config_differences(groups)) == [
        ("new_part.setting", ["3", "-"]),
        ("planner.temperature", ["-", "0.5"]),
    ]
    assert evaluation(0, STEPS[-1])["env_steps"] == groups[0].runs[0].env_steps
