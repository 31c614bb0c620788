"""Terms of Meta-World's rewards, with values derived by hand, and refusals."""

import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config
from m3po_jax.envs import catalog, registry
from m3po_jax.envs.metaworld import definitions, installed, rewards, scene


@pytest.mark.parametrize(
    ("x", "shape", "expected"),
    [
        (1.5, "long_tail", 1.0),  # inside
        (4.0, "long_tail", 0.1),  # a margin of 2 beyond the bound of 2
        (-1.0, "gaussian", 0.1),  # the same on the other side
        (3.0, "long_tail", 1 / (0.25 * 9 + 1)),  # half a margin: 1 / ((0.5 * 3)^2 + 1)
        (3.0, "gaussian", 0.1**0.25),  # 0.1^(0.5^2)
    ],
)
def test_tolerance_falls_to_a_tenth_at_the_margin(x, shape, expected):
    value = rewards.tolerance(jnp.float32(x), (1.0, 2.0), 2.0, shape)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_tolerance_without_a_margin_is_a_step():
    values = [rewards.tolerance(jnp.float32(x), (0.0, 1.0), 0.0) for x in (0.0, 1.0, 1.1)]
    assert values == [1.0, 1.0, 0.0]


def test_both_is_the_hamacher_product():
    # 0.5 * 0.5 / (0.5 + 0.5 - 0.25) = 1 / 3; 1 is neutral; 0 with 0 is 0 and not 0 / 0.
    half = jnp.float32(0.5)
    np.testing.assert_allclose(rewards.both(half, half), 1 / 3, rtol=1e-6)
    assert rewards.both(half, 1.0) == 0.5
    assert rewards.both(jnp.float32(0.0), 0.0) == 0.0


def test_prism_rises_from_one_corner_to_the_other():
    zero, one = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.0, 2.0, 1.0])
    middle = jnp.array([0.5, 1.5, 0.5])
    np.testing.assert_allclose(rewards.prism(middle, zero, one), 0.125, rtol=1e-6)
    assert rewards.prism(jnp.array([0.5, 2.5, 0.5]), zero, one) == 1.0


def test_distance_scales_each_dimension():
    value = rewards.distance(jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3), (3.0, 2.0, 0.0))
    np.testing.assert_allclose(value, 5.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("axis", "degrees", "expected"),
    [
        ((0.0, 0.0, 1.0), 0.0, (0.0, 0.0, 0.0, 1.0)),
        ((0.0, 0.0, 1.0), 60.0, (0.0, 0.0, 0.5, 3**0.5 / 2)),
        # More than half a turn: the largest number, here z, is the one that is positive.
        ((0.0, 0.0, 1.0), 300.0, (0.0, 0.0, -0.5, 3**0.5 / 2)),
        ((1.0, 0.0, 0.0), 180.0, (1.0, 0.0, 0.0, 0.0)),
        ((0.0, 1.0, 0.0), 200.0, (0.0, np.sin(np.radians(100)), 0.0, np.cos(np.radians(100)))),
        ((0.0, 0.0, 1.0), 200.0, (0.0, 0.0, np.sin(np.radians(100)), np.cos(np.radians(100)))),
    ],
)
def test_quaternions_of_rotations(axis, degrees, expected):
    x, y, z = axis
    angle = np.radians(degrees)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    found = scene.quaternion(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_task_is_offered_where_it_has_a_reward():
    assert set(catalog.MT50) == set(definitions.DEFINITIONS) and len(catalog.MT50) == 50
    assert set(catalog.MT10) < set(catalog.MT50) and len(catalog.MT10) == 10


def test_names_are_those_of_metaworld():
    if (reason := installed.unavailable()) is not None:
        pytest.skip(reason)
    from metaworld import env_dict

    assert sorted(env_dict.ALL_V3_ENVIRONMENTS) == list(catalog.MT50)
    assert tuple(env_dict.MT10_V3) == catalog.MT10


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'metaworld/reach-v2'.*metaworld/reach-v3"):
        registry.parse_task("metaworld/reach-v2")


def test_double_precision_holds_inside_a_program_in_single():
    """What `_judge` relies on: the arithmetic of rewards in 64 bits, compiled, mapped, scanned."""

    def difference(words):
        with jax.enable_x64(True):
            x = jax.lax.bitcast_convert_type(words.reshape(-1, 2), jnp.float64)
            small = rewards.distance(x[:2], x[2:])
            value = rewards.near(small, 0.0, 1e-12)
            return value.astype(jnp.float32)

    # Two points 1e-12 apart, one margin: 0.1. In single precision they are one point.
    points = np.array([[0.6, 0.1, 0.6 + 1e-12, 0.1]]).repeat(3, axis=0)
    words = jnp.asarray(points.view(np.uint32))
    run = jax.jit(lambda w: jax.lax.scan(lambda c, _: (c, jax.vmap(difference)(c)), w, length=2))
    _, values = run(words)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, 0.1, rtol=1e-3)


