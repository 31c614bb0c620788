import pathlib
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from m3po_jax.training.checkpoint import Checkpointer, CheckpointError


@flax.struct.dataclass
class State:
    key: jax.Array
    keys: jax.Array
    params: dict
    opt: optax.OptState
    counter: jax.Array
    env: tuple


def make_state(seed=0):
    key = jax.random.key(seed)
    params = {
        "encoder": {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)},
        "head": {"w": jnp.ones((2, 1), jnp.float32)},
    }
    fast = optax.chain(optax.clip(1.0), optax.adam(1.0))
    optimizer = optax.multi_transform(
        {"slow": optax.adam(1e-4), "fast": fast}, {"encoder": "slow", "head": "fast"}
    )
    return State(
        key=key,
        keys=jax.random.split(key, 4),
        params=params,
        opt=optimizer.init(params),
        counter=jnp.asarray(7, jnp.int32),
        env=(None, (), {"done": jnp.array([True, False])}),
    )


def assert_bit_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.weak_type == b.weak_type
        np.testing.assert_array_equal(a, b)


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


def damage(folder: pathlib.Path) -> None:
    """Truncates every data file of a checkpoint."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.parent.name == "d"]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:10])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_refused_and_the_older_one_needs_the_users_word(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.full(300, 10)}, {})
        checkpointer.save(20, {"x": jnp.full(300, 20)}, {})
    newest = tmp_path / "checkpoints" / "20"
    damage(newest)
    target = {"x": jnp.zeros(300, jnp.int32)}
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError) as caught:
        checkpointer.restore_latest(target)
    assert str(newest) in str(caught.value)
    assert "remove that folder to go on from checkpoint 10" in str(caught.value)
    shutil.rmtree(newest)
    with Checkpointer(tmp_path) as checkpointer:
        restored, _ = checkpointer.restore_latest(target)
    np.testing.assert_array_equal(restored["x"], 10)


@pytest.mark.parametrize("name", ["state", "meta"])
def test_a_checkpoint_that_lost_a_part_never_restarts_in_silence(tmp_path, name):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, {"x": jnp.ones(3)}, {"n": 1})
    shutil.rmtree(tmp_path / "checkpoints" / "10" / name)
    match = r"checkpoints/10.*--overwrite"
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match=match):
        checkpointer.restore_latest({"x": jnp.ones(3)})


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
