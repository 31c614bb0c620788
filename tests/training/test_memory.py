"""What does not fit into memory is refused with its bytes."""

import types

import jax
import jax.numpy as jnp
import pytest

from m3po_jax.config import from_config_dict
from m3po_jax.training import memory
from m3po_jax.training.experiment import make_experiment
from m3po_jax.training.memory import MemoryShortage
from tests.integration import tiny_config

GIB = 2**30


def abstract(*shape, dtype=jnp.float32):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def test_a_state_beyond_memory_is_refused_with_its_bytes(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 3 * GIB)
    key = jax.eval_shape(lambda: jax.random.key(0))
    small = {"agent": {"w": abstract(GIB // 4), "key": key}}
    memory.require_room({**small, "replay": [abstract(GIB // 4 - 10, 1)]})
    with pytest.raises(MemoryShortage) as caught:
        memory.require_room({**small, "replay": [abstract(GIB // 4, 8), abstract(0)]})
    text = str(caught.value)
    assert "needs at least 9.0 GiB and" in text and "has 3.0 GiB free" in text
    assert "agent 1.0 GiB, replay 8.0 GiB" in text


def test_a_program_beyond_memory_is_refused(monkeypatch):
    compiled = jax.jit(lambda x: x @ x.T @ x, donate_argnums=0).lower(abstract(256, 256)).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    assert needed >= 256 * 256 * 4
    for free in (needed, None):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        memory.require_room_to_run(compiled)
    monkeypatch.setattr(memory, "free_bytes", lambda _: needed - 1)
    with pytest.raises(MemoryShortage, match=r"needs 0\.0 GiB .* has 0\.0 GiB free"):
        memory.require_room_to_run(compiled)


def device(platform, **statistics):
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: statistics or None)


def test_what_is_free_on_an_accelerator():
    assert memory.free_bytes(device("gpu", bytes_limit=100, bytes_in_use=30)) == 70
    assert memory.free_bytes(device("tpu")) is None


def test_what_is_free_on_the_host(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes(device("cpu")) is None
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable:  50 kB\nSwapFree: 7 kB\n")
    assert memory.free_bytes(device("cpu")) == 57 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("20000\n")
    assert memory.free_bytes(device("cpu")) == 57 * 1024
    (tmp_path / "memory.max").write_text("30000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 4000\n")
    assert memory.free_bytes(device("cpu")) == 14_000


def test_plans_of_millions_of_samples_are_refused_before_they_compile(monkeypatch):
    """A sample holds 2 steps of 2 actions, a latent of 8 and a layer of 8: 20 float32."""
    config = tiny_config.get_config()
    config.planner.num_samples = 16_000_000
    experiment = make_experiment(from_config_dict(config))
    assert experiment.env.batch_size == 2
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2 * 16_000_000 * 20 * 4)
    text = r"plans of 16,000,000 samples \(planner.num_samples\) 2\.4 GiB"
    with pytest.raises(MemoryShortage, match=text):
        experiment.require_room()
