"""Folders as runs leave them, without a run."""

from m3po_jax.config import Config
from m3po_jax.workdir.folder import open_workdir

CONFIG = Config(tasks=("toy/PointReachA", "toy/PointReachB"))


def start(path, config=CONFIG, **flags):
    with open_workdir(path, config, **flags) as opened:
        return opened


def begin(path, config=CONFIG, **flags):
    """Opens a folder and leaves what a run leaves first."""
    with open_workdir(path, config, **flags) as opened:
        (path / "checkpoints" / "0").mkdir(parents=True)
    return opened


def fill(path):
    """Leaves what a run leaves."""
    (path / "metrics.csv").write_text("env_steps\n1\n")
    (path / "eval.jsonl").write_text('{"env_steps": 1}\n')
    (path / "checkpoints" / "64" / "state").mkdir(parents=True)
    (path / "checkpoints" / "64" / "state" / "data").write_text("x")
    (path / "checkpoints" / "128.orbax-checkpoint-tmp").mkdir()
