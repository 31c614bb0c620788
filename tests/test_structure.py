"""Rules of the house that no single module can hold: imports, side effects, sizes, leftovers."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import m3po_jax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "m3po_jax"

# what each folder or module may import, besides itself
BASE = {"types", "config"}
MODELS = BASE | {"ops", "networks", "world_model"}
ARROWS: dict[str, set[str]] = {
    "version": set(),
    "types": set(),
    "config": set(),
    "workload": {"config", "envs"},
    "presets": {"config", "envs"},
    "config_validation": {"config", "workload", "envs"},
    "ops": set(),
    "networks": BASE | {"ops"},
    "world_model": BASE | {"ops", "networks"},
    "planning": BASE | {"ops"},
    "policy": BASE | {"ops"},
    "replay": {"types", "ops"},
    "envs": BASE,
    "learning": MODELS | {"planning", "policy", "replay", "envs"},
    "workdir": {"config", "version"},
}
ARROWS["training"] = {*ARROWS["learning"], "learning", "workdir", "workload"}
ARROWS["finetuning"] = {*ARROWS["training"], "training"}
ARROWS["deploy"] = ARROWS["benchmark"] = ARROWS["finetuning"]
ARROWS["report"] = {"config", "envs", "training", "workdir", "version"}
ARROWS["cli"] = {*ARROWS, "cli"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    """Dotted names of all that a file imports, inside functions and `if` blocks too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_its_arrows():
    assert {room_of(path) for path in MODULES} <= set(ARROWS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_arrows(path):
    room = room_of(path)
    for module in imported_modules(path):
        package, _, rest = module.partition(".")
        assert package not in ("experiments", "tests"), f"{name_of(path)} imports {module}"
        if package != "m3po_jax":
            continue
        other = rest.partition(".")[0]
        assert other in ARROWS[room] | {room}, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_commands_touch_flags_and_environment_variables(path):
    if room_of(path) == "cli":
        return
    modules = set(imported_modules(path))
    assert not {"absl.flags", "absl.app"} & modules
    names = {
        node.attr for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Attribute
    }
    assert not names & {"environ", "getenv", "putenv"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_sharding_names_meshes(path):
    if path == PACKAGE / "training" / "sharding.py":
        return
    tree = ast.parse(path.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"make_mesh", "set_mesh", "Mesh", "PartitionSpec", "shard_map", "pmap"}


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_settings_registry_and_commands_import_no_jax():
    result = run(
        "import sys\n"
        "import m3po_jax, m3po_jax.config, m3po_jax.config_validation, m3po_jax.envs.registry\n"
        "import m3po_jax.presets.suites, m3po_jax.presets.dmc25\n"
        "import m3po_jax.workdir.folder, m3po_jax.cli.train, m3po_jax.cli.evaluate\n"
        "import m3po_jax.workdir.preemption, m3po_jax.cli.replay_fault, m3po_jax.cli.export\n"
        "import m3po_jax.cli.report, m3po_jax.report.write, m3po_jax.cli.render\n"
        "slow = {'jax', 'flax', 'brax', 'mujoco', 'mujoco_playground', 'orbax'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_importing_everything_starts_no_backend_and_defines_no_flag():
    result = run(
        "import importlib, pkgutil\n"
        "from absl import flags\n"
        "import m3po_jax\n"
        "names = [m.name for m in pkgutil.walk_packages(m3po_jax.__path__, 'm3po_jax.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "from jax._src import xla_bridge\n"
        "print(len(names) > 20, xla_bridge.backends_are_initialized())\n"
        "print('workdir' in flags.FLAGS, 'config' in flags.FLAGS)\n"
    )
    assert result.stdout.split() == ["True", "False", "False", "False"], result.stderr


def test_public_names_exist():
    assert set(dir(m3po_jax)) == set(m3po_jax.__all__)
    for name in m3po_jax.__all__:
        assert getattr(m3po_jax, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", m3po_jax.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = m3po_jax.nothing


def test_commands_are_short():
    mains = [path for path in (PACKAGE / "cli").glob("*.py") if "def main(" in path.read_text()]
    assert {path.stem for path in mains} >= {"train", "evaluate", "export"}
    for path in mains:
        assert len(path.read_text().splitlines()) < 80, path


def text_files():
    patterns = (
        "m3po_jax/**/*.py",
        "experiments/**/*.py",
        "tests/**/*.py",
        "tests/*.sh",
        "launch/*",
    )
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    files |= {ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "setup.py")}
    files |= {ROOT / ".ci" / "run", ROOT / "pyproject.toml", ROOT / "requirements.txt"}
    return sorted(path for path in files if path.suffix != ".pyc")


@pytest.mark.parametrize("path", text_files(), ids=name_of)
def test_no_marker_of_unfinished_work(path):
    # put together here, so that this file does not hold them
    markers = ["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK", "NotImplemented" + "Error"]
    found = re.findall(rf"\b({'|'.join(markers)})\b", path.read_text(encoding="utf-8"))
    assert not found