class TestUnavailable:
    """Each reason names what is wrong and the command that mends it."""

    @pytest.fixture
    def package(self, monkeypatch, tmp_path):
        """A Meta-World of this version in a temporary folder, with its scenes."""
        (tmp_path / "assets" / "sawyer_xyz").mkdir(parents=True)
        (tmp_path / "batch.py").touch()
        spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        versions = {"metaworld": installed.VERSION, "mujoco": "3.3.0"}
        monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
        return types.SimpleNamespace(folder=tmp_path, spec=spec, versions=versions)

    def test_nothing_is_wrong_with_all_there(self, package):
        assert installed.unavailable() is None

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(config.ConfigError, match="not installed; pip install") as error:
            registry.make_env(registry.parse_task("metaworld/reach-v3"))
        assert str(error.value).startswith("metaworld/reach-v3: ")
        assert "--no-deps" in str(error.value) and f"=={installed.VERSION}" in str(error.value)

    def test_another_version(self, package):
        package.versions["metaworld"] = "3.0.0"
        assert "metaworld is 3.0.0 here" in installed.unavailable()

    def test_a_package_that_it_needs(self, monkeypatch, package):
        found = {"scipy": None, "imageio": None}
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: found.get(name, package.spec))
        assert "needs scipy, imageio; pip install" in installed.unavailable()

    def test_no_scenes(self, package):
        (package.folder / "assets" / "sawyer_xyz").rmdir()
        assert f"not in {pathlib.Path('assets')}"[:6] in installed.unavailable()
        assert "sawyer_xyz; pip install" in installed.unavailable()

    def test_an_older_mujoco(self, package):
        (package.folder / "batch.py").unlink()
        assert "mujoco 3.3.0 cannot" in installed.unavailable()
        assert "pip install mujoco==" in installed.unavailable()


def test_a_scene_that_does_not_load_is_told_with_its_task(monkeypatch):
    if (reason := installed.unavailable()) is not None:
        pytest.skip(reason)
    from metaworld import env_dict

    from m3po_jax.envs.metaworld import library

    class Broken(env_dict.ALL_V3_ENVIRONMENTS["reach-v3"]):
        model_name = "/no/such/scene.xml"

    monkeypatch.setitem(env_dict.ALL_V3_ENVIRONMENTS, "reach-v3", Broken)
    with pytest.raises(config.ConfigError, match="metaworld/reach-v3: its scene does not load"):
        library.make("reach-v3")


def test_goals_are_those_of_one_task_benchmarks(monkeypatch):
    if (reason := installed.unavailable()) is not None:
        pytest.skip(reason)
    import pickle

    import metaworld

    from m3po_jax.envs.metaworld import library

    # Unmended, its own benchmark does not start with this MuJoCo.
    mended = library._MendedWelds.reset_mocap_welds
    monkeypatch.setattr(metaworld.SawyerXYZEnv, "reset_mocap_welds", mended)
    tasks = metaworld.MT1("push-v3", seed=42).train_tasks
    own = [pickle.loads(task.data)["rand_vec"] for task in tasks]
    np.testing.assert_array_equal(library.goals("push-v3"), own)


def test_asking_what_is_there_loads_nothing():
    code = (
        "import sys; from m3po_jax.envs import catalog; catalog.unavailable('metaworld'); "
        "heavy = {'jax', 'mujoco', 'metaworld', 'gymnasium'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
