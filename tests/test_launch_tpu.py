"""launch/tpu_pod.sh with a stand-in for gcloud, and launch/tpu_worker.sh as a worker runs it."""

import contextlib
import os
import re
import sys
import time

import pytest

from tests.test_launch import LAUNCH, call, clone, stand_in

__all__ = ["clone"]  # a fixture


@pytest.fixture
def tpu(clone, tmp_path):
    """Starts the slice; returns the result and the calls of gcloud."""
    tools, log = tmp_path / "bin", tmp_path / "gcloud.log"
    describe = 'eval "$DESCRIBE"; exit'
    running = 'exit "${RUNNING:-1}"'
    stand_in(
        tools,
        "gcloud",
        f'printf "%s\\n" "${{*//$\'\\n\'/ }}" >>"{log}"\n'
        f'case "$*" in *describe*) {describe};; *worker.sh\\ running*) {running};; esac',
    )
    # ends a loop that would wait for ever
    stand_in(tools, "sleep", "exit 9")

    def start(*arguments, describe="echo ACTIVE", **environment):
        log.write_text("", encoding="utf-8")
        script = clone / "launch" / "tpu_pod.sh"
        environment["DESCRIBE"] = describe
        result = call(script, *arguments, tools=tools, cwd=tmp_path, **environment)
        return result, log.read_text(encoding="utf-8").splitlines()

    return start


def test_a_slice_that_is_ready_gets_the_package_and_the_arguments(tpu):
    result, calls = tpu("--config=my config.py", describe="echo ACTIVE")
    assert result.returncode == 0, result.stderr
    assert not any("queued-resources create" in text for text in calls)
    assert any("tpu-vm scp" in text for text in calls)
    train = next(text for text in calls if "tpu_worker.sh train" in text)
    assert "--worker=all" in train and "train --workdir=/mnt/runs/m3po --config=my" in train
    assert r"--config=my\ config.py" in train
    assert "--worker=0" in calls[-1] and "tpu_worker.sh attach" in calls[-1]


@pytest.mark.parametrize(("action", "worker"), [("attach", "0"), ("stop", "all")])
def test_a_run_is_attached_to_and_stopped_without_touching_its_code(tpu, action, worker):
    result, (call,) = tpu(action)
    assert result.returncode == 0
    assert f"--worker={worker}" in call and f"tpu_worker.sh {action}" in call


def test_the_code_of_a_run_is_not_replaced_under_it(tpu):
    result, calls = tpu("--config=toy", RUNNING="0")
    assert result.returncode == 2 and "attach shows it, stop stops it" in result.stderr
    assert not any("scp" in text or "rm -rf" in text for text in calls)


def test_a_preempted_slice_is_made_again_by_one_command(tpu, tmp_path):
    gone = tmp_path / "asked"
    states = f'[ -e "{gone}" ] && echo ACTIVE || touch "{gone}"'  # first none, then ready
    result, calls = tpu("recreate", "--config=toy", describe=states)
    assert result.returncode == 0, result.stderr
    order = [re.search(r"delete|create|scp|worker.sh \w+", text) for text in calls]
    assert [match[0] for match in order if match] == [
        *("delete", "create", "worker.sh running", "scp"),
        *("worker.sh setup", "worker.sh train", "worker.sh attach"),
    ]
    assert "recreate" not in calls[-2] and "--config=toy" in calls[-2]


def test_a_slice_that_is_not_ready_is_waited_for_or_reported(tpu):
    waiting, _ = tpu(describe="echo PROVISIONING")
    assert waiting.returncode == 9 and "waiting for the slice m3po: PROVISIONING" in waiting.stdout
    failed, _ = tpu(describe="echo FAILED")
    assert failed.returncode == 1 and "m3po is FAILED" in failed.stderr
    assert "tpu_pod.sh recreate" in failed.stderr


