"""Tests of the task names and their options."""

import subprocess
import sys

import pytest

from m3po_jax import config
from m3po_jax.envs import catalog, registry
from m3po_jax.envs.catalog import CATALOG


def test_dmc_names_are_those_of_playground():
    from mujoco_playground import dm_control_suite

    assert sorted(CATALOG["dmc"]) == sorted(dm_control_suite.ALL_ENVS)


def test_playground_names_are_those_of_playground():
    from mujoco_playground import locomotion, manipulation

    names = (*locomotion.ALL_ENVS, *manipulation.ALL_ENVS)
    assert sorted(CATALOG["playground"]) == sorted(names)


def test_brax_names_are_those_of_brax():
    from brax import envs

    assert sorted(CATALOG["brax"]) == sorted(envs._envs)


def test_toy_names_all_load():
    for name in CATALOG["toy"]:
        registry.make_env(registry.parse_task(f"toy/{name}"))


def test_task_names_hold_every_suite_once():
    names = registry.task_names()
    assert len(names) == len(set(names)) == 25 + 12 + 4 + 29 + 50
    assert all(registry.parse_task(name).name == name for name in names)


def test_parse_reads_typed_options():
    request = registry.parse_task("brax/ant?backend=mjx&num_envs=16&discount=0.97&action_repeat=2")
    assert request.name == "brax/ant"
    assert request.options == {
        "backend": "mjx",
        "num_envs": 16,
        "discount": 0.97,
        "action_repeat": 2,
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dmc/CartpoleSwingUp", ["'dmc/CartpoleSwingUp'", "dmc/CartpoleSwingup"]),
        ("CartpoleSwingup", ["'CartpoleSwingup'", "dmc/CartpoleSwingup"]),
        ("brx/ant", ["'brx/ant'", "brax/ant"]),
        ("", ["''", "known are"]),
        ("brax/ant?backend=sprng", ["brax/ant", "backend='sprng'", "spring"]),
        ("brax/ant?num_env=3", ["brax/ant", "'num_env'", "num_envs"]),
        ("brax/ant?num_envs=3.5", ["num_envs='3.5'", "positive whole number"]),
        ("brax/ant?num_envs=0", ["num_envs='0'", "positive whole number"]),
        ("brax/ant?replay_weight=0.5", ["replay_weight='0.5'", "positive whole number"]),
        ("brax/ant?discount=1", ["discount='1'", "between 0 and 1"]),
        ("brax/ant?discount=nan", ["discount='nan'", "between 0 and 1"]),
        ("brax/ant?num_envs", ["'num_envs'", "key=value"]),
        ("brax/ant?", ["key=value"]),
        ("brax/ant?num_envs=1&num_envs=2", ["'num_envs'", "more than once"]),
        ("toy/PointReachA?backend=spring", ["toy/PointReachA", "'backend'"]),
        ("dmc/CartpoleSwingup?backend=spring", ["dmc/CartpoleSwingup", "'backend'"]),
        ("dmc/CartpoleSwingup?impl=jaxx", ["impl='jaxx'", "jax"]),
        ("brax/swimmer?backend=spring", ["backend='spring'", "generalized"]),
        ("brax/fast?backend=spring", ["brax/fast", "'backend'"]),
        ("dmc/PointMass?observation=state", ["dmc/PointMass", "'observation'"]),
        ("no_such_package.envs:Reach", ["no_such_package.envs", "PYTHONPATH"]),
        ("m3po_jax.envs.no_such:Reach", ["m3po_jax.envs.no_such", "PYTHONPATH"]),
        ("m3po_jax.envs.toy:", ["'m3po_jax.envs.toy:'", "package.module:Name"]),
        ("not a module:Reach", ["package.module:Name"]),
    ],
)
def test_parse_refuses_and_names_the_nearest(name, words):
    with pytest.raises(ValueError) as error:
        registry.parse_task(name)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([], "no task"),
        ("toy/PointReachA", "sequence"),
        (["toy/PointReachA", "toy/PointReachA"], "toy/PointReachA is listed more than once"),
        (["toy/PointReachA", "toy/PointReachA?num_envs=2"], "more than once"),
    ],
)
def test_make_refuses_no_task_and_the_same_task_twice(names, word):
    with pytest.raises(ValueError, match=word):
        registry.make(names, config.EnvConfig())


