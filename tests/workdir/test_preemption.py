"""The handler alone; whole runs are in tests/integration/test_interruptions.py."""

import os
import signal
import subprocess
import sys
import threading
import time

from m3po_jax.workdir import preemption


def wait_until(condition):
    end = time.monotonic() + 10.0
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_signal_is_a_request_inside_the_block_only(capfd):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with preemption.stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(stop)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "SIGTERM: finishing this iteration" in capfd.readouterr().err


def test_a_thread_gets_a_request_that_never_comes():
    found = []

    def use():
        with preemption.stop_on_signals() as stop:
            found.append(stop())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]


def ends(script, *numbers):
    """Runs the script and sends it the signals, each after a line of its output."""
    head = "from m3po_jax.workdir.preemption import stop_on_signals\nimport time, signal\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for number in numbers:
        assert process.stdout.readline()
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


BUSY = """
with stop_on_signals() as stop:
    stop()
    print("first", flush=True)
    while not stop():
        time.sleep(0.01)
    print("second", flush=True)
    # a C call that holds the main thread as a compiled step does
    time.sleep(60)
"""


def test_a_second_signal_ends_at_once_even_inside_a_long_call():
    began = time.monotonic()
    code, err = ends(BUSY, signal.SIGINT, signal.SIGTERM)
    assert code == preemption.PREEMPTED
    assert "SIGTERM again: stopping at once" in err
    assert time.monotonic() - began < 30.0


def test_before_the_first_question_a_signal_ends_at_once():
    script = "with stop_on_signals():\n    print(1, flush=True)\n    time.sleep(60)\n"
    code, err = ends(script, signal.SIGTERM)
    assert code == preemption.PREEMPTED
    assert "nothing is lost" in err
