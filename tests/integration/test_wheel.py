"""The package as pip installs it, in an empty environment and outside the clone.

Needs the network, or a pip that has the pinned packages: 1.5 GB are installed anew. Took nine
minutes on two cores that others used too, half of them for the installation.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SHORT = (
    "--config.train.total_env_steps=3000",
    "--config.train.eval_every=0",
    "--config.train.eval_episodes=2",
)


def call(folder, *command):
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
        timeout=1800,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def built_wheel(folder):
    """Builds from a copy, so that nothing is written into the clone."""
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "m3po_jax", source / "m3po_jax", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    call(folder, sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, source)
    (wheel,) = folder.glob("m3po_jax-*.whl")
    return wheel


@pytest.mark.slow
def test_a_wheel_trains_evaluates_reports_and_exports_outside_the_clone(tmp_path):
    wheel = built_wheel(tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    bin_ = tmp_path / "venv" / "bin"
    pip = (bin_ / "python", "-m", "pip", "install", "--quiet")
    call(tmp_path, *pip, wheel, "-c", ROOT / "requirements.txt")

    home = tmp_path / "elsewhere"
    home.mkdir()
    where = call(home, bin_ / "python", "-c", "import m3po_jax; print(m3po_jax.__path__[0])")
    package = pathlib.Path(where.strip())
    assert package.is_relative_to(tmp_path / "venv")
    assert (package / "py.typed").is_file()
    assert call(home, bin_ / "m3po-train", "--version").startswith("m3po_jax ")
    assert "classic" in call(home, bin_ / "m3po-train", "--list")

    call(home, bin_ / "m3po-train", "--config=toy", "--workdir=run", "--quiet", *SHORT)
    scores = call(home, bin_ / "m3po-evaluate", "--workdir=run", "--episodes=2", "--policy=prior")
    assert "toy/PointReachA" in scores
    call(home, bin_ / "m3po-report", "run", "--out=report")
    assert (home / "report" / "report.html").stat().st_size > 10_000
    call(home, bin_ / "m3po-export", "--workdir=run", "--out=agent")
    assert any((home / "agent").iterdir())
