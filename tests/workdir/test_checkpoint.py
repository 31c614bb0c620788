import json
import random
import re
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.workdir import checkpoint, stored_leaves
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError
from m3po_jax.workdir.metrics import MetricsError, MetricsWriter
from tests.workdir.saved_states import (
    assert_bit_equal,
    damage,
    data_file,
    files_of,
    fill,
    flip_bit,
    make_state,
    small_disk,
)


@pytest.mark.parametrize("abstract", [False, True])
def test_state_and_meta_come_back_bit_for_bit(tmp_path, abstract):
    state = make_state(3)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(64, state, {"env_steps": 64, "wall_seconds": 1.5})
    target = jax.eval_shape(make_state) if abstract else make_state(4)
    with Checkpointer(tmp_path) as checkpointer:
        restored, meta = checkpointer.restore_latest(target)
    assert_bit_equal(restored, state)
    assert meta == {"env_steps": 64, "wall_seconds": 1.5}


def test_restored_keys_draw_the_same_numbers(tmp_path):
    state = make_state(5)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
        restored, _ = checkpointer.restore_latest(make_state())
    assert jax.random.uniform(restored.key) == jax.random.uniform(state.key)


def test_the_restored_state_compiles_to_the_same_program(tmp_path):
    """Another weak type or sharding would trace or compile the training step a second time."""
    traces = []

    @jax.jit
    def step(state):
        traces.append(1)
        return state.replace(counter=state.counter + 1)

    state = step(make_state())
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
        restored, _ = checkpointer.restore_latest(state)
    step(state)
    step(restored)
    assert len(traces) == 1


def test_donating_the_state_after_saving_does_not_harm_the_checkpoint(tmp_path):
    big = jnp.arange(2_000_000, dtype=jnp.float32)
    expected = np.array(big)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"x": big}, {})
        jax.jit(lambda x: x * 0.0, donate_argnums=0)(big).block_until_ready()
        restored, _ = checkpointer.restore_latest({"x": jnp.zeros_like(expected)})
    np.testing.assert_array_equal(restored["x"], expected)


def test_nothing_saved_is_none(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore_latest(make_state()) is None
        assert checkpointer.latest_step() is None


def test_the_newest_two_are_kept_and_the_newest_restored(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (10, 20, 30):
            checkpointer.save(step, {"x": jnp.full(3, step)}, {"step": step})
        restored, meta = checkpointer.restore_latest({"x": jnp.zeros(3, jnp.int32)})
        assert checkpointer.latest_step() == 30
    assert meta == {"step": 30}
    np.testing.assert_array_equal(restored["x"], 30)
    folders = {child.name for child in (tmp_path / "checkpoints").iterdir()}
    assert folders == {"20", "30"}


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {"n": 1})
        checkpointer.save(10, {"x": jnp.zeros(3)}, {"n": 2})
        restored, meta = checkpointer.restore_latest({"x": jnp.zeros(3)})
    assert meta == {"n": 1}
    np.testing.assert_array_equal(restored["x"], 1.0)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"x": jnp.zeros(4)}, ["x is float32[3] there and float32[4] here"]),
        ({"x": jnp.zeros(3, jnp.int32)}, ["x is float32[3] there and int32[3] here"]),
        ({}, ["x is float32[3] there and absent here"]),
        ({"x": jnp.zeros(3), "y": jnp.zeros(1)}, ["y is absent there and float32[1] here"]),
        ({f"x{i}": jnp.zeros(1) for i in range(5)}, ["x0 is absent there", "3 more"]),
    ],
)
def test_another_state_is_refused_by_name(tmp_path, target, words):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {})
        with pytest.raises(CheckpointError) as caught:
            checkpointer.restore_latest(target)
    text = str(caught.value)
    assert str(tmp_path / "checkpoints" / "10") in text
    assert all(word in text for word in words), text


