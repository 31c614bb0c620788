import dataclasses
import json
import re

import pytest

import m3po_jax
from m3po_jax.config import TrainConfig
from m3po_jax.workdir import folder, record
from m3po_jax.workdir.folder import open_workdir, read_config
from m3po_jax.workdir.record import WorkdirError
from tests.workdir.begun_runs import CONFIG, begin, fill, start


def with_train(**changes):
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))


def test_a_new_run_writes_config_versions_and_commit(tmp_path):
    opened = start(tmp_path / "deep" / "run")
    assert opened.path == tmp_path / "deep" / "run"
    assert not opened.resumed
    written = json.loads((opened.path / "config.json").read_text())
    assert written["config"]["train"]["total_env_steps"] == TrainConfig().total_env_steps
    assert written["config"]["network"]["mlp_width"] == 0  # as given, not as resolved
    assert written["versions"]["m3po_jax"] == m3po_jax.__version__
    assert {"python", "jax", "flax", "brax", "mujoco"} <= set(written["versions"])
    assert written["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", written["commit"])
    assert read_config(opened.path) == CONFIG


def test_the_same_config_resumes(tmp_path):
    start(tmp_path)
    fill(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    assert start(tmp_path).resumed
    assert (tmp_path / "config.json").read_bytes() == before
    assert (tmp_path / "metrics.csv").exists()


def test_more_steps_and_another_cadence_may_resume_and_are_noted(tmp_path):
    begin(tmp_path)
    longer = with_train(total_env_steps=999_999, eval_every=0, eval_policy="prior", log_every=9)
    assert start(tmp_path, longer).resumed
    assert read_config(tmp_path) == longer
    written = json.loads((tmp_path / "config.json").read_text())
    assert [entry["changed"] for entry in written["history"]] == [
        {
            "train.total_env_steps": CONFIG.train.total_env_steps,
            "train.eval_every": CONFIG.train.eval_every,
            "train.eval_policy": CONFIG.train.eval_policy,
            "train.log_every": CONFIG.train.log_every,
        }
    ]


def test_other_libraries_are_noted(tmp_path, monkeypatch):
    begin(tmp_path)
    monkeypatch.setattr(record, "versions", lambda: {"m3po_jax": "9", "jax": "9"})
    start(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["versions"] == {"m3po_jax": "9", "jax": "9"}
    assert written["history"][0]["versions"]["m3po_jax"] == m3po_jax.__version__
    assert written["history"][0]["changed"] == {}


def test_another_config_is_refused_with_the_difference(tmp_path):
    begin(tmp_path)
    other = dataclasses.replace(with_train(eval_every=5), seed=7, tasks=("toy/PointReachA",))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(WorkdirError) as caught:
        start(tmp_path, other)
    text = str(caught.value)
    assert "seed: 0 there, 7 asked for" in text
    assert "tasks: ('toy/PointReachA', 'toy/PointReachB') there" in text
    assert "eval_every" not in text
    assert "--overwrite" in text
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["warmup_env_steps", "updates_per_transition"])
def test_what_defines_the_learning_is_refused(tmp_path, name):
    begin(tmp_path)
    with pytest.raises(WorkdirError, match=f"train.{name}"):
        start(tmp_path, with_train(**{name: getattr(CONFIG.train, name) + 1}))


def test_only_budget_and_reporting_may_change():
    changeable = {key.removeprefix("train.") for key in record.CHANGEABLE}
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names - changeable == {
        "warmup_env_steps",
        "updates_per_transition",
        "final_learning_rate_scale",
        "frozen",
    }
    assert changeable <= names


def test_a_start_that_left_nothing_may_be_corrected(tmp_path):
    start(tmp_path)
    other = dataclasses.replace(CONFIG, seed=7)
    assert not start(tmp_path, other).resumed
    assert read_config(tmp_path) == other
    assert json.loads((tmp_path / "config.json").read_text())["history"] == []


def test_a_run_cannot_shrink(tmp_path):
    begin(tmp_path)
    with pytest.raises(WorkdirError, match=r"train.total_env_steps: 120000 there, 100000"):
        start(tmp_path, with_train(total_env_steps=100_000))


def test_overwrite_starts_in_an_empty_folder_too(tmp_path):
    assert not start(tmp_path / "new", overwrite=True).resumed


@pytest.mark.parametrize("name", ["metrics.csv", "eval.jsonl", "checkpoints"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_without_its_config_is_refused(tmp_path, name, overwrite):
    fill(tmp_path)
    for other in {"metrics.csv", "eval.jsonl", "checkpoints"} - {name}:
        (tmp_path / other).rename(tmp_path / f"moved-{other}")
    with pytest.raises(WorkdirError, match=f"holds {name} but no config.json"):
        start(tmp_path, overwrite=overwrite)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"config": {"seed"', "cannot be read"),
        ("", "cannot be read"),
        ("[1]", "not written by m3po_jax"),
        ('{"config": {}, "versions": {"node": "20"}}', "not written by m3po_jax"),
    ],
)
def test_a_config_file_that_is_not_ours_is_kept_and_refused(tmp_path, text, message, overwrite):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "metrics.csv").write_text("theirs")
    with pytest.raises(WorkdirError, match=message):
        start(tmp_path, overwrite=overwrite)
    assert (tmp_path / "config.json").read_text() == text
    assert (tmp_path / "metrics.csv").read_text() == "theirs"


@pytest.mark.parametrize(
    ("group", "now", "then"),
    [
        ("train", "warmup_env_steps", "random_env_steps"),
        ("world_model", "tau", "target_decay"),
        ("planner", "horizon", None),
    ],
)
def test_a_config_of_another_version_says_which(tmp_path, group, now, then):
    """A setting that was named otherwise there, or was not there."""
    begin(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    value = written["config"][group].pop(now)
    if then:
        written["config"][group][then] = value
    written["versions"]["m3po_jax"] = "0.0.1"
    written["commit"] = "abc123"
    (tmp_path / "config.json").write_text(json.dumps(written))
    words = rf"written by m3po_jax 0\.0\.1 of commit abc123, .*{group}\.{then or now}"
    with pytest.raises(WorkdirError, match=words):
        start(tmp_path)
    with pytest.raises(WorkdirError, match=r"written by m3po_jax 0\.0\.1"):
        read_config(tmp_path)
    assert not start(tmp_path, overwrite=True).resumed


def test_two_processes_cannot_use_one_folder(tmp_path):
    with open_workdir(tmp_path, CONFIG), pytest.raises(WorkdirError, match=r"in use by process \d"):
        start(tmp_path)
    start(tmp_path)  # free again


def test_the_lock_is_freed_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), open_workdir(tmp_path, CONFIG):
        raise ZeroDivisionError
    start(tmp_path)


ORIGIN = {"from": "/old", "embedding": "mean", "replay": "fresh"}


def test_a_run_that_starts_from_another_goes_on_only_as_it_began(tmp_path):
    begin(tmp_path, origin=ORIGIN)
    assert start(tmp_path, origin=ORIGIN).resumed
    assert start(tmp_path).resumed  # by m3po-train, which does not ask
    assert start(tmp_path, origin=ORIGIN).resumed  # and what it began with is not forgotten
    for name, value in {"from": "/other", "embedding": "toy/Other", "replay": "old"}.items():
        words = f"--{name}={ORIGIN[name]} there, {value} asked for"
        with pytest.raises(WorkdirError, match=words):
            start(tmp_path, origin={**ORIGIN, name: value})


def test_a_start_from_another_that_left_nothing_is_only_for_finetuning(tmp_path):
    start(tmp_path, origin=ORIGIN)
    with pytest.raises(WorkdirError, match="starts from /old, .*start it with m3po-finetune"):
        start(tmp_path)
    other = {**ORIGIN, "embedding": "toy/Other"}
    begin(tmp_path, dataclasses.replace(CONFIG, seed=7), origin=other)
    assert json.loads((tmp_path / "config.json").read_text())["origin"] == other


def test_a_run_from_scratch_is_not_taken_for_a_finetuned_one(tmp_path):
    begin(tmp_path)
    with pytest.raises(WorkdirError, match="was not started by m3po-finetune"):
        start(tmp_path, origin=ORIGIN)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot use the workdir"):
        start(tmp_path / "file" / "run")


def test_reading_needs_a_run(tmp_path):
    with pytest.raises(WorkdirError, match="holds no run"):
        read_config(tmp_path)


def test_has_checkpoint(tmp_path):
    assert not folder.has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "64.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not folder.has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "64").mkdir()
    assert folder.has_checkpoint(tmp_path)


def test_atomic_writing_leaves_one_file(tmp_path):
    file = tmp_path / "a.txt"
    record.write_atomically(file, "old")
    record.write_atomically(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "new"


def edit(path, change):
    """Changes config.json as a hand does."""
    written = json.loads((path / "config.json").read_text())
    change(written)
    (path / "config.json").write_text(json.dumps(written))


PAST = {"changed": {}, "versions": {"jax": "1"}, "commit": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(origin="/old"), "`origin` must hold texts"),
        (lambda r: r.update(origin={"embedding": "mean"}), "one named `from`"),
        (lambda r: r.update(origin={"from": 3}), "`origin`"),
        (lambda r: r.update(origin=None), "`origin`"),
        (lambda r: r.update(history={}), "`history` must be a list"),
        (lambda r: r.update(history=["x"]), "`history`"),
        (lambda r: r.update(history=[{**PAST, "versions": 3}]), "`history`"),
        (lambda r: r.update(history=[PAST, {}]), "`history`"),
        (lambda r: r.update(commit=7), "`commit` must be a text or null, found 7"),
        (lambda r: r["versions"].update(jax=None), "`versions` must hold texts"),
        (lambda r: r["config"].update(train=3), "config.train = 3 must be a group"),
        (lambda r: r["config"].update(seed={"seed": 1}), "config.seed"),
        (lambda r: r["config"]["train"].update(config={}), "config.train.config"),
        (lambda r: r["config"].pop("planner"), "config.planner is missing"),
        (lambda r: r.update(config={"config": r["config"]}), "config.config"),
    ],
)
def test_a_config_changed_by_hand_is_refused_in_a_sentence(tmp_path, change, words):
    begin(tmp_path)
    edit(tmp_path, change)
    before = (tmp_path / "config.json").read_bytes()
    for attempt in (start, read_config):
        with pytest.raises(WorkdirError) as caught:
            attempt(tmp_path)
        text = str(caught.value)
        assert words in text and "put back what was there" in text
        assert "was written by" not in text  # by the same that reads it
    assert (tmp_path / "config.json").read_bytes() == before


def test_endless_nesting_is_refused(tmp_path):
    begin(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(WorkdirError, match="cannot be read"):
        read_config(tmp_path)


def test_other_libraries_are_spoken_of(tmp_path):
    begin(tmp_path)
    edit(tmp_path, lambda record: record["versions"].update(jax="0.1.0"))
    note = start(tmp_path).note
    assert re.search(r"was written with jax 0\.1\.0 \(now \d+\.\d+\.\d+\): it resumes", note)
    assert start(tmp_path).note == ""
