"""Tasks that installed packages name, and what a broken one may not do to the others."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from m3po_jax import config, config_validation
from m3po_jax.envs import entry_points, registry, toy

HERE = "tests.envs.test_entry_points"
DIST = types.SimpleNamespace(name="hover-tasks", version="1.2")


def pole():
    return toy.TerminatingPole()


def broken():
    raise RuntimeError("no licence")


def entry(name, target, dist=DIST):
    """What `importlib.metadata` gives for a line of a package's entry points."""
    found = importlib.metadata.EntryPoint(name, target, entry_points.GROUP)
    return found._for(dist)


@pytest.fixture
def install(monkeypatch):
    """Pretends that packages with these entry points are installed."""
    real = importlib.metadata.entry_points

    def install(*entries):
        def fake(**selected):
            if selected != {"group": "m3po_jax.tasks"}:
                return real(**selected)
            return importlib.metadata.EntryPoints(entries)

        monkeypatch.setattr(importlib.metadata, "entry_points", fake)

    return install


def test_an_installed_task_is_made_by_its_name(install):
    install(entry("hover/Pole", f"{HERE}:pole"))
    env = registry.make(("hover/Pole?num_envs=3", f"{HERE}:pole"), config.EnvConfig())
    assert [spec.name for spec in env.specs] == ["hover/Pole", f"{HERE}:pole"]
    assert env.num_envs == (3, 8)
    request = registry.parse_task("hover/Pole?episode_length=7")
    assert (request.name, request.options) == ("hover/Pole", {"episode_length": 7})
    assert isinstance(registry.make_env(request), toy.TerminatingPole)


def test_without_the_package_the_name_is_unknown(install):
    install(entry("hover/Pole", f"{HERE}:pole"))
    with pytest.raises(ValueError, match=r"unknown task 'hover/pole'; did you mean hover/Pole\?"):
        registry.parse_task("hover/pole")
    install()
    with pytest.raises(ValueError, match="unknown task 'hover/Pole'"):
        registry.parse_task("hover/Pole")


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("A", "nowhere_at_all:Task", "there is no module 'nowhere_at_all'"),
        ("A", "nowhere_at_all.inside:Task", "there is no module 'nowhere_at_all'"),
        ("A", f"{HERE}", "not of the form package.module:Name"),
        ("A b", f"{HERE}:pole", "its name may have letters, digits"),
        ("dmc/Mine", f"{HERE}:pole", "its name is in a suite of m3po_jax"),
    ],
)
def test_a_broken_entry_point_names_its_package_and_breaks_no_other(install, name, target, words):
    install(entry(name, target), entry("Pole", f"{HERE}:pole"))
    with pytest.raises(ValueError) as error:
        registry.parse_task(name)
    assert words in str(error.value)
    assert f"{name} = {target} of the package hover-tasks 1.2" in str(error.value)
    assert isinstance(registry.make_env(registry.parse_task("Pole")), toy.TerminatingPole)
    assert registry.parse_task("dmc/CartpoleSwingup").suite == "dmc"


def test_a_package_that_raises_when_imported(install, tmp_path, monkeypatch):
    (tmp_path / "raising_package").mkdir()
    (tmp_path / "raising_package" / "__init__.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    install(entry("A", "raising_package.tasks:A"))
    with pytest.raises(ValueError, match=r"hover-tasks 1\.2: .* raised ZeroDivisionError"):
        registry.parse_task("A")


def test_what_fails_only_when_made_names_the_package_too(install):
    install(entry("Broken", f"{HERE}:broken"), entry("Absent", f"{HERE}:absent"))
    reasons = {"Broken": "it raised RuntimeError: no licence", "Absent": ": task tests.envs"}
    for name, words in reasons.items():
        with pytest.raises(config.ConfigError, match=r"of the package hover-tasks 1\.2") as error:
            registry.make_env(registry.parse_task(name))
        assert words in str(error.value)


def test_a_name_that_two_packages_give_is_refused(install):
    other = types.SimpleNamespace(name="other-tasks", version="3")
    install(entry("A", f"{HERE}:pole"), entry("A", f"{HERE}:broken", other))
    with pytest.raises(ValueError, match=r"hover-tasks 1\.2 has a task of this name too") as error:
        registry.parse_task("A")
    assert "other-tasks 3" in str(error.value)


def test_a_config_with_it_is_checked_like_any_other(install):
    install(entry("Pole", f"{HERE}:pole"), entry("Gone", "nowhere_at_all:Task"))
    tree = config.default_config()
    tree.tasks = ("Pole", "toy/PointReachA")
    config_validation.validate(config.from_config_dict(tree))
    tree.tasks = ("Gone",)
    with pytest.raises(config.ConfigError, match=r"config.tasks\[0\] = 'Gone': entry point Gone"):
        config_validation.validate(config.from_config_dict(tree))


def test_the_command_lists_what_a_real_package_registers(tmp_path):
    """A distribution as pip leaves it, found by the command in a process of its own."""
    info = tmp_path / "hover_tasks-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hover-tasks\nVersion: 1.2\n")
    lines = ["[m3po_jax.tasks]", "Pole = hover_tasks:Pole", "Gone = nowhere_at_all:Gone"]
    (info / "entry_points.txt").write_text("\n".join(lines))
    # It is not imported by the list.
    (tmp_path / "hover_tasks.py").write_text("raise RuntimeError")
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}

    def output(*arguments):
        command = [sys.executable, "-m", "m3po_jax.cli.tasks", "--suite=installed", *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        return result.stdout

    records = [json.loads(line) for line in output("--json").splitlines()]
    assert {record["task"]: record["available"] for record in records} == {
        "Pole": True,
        "Gone": False,
    }
    text = output()
    assert "Gone = nowhere_at_all:Gone of the package hover-tasks 1.2: there is no module" in text
