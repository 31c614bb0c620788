"""Shared fixtures: a fixed key, strict numerics, deterministic property tests."""

import os

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("m3po", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("m3po")

if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # JAX reads the folder from the environment; tests compile many programs that take under the
    # default threshold of a second each, so these two make the cache hold them as well.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def key() -> jax.Array:
    """A fixed typed key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def strict_numerics():
    """float32 alone, no implicit rank promotion, no implicit dtype promotion.

    It lasts a module, not a test: property tests refuse fixtures that are not remade per example.
    """
    assert not jax.config.jax_enable_x64
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