def test_a_damaged_checkpoint_is_refused_and_the_older_one_needs_the_users_word(tmp_path):
    with Checkpointer(tmp_path, max_to_keep=3) as checkpointer:
        for step in (5, 10, 20):
            checkpointer.save(step, {"x": jnp.full(300, step)}, {})
    newest = tmp_path / "checkpoints" / "20"
    damage(newest)
    target = {"x": jnp.zeros(300, jnp.int32)}
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError) as caught:
        checkpointer.restore_latest(target)
    assert str(newest) in str(caught.value)
    advice = str(caught.value).partition("to resume from checkpoint 10: ")[2]
    subprocess.run(advice, shell=True, check=True)  # the user follows the advice
    with Checkpointer(tmp_path) as checkpointer:
        restored, _ = checkpointer.restore_latest(target)
    np.testing.assert_array_equal(restored["x"], 10)


@pytest.mark.parametrize("name", ["state", "meta"])
def test_a_checkpoint_that_lost_a_part_never_restarts_in_silence(tmp_path, name):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {"n": 1})
    shutil.rmtree(tmp_path / "checkpoints" / "10" / name)
    match = r"checkpoints/10.*another --workdir"
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match=match):
        checkpointer.restore_latest({"x": jnp.ones(3)})


@pytest.mark.parametrize("part", [False, True])
def test_reads_that_outlive_a_failed_one_print_nothing(tmp_path, monkeypatch, part):
    state = {"agent": {str(number): jnp.ones((64, 64)) for number in range(200)}}
    printed = []
    monkeypatch.setattr("sys.unraisablehook", printed.append)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
        damage(tmp_path / "checkpoints" / "1")
        for _ in range(5):
            with pytest.raises(CheckpointError, match="cannot be read"):
                if part:
                    checkpointer.restore_part("agent", state["agent"])
                else:
                    checkpointer.restore_latest(state)
        time.sleep(1.0)  # any time after the error
    assert not printed


def test_a_write_that_fails_is_named_and_leaves_the_older_checkpoint(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {})
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*20.*disk"):
            checkpointer.save(20, {"x": jnp.ones(3)}, {"not json": object()})
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() == 10
        restored, _ = checkpointer.restore_latest({"x": jnp.zeros(3)})
    np.testing.assert_array_equal(restored["x"], 1.0)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="cannot use the checkpoint folder"):
        Checkpointer(tmp_path)


def delete(file, _):
    file.unlink()


def truncate(file, number):
    file.write_bytes(file.read_bytes()[: number % file.stat().st_size])


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory):
    """A saved state of numbers that do not compress, and its files."""
    folder = tmp_path_factory.mktemp("whole")
    state = {"x": jax.random.normal(jax.random.key(0), (40, 25)), "key": jax.random.key(3)}
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(10, state, {"env_steps": 1234567})
    return folder, state


@pytest.mark.parametrize("harm", [flip_bit, delete, truncate])
def test_any_damage_is_refused_or_harmless(whole_checkpoint, tmp_path, harm):
    """In every file of the checkpoint: what comes back is what was saved, or nothing."""
    whole, state = whole_checkpoint
    numbers = random.Random(1)
    refused = 0
    names = [file.relative_to(whole) for file in files_of(whole / "checkpoints" / "10")]
    assert len(names) >= 6
    for index, name in enumerate(names):
        copy = tmp_path / str(index)
        shutil.copytree(whole, copy)
        harm(copy / name, numbers.randrange(8 * (copy / name).stat().st_size))
        with Checkpointer(copy) as checkpointer:
            try:
                restored = checkpointer.restore_latest(jax.eval_shape(lambda: state))
            except CheckpointError as error:
                assert str(copy / "checkpoints" / "10") in str(error)
                assert "another --workdir" in str(error)
                refused += 1
                continue
            if restored is None:  # not seen as a checkpoint; the run's metrics give it away
                continue
        assert_bit_equal(restored[0], state)
        assert restored[1] == {"env_steps": 1234567}
    assert refused >= 2


def test_every_flipped_bit_of_the_numbers_is_noticed(whole_checkpoint, tmp_path):
    whole, state = whole_checkpoint
    numbers = random.Random(2)
    for index in range(20):
        copy = tmp_path / str(index)
        shutil.copytree(whole, copy)
        file = data_file(copy)
        flip_bit(file, numbers.randrange(8 * file.stat().st_size))
        with Checkpointer(copy) as checkpointer:
            try:
                restored, _ = checkpointer.restore_latest(jax.eval_shape(lambda: state))
            except CheckpointError as error:
                assert "cannot be read" in str(error)
                continue
        assert_bit_equal(restored, state)


