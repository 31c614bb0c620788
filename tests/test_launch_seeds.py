"""launch/seeds.sh: which runs it starts, where, how many at a time, and how all of them stop."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.test_launch import clone, stand_in

__all__ = ["clone"]  # a fixture

TRAIN_STAND_IN = """
case "$2" in
pip) exit ;;
m3po_jax.cli.train)
    for argument in "$@"; do
        case "$argument" in
        --workdir=*) workdir="${argument#*=}" ;;
        --config.seed=*) seed="${argument#*=}" ;;
        esac
    done
    echo "$(date +%s%N) begin $seed $(nproc) $*" >>"$LOG"
    mkdir -p "$workdir" && touch "$workdir/metrics.csv"
    trap 'echo "$(date +%s%N) term $seed" >>"$LOG"; exit 75' TERM
    for _ in $(seq "${TENTHS:-2}"); do sleep 0.1; done
    echo "$(date +%s%N) end $seed" >>"$LOG"
    [ "$seed" != "${FAILS:-}" ] || exit 70
    exit ;;
esac
exec PYTHON "$@"
"""


@pytest.fixture
def seeds(clone, tmp_path):
    """Starts the seeds as a process; `events` reads what the stand-in runs noted, in order."""
    log = tmp_path / "runs.log"
    (clone / ".venv").mkdir()
    stand_in(clone / ".venv" / "bin", "python", TRAIN_STAND_IN.replace("PYTHON", sys.executable))
    (clone / ".venv" / ".m3po-root").write_text(f"{clone}\n", encoding="utf-8")

    def start(*arguments, **environment):
        log.write_text("", encoding="utf-8")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("M3PO_", "SEEDS"))}
        return subprocess.Popen(
            ["bash", str(clone / "launch" / "seeds.sh"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**kept, "LOG": str(log), **environment},
            # What starts in the background of a script ignores it, and bash cannot trap it then.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def events():
        lines = sorted(log.read_text(encoding="utf-8").splitlines())
        return [line.split(maxsplit=4)[1:] for line in lines]

    return start, events


def test_seeds_run_two_at_a_time_each_in_its_folder_on_one_core(seeds, clone):
    start, events = seeds
    process = start("--config=my config.py", SEEDS="3 1 7", JOBS="2", FOLDER="a sweep")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    begun = [event for event in events() if event[0] == "begin"]
    # The second and the third begin at the same time, once the first has compiled.
    assert begun[0][1] == "3" and {seed for _, seed, *_ in begun} == {"1", "3", "7"}
    assert {cores for _, _, cores, _ in begun} == {"1"}
    assert begun[0][3].endswith(
        "m3po_jax.cli.train --config=my config.py --config.seed=3 --workdir=a sweep/s3"
    )
    order = [kind for kind, *_ in events()]
    at_once = [order[:n].count("begin") - order[:n].count("end") for n in range(len(order) + 1)]
    assert max(at_once) == 2
    assert sorted(path.name for path in (clone / "a sweep").iterdir()) == sorted(
        ["s1", "s1.log", "s3", "s3.log", "s7", "s7.log"]
    )
    assert "all done" in out


def test_a_seed_that_fails_is_named_and_the_others_go_on(seeds):
    start, events = seeds
    process = start("--config=toy", SEEDS="0 1 2", JOBS="1", FAILS="1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 70 and "not done: seed 1 (" in err and "all done" not in out
    assert [seed for kind, seed, *_ in events() if kind == "end"] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_reaches_every_seed_once_and_starts_no_other(seeds, name):
    start, events = seeds
    process = start("--config=toy", SEEDS="0 1 2", JOBS="2", TENTHS="600")
    while [kind for kind, *_ in events()].count("begin") < 2:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)  # the stand-ins set their traps
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and err.startswith("not done: seed 0 1 (")
    assert [event[:2] for event in events() if event[0] != "begin"] in (
        [["term", "0"], ["term", "1"]],
        [["term", "1"], ["term", "0"]],
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--workdir=a"], {}, "FOLDER=DIR"),
        (["--config.seed=3"], {}, "SEEDS="),
        ([], {"SEEDS": "0 one"}, "one is none"),
        ([], {"JOBS": "0"}, "JOBS=0"),
    ],
)
def test_seeds_refuse_what_is_not_for_all_runs(seeds, arguments, environment, words):
    start, events = seeds
    process = start(*arguments, **environment)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and words in err and err.count("\n") == 1
    assert events() == []
