"""m3po-finetune as a person calls it: start, end, go on, and what it refuses then."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.integration import tiny_config
from tests.integration.saved_run import save_run

ROOT = pathlib.Path(__file__).parents[2]
KNOWN, NEW = "toy/PointReachA", "toy/LinearQuadratic"
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def finetune(folder, steps, *arguments):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    # The known task stays, behind one of other sizes.
    tasks = [f"--config.tasks={name}" for name in (NEW, KNOWN)]
    command = [
        *(sys.executable, "-m", "m3po_jax.cli.finetune", f"--config={tiny_config.__file__}"),
        *(f"--from={folder / 'old'}", f"--workdir={folder / 'new'}", *tasks),
        *(f"--config.train.total_env_steps={steps}", "--notensorboard", *arguments),
    ]
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=600
    )


def evaluations(folder):
    return [json.loads(line) for line in (folder / "new" / "eval.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_starts_on_two_devices_ends_and_goes_on_without_the_old_run(tmp_path):
    save_run(tmp_path / "old", tiny_config.get_config(), (KNOWN, "toy/TerminatingPole"))
    before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    begun = finetune(tmp_path, 48, "--replay=old")
    assert begun.returncode == 0, begun.stderr
    assert f"{NEW} starts from the mean embedding of" in begun.stdout
    assert "2 devices" in begun.stdout
    assert [record["env_steps"] for record in evaluations(tmp_path)] == [0, 48]
    assert set(evaluations(tmp_path)[0]["tasks"]) == {KNOWN, NEW}
    assert {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()} == before

    other = finetune(tmp_path, 48, "--replay=fresh")
    assert other.returncode == 2 and "--replay=old there, fresh asked for" in other.stderr

    (tmp_path / "old").rename(tmp_path / "elsewhere")
    longer = finetune(tmp_path, 80, "--replay=old")
    assert longer.returncode == 0, longer.stderr
    assert "starts from" not in longer.stdout
    assert [record["env_steps"] for record in evaluations(tmp_path)] == [0, 48, 80]
