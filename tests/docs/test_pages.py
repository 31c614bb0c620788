"""The code on the pages of docs/ runs as it stands there."""

import doctest
import pathlib
import re
import shutil
import tomllib

import jax
import jax.numpy as jnp
import pytest

import m3po_jax
from m3po_jax.deploy.export import export
from m3po_jax.envs import entry_points, registry
from m3po_jax.presets import toy
from m3po_jax.workdir.folder import open_workdir
from tests.integration.saved_run import save_run

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def blocks(page, language):
    """The fenced blocks of a page, each behind as many empty lines as stand above it there."""
    text = (DOCS / page).read_text()
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of the toy suite with random parameters, in the folder that the pages name."""
    root = tmp_path_factory.mktemp("docs")
    config = toy.get_config()
    save_run(root / "runs" / "toy", config, config.tasks)
    return root


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    """The working directory of a reader who has trained the toy agent."""
    shutil.copytree(saved / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_blocks(page):
    """Runs all Python blocks of a page in one namespace, which it returns."""
    namespace = {"__name__": "__main__"}
    found = list(blocks(page, "python"))
    assert found
    for block in found:
        exec(compile(block, str(DOCS / page), "exec"), namespace)
    return namespace


def test_the_examples_of_the_library_page(folder):
    examples = "\n\n".join(block.strip("\n") for block in blocks("library.md", "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, "library.md", "docs/library.md", 0)
    assert len(test.examples) > 40
    result = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test)
    assert result.failed == 0


@pytest.mark.parametrize("name", sorted(set(m3po_jax.__all__) - {"__version__"}))
def test_every_public_name_has_its_place_and_its_reference(name):
    headings = re.findall(r"^### (.+)$", (DOCS / "library.md").read_text(), re.MULTILINE)
    assert name in re.split(r",\s*", ", ".join(headings))
    assert re.search(
        rf"^::: m3po_jax\.[\w.]+\.{name}$", (DOCS / "api.md").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize(
    ("page", "file"),
    [
        # falling for 30 steps of 0.1 s from at most 1.5 ends each episode, and pays at first
        ("first-task.md", "hover.py"),
        # without force it rolls down and falls off, at first slowly
        ("howto/gymnasium_training.md", "slope.py"),
    ],
)
def test_the_environment_of_a_page_is_a_task(page, file, tmp_path, monkeypatch):
    task, config = blocks(page, "python")
    (tmp_path / file).write_text(task)
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    exec(config, names)
    config = m3po_jax.from_config_dict(names["get_config"]())
    m3po_jax.validate(config)
    env = registry.make(config.tasks, config.env)
    state, pool = env.init(jax.random.key(0), stagger=False), env.draw_resets(jax.random.key(1))
    actions = -jnp.ones((30, env.batch_size, 1))
    _, steps = jax.lax.scan(lambda s, a: env.step(s, pool, a), state, actions)
    assert steps.termination.any(axis=0).all()
    assert (steps.valid == 1.0).all()
    assert steps.reward[0].min() > 0.0


def test_the_newcomers_package_names_the_task_of_the_page():
    (block,) = blocks("first-task.md", "toml")
    points = tomllib.loads(block)["project"]["entry-points"]
    assert points == {entry_points.GROUP: {"Hover": "hover:Hover"}}


def test_the_planner_swings_up_a_known_pendulum():
    assert run_blocks("howto/planner.md")["state"].shape == (2,)


def test_a_plain_ppo_learns_with_the_trust_region_update():
    assert run_blocks("howto/ppo.md")["returns"].shape == (60,)


def test_an_agent_plays_a_gymnasium_environment(folder):
    assert run_blocks("howto/gymnasium.md")["returns"].shape == (8,)


def test_an_export_is_called_as_its_page_says(folder):
    export(m3po_jax.load("runs/toy"), "policy")
    assert run_blocks("export.md")["command"].shape == (2,)


@pytest.mark.slow
def test_a_trained_agent_plays_it_well(tmp_path, monkeypatch):
    config = m3po_jax.from_config_dict(toy.get_config())
    with open_workdir(tmp_path / "runs" / "toy", config) as run:
        m3po_jax.train_and_evaluate(config, run.path)
    monkeypatch.chdir(tmp_path)
    assert run_blocks("howto/gymnasium.md")["returns"].mean() > 40.0


def test_the_readme_is_read_in_three_minutes():
    assert len((DOCS.parent / "README.md").read_text(encoding="utf-8").split()) < 1000


# Literal translations that no native reader would write.
UNIDIOMATIC = re.compile(
    r"\b(is no choice|cannot be told|begun otherwise|runs of before|of two, as they are|goes on"
    r"|alike|rooms|ALGORITHM section)\b"
)


@pytest.mark.parametrize("folder", ["docs", "launch", "m3po_jax", "experiments", "."])
def test_texts_are_idiomatic(folder):
    kinds = {".md", ".py", ".sh", ".sbatch", ".yaml", ".ipynb"}
    root = DOCS.parent / folder
    paths = root.glob("*.md") if folder == "." else root.rglob("*")
    texts = {p: p.read_text(encoding="utf-8") for p in paths if p.suffix in kinds and p.is_file()}
    assert texts
    found = [
        (p.name, match[0]) for p, text in texts.items() for match in UNIDIOMATIC.finditer(text)
    ]
    assert not found
