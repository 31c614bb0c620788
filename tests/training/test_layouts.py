"""State in parts over devices: optimizers update their part, checkpoints go from layout to layout.

These tests take four devices, which a process must ask for as it starts: `test_on_four_devices`
runs this file in one that does.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.config import Config
from m3po_jax.learning.optimizers import make_optimizers
from m3po_jax.learning.state import init_agent
from m3po_jax.training import sharding
from m3po_jax.training.optimizer_parts import in_parts, split_axis
from m3po_jax.workdir.checkpoint import Checkpointer
from tests.training import sharded_run

ROOT = pathlib.Path(__file__).parents[2]
on_four = pytest.mark.skipif(jax.device_count() != 4, reason="see test_on_four_devices")
PARTS = 2
# Split along axis 1, 0 and 2, and not at all.
SHAPES = {"encoder": (4, 8), "dynamics": (12, 3), "q": (3, 2, 16), "decoder": (3, 5)}


@pytest.mark.skipif(jax.device_count() == 4, reason="runs the others")
def test_on_four_devices():
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "7 passed, 1 skipped" in done.stdout, done.stdout


def test_the_longest_axis_that_divides_is_split():
    assert split_axis((4, 8), 4) == 1
    assert split_axis((8, 8), 4) == 0
    assert split_axis((12, 10), 4) == 0
    assert split_axis((3, 5), 4) is None
    assert split_axis((0, 5), 5) == 1
    assert split_axis((12,), 4) is None
    assert split_axis((), 4) is None
    assert split_axis((8, 8), 1) is None


def config_of(num_devices, fsdp):
    train = dataclasses.replace(
        sharded_run.CONFIG.train, num_devices=num_devices, fsdp_devices=fsdp
    )
    return dataclasses.replace(sharded_run.CONFIG, train=train)


@on_four
@pytest.mark.parametrize("frozen", [(), ("decoder", "q")])
@pytest.mark.parametrize("scale", [1e-3, 1e3])  # below and above the clip of the norm
def test_an_optimizer_in_parts_does_what_it_does_as_a_whole(frozen, scale, key):
    cfg = Config()
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, frozen=frozen))
    optimizer = make_optimizers(cfg, iterations=1, transitions=1).world_model
    mesh = sharding.choose_devices(config_of(4, PARTS))

    def spec(x):
        axis = split_axis(x.shape, PARTS)
        return jax.P() if axis is None else jax.P(*[None] * axis, sharding.AXES[1])

    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    state = in_state = optimizer.init(params)
    specs = jax.tree.map(spec, state)
    update = jax.jit(
        jax.shard_map(
            in_parts(optimizer, PARTS, sharding.AXES[1]).update,
            mesh=mesh,
            in_specs=(jax.P(), specs, jax.P()),
            out_specs=(jax.P(), specs),
        )
    )
    for index in range(3):
        keys = jax.random.split(jax.random.fold_in(key, index), len(params))
        gradient = {
            name: scale * jax.random.normal(k, params[name].shape)
            for name, k in zip(params, keys, strict=True)
        }
        expected, state = optimizer.update(gradient, state, params)
        found, in_state = update(gradient, in_state, params)
        same = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-9)  # noqa: E731
        jax.tree.map(same, expected, found)
        jax.tree.map(same, state, in_state)
    assert np.max(np.abs(expected["encoder"])) > 0.0
    assert (np.max(np.abs(expected["q"])) == 0.0) == bool(frozen)


def filled(shapes):
    """A state of these shapes and places, of numbers that all differ."""
    draw = np.random.default_rng(0)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(7), leaf.sharding)
        numbers = draw.uniform(-100.0, 100.0, leaf.shape).astype(leaf.dtype)
        return jax.device_put(numbers, leaf.sharding)

    return jax.tree.map(fill, shapes)


@on_four
def test_checkpoints_go_from_any_layout_to_any_other(tmp_path):
    experiment = sharded_run.make_experiment(config_of(4, 2))
    shapes = jax.eval_shape(experiment.init, jax.random.key(0))
    layouts = {
        pair: sharding.placed(sharding.choose_devices(config_of(*pair)), shapes)
        for pair in [(4, 2), (4, 4), (4, 1), (2, 2), (1, 1)]
    }
    split = {
        pair: any(any(x.sharding.spec) for x in jax.tree.leaves(state.agent))
        for pair, state in layouts.items()
    }
    assert split == {(4, 2): True, (4, 4): True, (4, 1): False, (2, 2): True, (1, 1): False}
    words = lambda tree: jax.tree.map(lambda x: np.asarray(sharded_run.words(x)), tree)  # noqa: E731
    for index, (source, targets) in enumerate(
        {(4, 2): list(layouts), (1, 1): [(4, 4)], (4, 1): [(2, 2)]}.items()
    ):
        state = filled(layouts[source])
        with Checkpointer(tmp_path / str(index)) as checkpointer:
            checkpointer.save(1, state, {"note": "x"})
            for target in targets:
                restored, meta = checkpointer.restore_latest(layouts[target])
                assert meta == {"note": "x"}
                jax.tree.map(np.testing.assert_array_equal, words(state), words(restored))
                places = jax.tree.map(lambda x: x.sharding, layouts[target].agent)
                assert jax.tree.map(lambda x: x.sharding, restored.agent) == places


@on_four
def test_an_evaluation_on_four_devices_is_that_of_one(key):
    found = []
    for num_devices in (1, 4):
        experiment = sharded_run.make_experiment(config_of(num_devices, 1))
        parts = dataclasses.replace(experiment, env=experiment.env.resized(4))
        agent = init_agent(parts.networks, parts.optimizers, key)
        play = sharding.shard_evaluate(experiment.mesh, parts, policy="prior")
        found.append(play(agent, jax.random.key(1)))
    one, four = found
    assert one.returns.shape == (8,) and len(np.unique(one.returns)) > 4
    for x, y in zip(one, four, strict=True):
        assert y.sharding.is_fully_replicated and len(y.sharding.device_set) == 4
        np.testing.assert_allclose(x, y, rtol=1e-4)
