"""A small state of every kind of leaf, ways to harm a checkpoint of it, and a disk that is full."""

import contextlib
import os
import pathlib
import subprocess

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest


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


def damage(folder: pathlib.Path) -> None:
    """Truncates every data file of a checkpoint."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.parent.name == "d"]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:20])


def files_of(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)


def flip_bit(file, number):
    data = bytearray(file.read_bytes())
    data[number // 8 % len(data)] ^= 1 << number % 8
    file.write_bytes(data)


def data_file(folder, step="10"):
    """The largest file: it holds the numbers of x."""
    return max(files_of(folder / "checkpoints" / step / "state"), key=lambda f: f.stat().st_size)


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file):
    """Writes until the disk is full."""
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as out:
        while out.write(b"x" * 512):
            pass
