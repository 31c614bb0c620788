"""Pins, metadata and the set-up script."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def pins():
    text = (ROOT / "requirements.txt").read_text()
    return dict(re.findall(r"^([\w-]+)==([\w.]+)$", text, re.MULTILINE))


def test_requirements_are_all_pinned():
    text = (ROOT / "requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(pins())


def test_what_must_match_matches():
    assert pins()["mujoco"] == pins()["mujoco-mjx"]
    assert pins()["jax"] == pins()["jaxlib"]


def test_every_direct_dependency_is_pinned():
    setup = (ROOT / "setup.py").read_text()
    required = re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL)[1]
    names = re.findall(r'"([\w-]+)', required)
    assert len(names) > 10
    assert set(names) <= set(pins())


def test_pre_commit_uses_the_pinned_linter():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\w.]+)", text)) == {pins()["ruff"]}


@pytest.mark.parametrize(
    "script", [".ci/run", "launch/local.sh", "launch/setup_env.sh", "tests/run.sh"]
)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def clone(tmp_path):
    """A folder with a space in its name that holds what set-up reads."""
    root = tmp_path / "my clone"
    for name in ("launch/setup_env.sh", "launch/local.sh", "requirements.txt", "setup.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


def tools_only(folder, *names):
    """A PATH with a few tools and no Python."""
    folder.mkdir()
    for name in ("bash", "cat", "dirname", "rm", *names):
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.mark.parametrize(
    ("python", "found"),
    [
        (None, "no Python at all"),
        (
            'case "$2" in *version_info*) exit 1;; *print*) echo 3.10.13;; esac',
            "python3 is 3.10.13",
        ),
    ],
)
def test_an_old_python_is_refused_with_a_remedy(clone, tmp_path, python, found):
    path = tools_only(tmp_path / "bin")
    if python:
        executable(tmp_path / "bin" / "python3", f"#!{shutil.which('bash')}\n{python}\n")
    result = subprocess.run(
        [shutil.which("bash"), clone / "launch" / "local.sh"],
        capture_output=True,
        text=True,
        env={"PATH": path, "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "needs Python 3.11 or newer" in result.stderr
    assert found in result.stderr
    assert "apt-get install python3.12" in result.stderr
    assert not (clone / ".venv").exists()


def test_set_up_installs_once_and_again_when_requirements_change(clone, tmp_path):
    """A Python that only notes pip's calls stands in the environment."""
    log = tmp_path / "pip.log"
    executable(
        clone / ".venv" / "bin" / "python",
        f"#!{shutil.which('bash')}\n"
        f'if [ "$2" = pip ]; then echo "$*" >>"{log}"; exit "${{PIP_EXIT:-0}}"; fi\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    (clone / ".venv" / ".m3po-root").write_text(f"{clone}\n")

    def set_up(**environment):
        script = (
            'source "$1/launch/setup_env.sh"; echo "$M3PO_PY|${JAX_COMPILATION_CACHE_DIR:-none}"'
        )
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("M3PO_", "JAX_", "XDG_"))}
        return subprocess.run(
            ["bash", "-c", script, "bash", clone],
            capture_output=True,
            text=True,
            env={**kept, "HOME": "/home/me", **environment},
            cwd="/",
        )

    def calls():
        return len(log.read_text().splitlines())

    failed = set_up(PIP_EXIT="1")
    assert failed.returncode == 2
    assert "pip could not install" in failed.stderr
    first = set_up()
    assert first.returncode == 0, first.stderr
    python = clone / ".venv" / "bin" / "python"
    assert first.stdout.splitlines()[-1] == f"{python}|/home/me/.cache/m3po_jax/xla"
    assert calls() == 3  # the failed one; then requirements and the package
    second = set_up(M3PO_COMPILE_CACHE="off")
    assert second.stdout == f"{python}|none\n"
    assert calls() == 3
    with open(clone / "requirements.txt", "a") as file:
        file.write("# changed\n")
    assert set_up(M3PO_COMPILE_CACHE="/cache").stdout.endswith("|/cache\n")
    assert calls() == 5
