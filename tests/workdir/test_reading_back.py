"""A save is read back before an older one goes, and a folder may have any name."""

import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from m3po_jax.workdir import alias, orbax_reading, stored_leaves
from m3po_jax.workdir.checkpoint import Checkpointer, CheckpointError
from tests.workdir.saved_states import assert_bit_equal, damage, data_file, flip_bit, make_state


def planted(checkpointer, monkeypatch, harm):
    """Makes the next checkpoint come to harm on the disk, right after it was written."""
    save = checkpointer._manager.save

    def harmed(step, **arguments):
        saved = save(step, **arguments)
        harm(checkpointer._folder / str(step))
        return saved

    monkeypatch.setattr(checkpointer._manager, "save", harmed)


def harm_meta(folder):
    file = folder / "meta" / "metadata"
    file.write_text(file.read_text().replace("1.5", "2.5"))


def flip_numbers(folder):
    flip_bit(data_file(folder.parents[1], folder.name), 4321)


HARMS = [flip_numbers, damage, harm_meta, lambda folder: shutil.rmtree(folder / "state")]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_is_read_back_before_an_older_one_goes(tmp_path, monkeypatch, harm, keep):
    states = [{"x": jax.random.normal(jax.random.key(i), (40, 25))} for i in range(3)]
    with Checkpointer(tmp_path, max_to_keep=keep) as checkpointer:
        for step in (10, 11):
            checkpointer.save(step, states[step - 10], {"seconds": 1.5})
        planted(checkpointer, monkeypatch, harm)
        with pytest.raises(CheckpointError, match="checkpoints/12 .*cannot be read back"):
            checkpointer.save(12, states[2], {"seconds": 1.5})
        assert checkpointer.latest_step() == 11
    with Checkpointer(tmp_path) as checkpointer:
        assert_bit_equal(checkpointer.restore_latest(states[0])[0], states[1])
    kept = sorted(child.name for child in (tmp_path / "checkpoints").iterdir())
    assert kept[:-1] == ["10", "11"][-keep:] and kept[-1].startswith("12.unreadable-")


def test_reading_back_holds_a_part_at_a_time_and_leaves_out_none(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_reading, "_GROUP_BYTES", 30)
    state = jax.tree.map(stored_leaves.without_empty, make_state(3))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, state, {})
    whole, parts = jax.tree.leaves(state), []
    for tree in orbax_reading.read_to_host(tmp_path / "checkpoints" / "10" / "state", state):
        parts.append([leaf for leaf in jax.tree.leaves(tree) if leaf is not ...])
    assert len(parts) > 3 and sum(map(len, parts)) == len(whole)
    assert all(len(part) == 1 or sum(leaf.nbytes for leaf in part) <= 30 for part in parts)


NAMES = ["v[1]", "a[seed=0]", "[", "]*?", "a\\b", "**", "%5B0%5D {x}#y", "new\nline", "~"]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"not \xff utf-8")])
def test_a_folder_may_have_any_name(tmp_path, name):
    state = make_state(1)
    plain, odd = tmp_path / "plain", tmp_path / name
    for folder in (plain, odd / "run"):
        with Checkpointer(folder) as checkpointer:
            for step in (10, 20, 30):
                checkpointer.save(step, state, {})
        assert {child.name for child in (folder / "checkpoints").iterdir()} == {"20", "30"}
    shutil.copytree(plain, odd / "copy")
    for folder in (odd / "run", odd / "copy"):
        with Checkpointer(folder) as checkpointer:
            assert_bit_equal(checkpointer.restore_latest(state)[0], state)
        part = {"encoder": state.params["encoder"]}
        with Checkpointer(folder) as checkpointer:
            assert_bit_equal(checkpointer.restore_part("params", part), part)


def test_messages_name_the_folder_that_the_user_knows(tmp_path):
    folder = tmp_path / "v[1]"
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {})
        damage(folder / "checkpoints" / "10")
        with pytest.raises(CheckpointError) as caught:
            checkpointer.restore_latest({"x": jnp.ones(3)})
    assert str(folder / "checkpoints" / "10") in str(caught.value)
    assert "/proc/" not in str(caught.value)


def test_without_proc_a_link_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(alias, "_DESCRIPTORS", tmp_path / "nothing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Checkpointer(tmp_path / "v[1]") as checkpointer:
        assert len(list(tmp_path.glob("m3po_jax_*"))) == 1
        checkpointer.save(10, {"x": jnp.ones(3)}, {})
        assert checkpointer.restore_latest({"x": jnp.zeros(3)}) is not None
    assert not list(tmp_path.glob("m3po_jax_*"))


def test_checkpoints_can_lie_elsewhere(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "scratch")
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {})
    assert (tmp_path / "scratch" / "10").is_dir()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore_latest({"x": jnp.zeros(3)}) is not None


def test_a_checkpoint_whose_deletion_was_cut_short_is_none(tmp_path, monkeypatch):
    with Checkpointer(tmp_path, max_to_keep=1) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {})
        with monkeypatch.context() as killed:
            killed.setattr(shutil, "rmtree", lambda *_, **__: None)
            checkpointer.save(20, {"x": jnp.ones(3)}, {})
    assert {child.name for child in (tmp_path / "checkpoints").iterdir()} == {"10.outdated", "20"}
    with Checkpointer(tmp_path, max_to_keep=1) as checkpointer:
        assert checkpointer.latest_step() == 20
        checkpointer.save(30, {"x": jnp.ones(3)}, {})
    assert {child.name for child in (tmp_path / "checkpoints").iterdir()} == {"30"}
