"""Paths that flags name: what is no path of this machine makes no folder here."""

import os
import pathlib
import subprocess
import sys

import pytest

from m3po_jax.cli import paths
from m3po_jax.config import ConfigError, UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_path_is_not_this_folder(text):
    with pytest.raises(ConfigError, match="--workdir= is empty"):
        paths.local("workdir", text)


@pytest.mark.parametrize(
    "text",
    ["gs://bucket/run", "s3://b", "file:///tmp/x", "hf://a", "az+https://x", "gs:/b", "S3:/b"],
)
def test_an_address_is_refused(text):
    with pytest.raises(ConfigError, match="is an address.*mount"):
        paths.local("out", text)


def test_the_home_folder_is_put_in(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.local("workdir", "~/runs/a") == pathlib.Path("/home/me/runs/a")
    assert paths.local("workdir", "~") == pathlib.Path("/home/me")
    with pytest.raises(ConfigError, match=r"--from=~no_such_user/x begins with a home folder"):
        paths.local("from", "~no_such_user/x")


def test_a_home_that_nobody_knows_is_refused(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no entry"])
    with pytest.raises(ConfigError, match="not known here"):
        paths.local("workdir", "~/runs")


@pytest.mark.parametrize("text", ["runs/a", "a~b", "runs/~", "./~", "a:b", "./gs:/x", "-x", "v[1]"])
def test_other_names_stay_as_they_are(text):
    assert paths.local("workdir", text) == pathlib.Path(text).absolute()


CALLS = {
    "train": ["--config=toy", "--workdir=ADDRESS"],
    "finetune": ["--config=toy", "--workdir=x", "--from=ADDRESS"],
    "evaluate": ["--workdir=ADDRESS"],
    "export": ["--workdir=x", "--out=ADDRESS"],
    "render": ["--workdir=x", "--task=toy/PointReachA", "--out=ADDRESS"],
    "report": ["ADDRESS"],
    "replay_fault": ["ADDRESS"],
    "benchmark": ["--config=toy", "--json=ADDRESS"],
}


@pytest.mark.parametrize("command", CALLS)
def test_every_command_refuses_addresses(command, tmp_path):
    config = "--config=toy"
    arguments = [a.replace("ADDRESS", "gs://bucket/x") for a in CALLS[command]]
    arguments = [config if a.startswith("--config") else a for a in arguments]
    result = subprocess.run(
        [sys.executable, "-m", f"m3po_jax.cli.{command}", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert result.returncode == 2 and "=gs://bucket/x is an address" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "named_by", lambda text: pathlib.Path(text))
    (tmp_path / "file").write_text("")
    for good in ("new.json", "file", "deep/er/new.json"):
        assert paths.file_to_write(str(tmp_path / good)) == tmp_path / good
    assert paths.file_to_write("/dev/full") == pathlib.Path("/dev/full")
    monkeypatch.setattr("os.access", lambda place, _: place != tmp_path)  # root may write anywhere
    bad = (".", "file/new.json", "new.json", "deep/new.json", "x" * 300)
    for name in bad:
        with pytest.raises(ConfigError, match="cannot be written; name a file"):
            paths.file_to_write(str(tmp_path / name))


def test_what_took_long_is_not_lost_with_its_file(tmp_path, capsys):
    paths.write_or_print(tmp_path / "a" / "b.json", "{}\n")
    assert (tmp_path / "a" / "b.json").read_text() == "{}\n"
    for place in ("/dev/full", str(tmp_path / "a")):
        with pytest.raises(UserError, match="cannot be written.*printed above"):
            paths.write_or_print(pathlib.Path(place), '{"seconds": 3}')
        assert capsys.readouterr().out == '{"seconds": 3}\n'