def test_a_wrong_number_is_named(tmp_path, monkeypatch):
    """As if the disk had given back other bits that still decode."""
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"a": jnp.ones(3), "b": jnp.ones(2)}, {"n": 1})
    sums = stored_leaves.checksums

    def other(state, meta):
        return {**sums(state, meta), "state/b": 1}

    monkeypatch.setattr(stored_leaves, "checksums", other)
    match = "checkpoints/10 cannot be read: state/b is not what was saved"
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match=match):
        checkpointer.restore_latest({"a": jnp.ones(3), "b": jnp.ones(2)})


def test_a_changed_meta_is_noticed(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"a": jnp.ones(3)}, {"wall_seconds": 1.5})
    file = tmp_path / "checkpoints" / "10" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    file.write_text(json.dumps({**meta, "wall_seconds": 2.5}))
    match = "meta is not what was saved"
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match=match):
        checkpointer.restore_latest({"a": jnp.ones(3)})


def test_a_full_disk_leaves_the_older_checkpoint_and_room_mends_it(tmp_path, capfd):
    old, new = ({"x": jnp.arange(9.0) + start} for start in (0.0, 1.0))
    with small_disk(tmp_path / "disk", "2m") as disk:
        with Checkpointer(disk) as checkpointer, MetricsWriter(disk) as writer:
            checkpointer.save(10, old, {})
            writer.write({"env_steps": 10, "loss": 1.0})
            fill(disk / "filler")
            with pytest.raises(CheckpointError, match=r"cannot write .*checkpoints/20.*has space"):
                checkpointer.save(20, new, {})
            fill(disk / "more")
            with pytest.raises(MetricsError, match=r"cannot write .*metrics.csv: No space left"):
                for step in range(11, 9000):
                    writer.write({"env_steps": step, "loss": 1.0})
            with pytest.raises(MetricsError, match=r"cannot write .*eval.jsonl: No space left"):
                writer.write_evaluation({"env_steps": 10, "text": "x" * 9000})
        assert "Traceback" not in capfd.readouterr().err
        (disk / "filler").unlink()
        (disk / "more").unlink()
        with Checkpointer(disk) as checkpointer, MetricsWriter(disk) as writer:
            restored, _ = checkpointer.restore_latest(old)
            assert_bit_equal(restored, old)
            writer.truncate_after(10)
            assert (disk / "metrics.csv").read_text() == "env_steps,loss\n10,1\n"
            checkpointer.save(20, new, {})
            restored, _ = checkpointer.restore_latest(old)
            assert_bit_equal(restored, new)


def test_empty_arrays_come_back(tmp_path):
    """MuJoCo's states hold arrays without elements, as the activations of motors without any."""
    state = {"act": jnp.zeros((3, 0)), "none": jnp.zeros((0,), jnp.int32), "x": jnp.arange(3.0)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
    with Checkpointer(tmp_path) as checkpointer:
        restored, _ = checkpointer.restore_latest(jax.eval_shape(lambda: state))
    for name, leaf in state.items():
        assert restored[name].dtype == leaf.dtype
        np.testing.assert_array_equal(restored[name], leaf)


@pytest.mark.parametrize(
    ("number", "writer"), [(1, "m3po_jax 0.1.0 of commit [0-9a-f]{7} or before"), (3, "a later v")]
)
@pytest.mark.parametrize("part", [False, True])
def test_another_format_is_refused_with_who_wrote_it(tmp_path, monkeypatch, number, writer, part):
    state = {"agent": {"x": jnp.ones(3)}}
    with monkeypatch.context() as other, Checkpointer(tmp_path) as checkpointer:
        other.setattr(checkpoint, "FORMAT", number)
        checkpointer.save(1, state, {"n": 1})
    if number == 1:  # it had no number then
        file = tmp_path / "checkpoints" / "1" / "meta" / "metadata"
        written = json.loads(file.read_text())
        assert written.pop("format") == 1
        file.write_text(json.dumps(written))
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError) as caught:
        if part:
            checkpointer.restore_part("agent", state["agent"])
        else:
            checkpointer.restore_latest({"agent": {"x": jnp.ones(4)}})
    text = str(caught.value)
    assert re.search(rf"1 has format {number}, which {writer}.* this version reads format 2", text)
    assert "config.json" in text and "another --workdir" in text