def test_make_applies_settings_and_options():
    env = registry.make(
        [
            "toy/PointReachA",
            "toy/TerminatingPole?num_envs=3&action_repeat=1&episode_length=31&discount=0.9"
            "&replay_weight=2",
        ],
        config.EnvConfig(num_envs=5, action_repeat=4),
    )
    first, second = env.specs
    assert env.num_envs == (5, 3)
    assert first.name == "toy/PointReachA"
    assert second.name == "toy/TerminatingPole"
    # 50 control steps in blocks of 4, the last of them cut in the count only.
    assert (first.episode_length, first.action_repeat) == (13, 4)
    assert (second.episode_length, second.action_repeat) == (31, 1)
    assert second.discount == 0.9 and env.replay_weights == (1, 2)
    assert (first.can_terminate, second.can_terminate) == (False, True)


@pytest.mark.parametrize(
    ("name", "repeat"),
    [
        ("dmc/CartpoleSwingup", 4),  # 0.01 s
        ("dmc/FingerSpin", 2),  # 0.02 s
        ("dmc/WalkerWalk", 2),  # 0.025 s: 0.05 s is nearer to 0.04 s than 0.025 s is
        ("dmc/SwimmerSwimmer6", 1),  # 0.03 s
        ("brax/ant", 1),  # 0.05 s: never less than one control step
        ("brax/inverted_pendulum", 2),  # 0.02 s
        ("brax/inverted_pendulum?backend=mjx", 1),  # 0.04 s on this backend
        ("brax/hopper?action_repeat=3", 3),  # the name goes first
        ("toy/PointReachA", 1),  # knows no seconds
    ],
)
def test_an_agent_step_is_a_length_of_time(name, repeat):
    assert registry.action_repeat(registry.parse_task(name), config.EnvConfig()) == repeat


def test_a_repeat_of_all_tasks_goes_before_the_length_of_time():
    request = registry.parse_task("dmc/FingerSpin")
    assert registry.action_repeat(request, config.EnvConfig(action_repeat=5)) == 5
    assert registry.action_repeat(request, config.EnvConfig(agent_step=0.1)) == 5
    # Half-way between two whole numbers it is the larger one.
    assert registry.action_repeat(request, config.EnvConfig(agent_step=0.05)) == 3


def test_control_steps_of_dm_control_are_those_of_playground():
    from mujoco_playground import dm_control_suite

    for name, facts in CATALOG["dmc"].items():
        assert facts.control_step == float(dm_control_suite.get_default_config(name).ctrl_dt), name


@pytest.mark.parametrize("backend", ["spring", "mjx"])
@pytest.mark.parametrize("name", ["inverted_pendulum", "hopper", "reacher"])
def test_control_steps_of_brax_are_those_of_its_environments(name, backend):
    environment = registry.make_env(registry.parse_task(f"brax/{name}?backend={backend}"))
    seconds = catalog.control_step("brax", name, backend)
    assert environment.seconds_per_step == pytest.approx(seconds)


def test_a_suite_that_is_not_there_says_why_and_what_to_do(monkeypatch, tmp_path):
    import importlib.util
    import types

    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(ValueError, match="meshes are not in .*fetch them with python -c") as error:
        registry.make_env(registry.parse_task("playground/Go1Getup"))
    assert "playground/Go1Getup" in str(error.value)
    assert catalog.unavailable("dmc") is None and catalog.unavailable("toy") is None
    (tmp_path / "external_deps" / "mujoco_menagerie").mkdir(parents=True)
    assert catalog.unavailable("playground") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="brax/ant: the package brax is not installed"):
        registry.make_env(registry.parse_task("brax/ant"))


def test_registry_import_and_parse_load_no_simulator():
    code = (
        "import sys; from m3po_jax.envs import registry; registry.parse_tasks(['brax/ant']); "
        "heavy = {'jax', 'brax', 'mujoco', 'mujoco_playground', 'flax'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
