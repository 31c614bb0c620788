"""Rows in chunks on a CPU."""

import functools

import jax
import numpy as np
import pytest

from m3po_jax.learning import rollout


def draw(x, key):
    return x["a"] + jax.random.normal(key, (3,)), x["a"].sum()


@pytest.mark.parametrize("size", [0, 2, 3, 7, 100])
def test_chunks_of_rows_give_what_all_rows_at_once_give(size):
    inputs = ({"a": np.arange(21.0, dtype=np.float32).reshape(7, 3)},)
    inputs += (jax.random.split(jax.random.key(0), 7),)
    chunked = jax.jit(functools.partial(rollout._map_rows, draw, size=size))(inputs)
    for a, b in zip(chunked, jax.vmap(draw)(*inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("platform", "size", "chunked"), [("cpu", 2, True), ("cpu", 8, False), ("cuda", 2, False)]
)
def test_only_a_cpu_takes_rows_in_chunks(platform, size, chunked):
    rows = np.zeros((8, 4), np.float32)
    mapped = jax.jit(lambda x: rollout._map_rows(lambda row: row * 2.0, (x,), size=size))
    text = mapped.trace(rows).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) == chunked