@pytest.mark.parametrize("name", ["launch/tpu_pod.sh", "new.py"])
def test_changes_that_the_workers_would_lack_are_refused(tpu, clone, name):
    with open(clone / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    result, calls = tpu(describe="echo ACTIVE")
    assert result.returncode == 2
    assert "commit them first" in result.stderr and result.stderr.count("\n") == 1
    assert calls == []


def test_a_slice_without_a_state_ends_with_what_gcloud_says(tpu):
    result, calls = tpu(describe="echo 'ERROR: please log in' >&2; false")
    assert result.returncode == 1
    assert any("queued-resources create" in text for text in calls)
    said, ours = result.stderr.splitlines()
    assert said == "ERROR: please log in"
    assert ours.startswith("error: gcloud reports no state for the slice m3po")
    assert "waiting" not in result.stdout


@pytest.fixture
def worker(tmp_path):
    """Calls the script in a home folder whose Python only counts to what it is told."""
    home, tools = tmp_path / "home", tmp_path / "bin"
    (home / ".venv" / "bin").mkdir(parents=True)
    trained = (
        'case "$*" in *cli.train*) echo "got $*"; trap "echo saved; exit 75" TERM; '
        'for _ in $(seq "${TENTHS:-3}"); do sleep 0.1; done; echo done; exit "${CODE:-0}";; esac\n'
        f'exec "{sys.executable}" "$@"'
    )
    stand_in(home / ".venv" / "bin", "python", trained)
    stand_in(tools, "mountpoint", "exit 0")
    stand_in(tools, "mount.nfs", "exit 0")
    stand_in(tools, "sudo", "exit 0")
    begun = []

    def run(*arguments, **environment):
        script = LAUNCH / "tpu_worker.sh"
        result = call(script, *arguments, tools=tools, cwd=tmp_path, HOME=str(home), **environment)
        if (home / "train.pid").exists():
            begun.append(int((home / "train.pid").read_text()))
        return result

    yield home, tools, run
    for pid in set(begun):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def test_training_outlives_the_connection_and_is_attached_to(worker):
    home, _, run = worker
    assert run("attach").returncode == 2
    assert run("running").returncode != 0
    started = run("train", "--config=my config.py", CODE="7")
    assert started.returncode == 0, started.stderr
    assert run("running").returncode == 0
    again = run("train", "--config=other")
    assert again.returncode == 2 and "training runs here already" in again.stderr
    shown = run("attach")
    assert shown.returncode == 7
    assert "got -m m3po_jax.cli.train --distributed --config=my config.py" in shown.stdout
    assert "done" in shown.stdout and "other" not in shown.stdout
    assert run("running").returncode != 0
    # What has ended is shown with its code, and can be started again.
    assert run("attach").returncode == 7
    assert run("train", "--config=again").returncode == 0
    assert run("attach").returncode == 0


def test_a_run_that_is_stopped_saves(worker):
    home, _, run = worker
    assert run("train", TENTHS="600").returncode == 0
    time.sleep(0.3)  # the stand-in sets its trap
    assert run("stop").returncode == 0
    shown = run("attach")
    assert shown.returncode == 75 and "saved" in shown.stdout
    assert run("stop").returncode == 0  # nothing is left to stop


@pytest.mark.parametrize("has_python", [True, False])
def test_a_python_is_found_or_uv_fetches_one(worker, has_python):
    home, tools, run = worker
    log = home / "calls"
    (home / ".venv" / "bin" / "python").unlink()
    made = f'mkdir -p "{home}/.venv/bin"; printf "#!/bin/sh\\necho pip \\$* >>{log}\\n" '
    made += f'>"{home}/.venv/bin/python"; chmod +x "{home}/.venv/bin/python"'
    new_enough = 0 if has_python else 1
    python = f'case "$1" in -c) exit {new_enough};; -m) echo "venv $*" >>"{log}"; {made};; esac'
    for name in ("python3.12", "python3.11", "python3"):
        stand_in(tools, name, python)
    stand_in(tools, "uv", f'echo "uv $*" >>"{log}"; {made}')
    result = run("setup", "10.0.0.2:/runs", "/mnt/runs")
    assert result.returncode == 0, result.stderr
    first, second = log.read_text().splitlines()
    assert first.startswith("venv -m venv" if has_python else "uv venv")
    if not has_python:
        assert "--seed" in first and "--python 3.12" in first
    assert second == "pip -m pip install -q -c m3po/requirements.txt -e m3po[tpu]"
