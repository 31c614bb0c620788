"""One device, several, and several processes do the same: state, raw gradients and metrics."""

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from m3po_jax.config import ConfigError
from m3po_jax.ops import counting
from m3po_jax.training import sharding
from tests.training import sharded_run

ROOT = pathlib.Path(__file__).parents[2]
# Sums over devices round in another order. The largest difference seen in a leaf is 2e-4 of its
# largest entry, in a leaf whose entries have just left zero.
TOLERANCE = 1e-3


def start(out, num_devices, iterations, *rest):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        # It runs briefly, so little optimisation pays.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    script = pathlib.Path(sharded_run.__file__)
    command = [sys.executable, str(script), str(out), str(num_devices), str(iterations), *rest]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def result(out, *processes):
    for process in processes:
        text, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, text[-4000:]
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def one(folder):
    return result(folder / "one.npz", start(folder / "one.npz", 1, 3))


@pytest.fixture(scope="module")
def four(folder):
    return result(folder / "four.npz", start(folder / "four.npz", 4, 3))


def processes(out, number, *flags, num_devices=4):
    """A run of so many processes, with so many devices in all."""
    rest = (str(number), str(free_port()), *flags)
    return result(out, *[start(out, num_devices, 3, str(i), *rest) for i in range(number)])


@pytest.fixture(scope="module")
def two_by_two(folder):
    """Two processes with two devices each."""
    return processes(folder / "two_by_two.npz", 2)


@pytest.fixture(scope="module")
def four_by_one(folder):
    """Four processes with one device each."""
    return processes(folder / "four_by_one.npz", 4)


@pytest.fixture(scope="module")
def fsdp(folder):
    """Two times two devices share one copy of parameters and optimizers."""
    return result(folder / "fsdp.npz", start(folder / "fsdp.npz", 4, 3, "--fsdp"))


@pytest.fixture(scope="module")
def by_task(folder):
    """Each of two devices, in a process of its own, steps one of the tasks."""
    return processes(folder / "by_task.npz", 2, "--by_task", num_devices=2)


def differences(expected, found):
    """The largest difference of each leaf that differs, in units of its largest entry."""
    assert expected.keys() == found.keys()
    different = {}
    for name, x in expected.items():
        y = found[name]
        assert x.shape == y.shape and x.dtype == y.dtype, name
        if x.dtype.kind != "f":
            if not np.array_equal(x, y):
                different[name] = np.inf
            continue
        if not np.array_equal(np.isnan(x), np.isnan(y)):
            different[name] = np.inf
            continue
        x, y = np.nan_to_num(x), np.nan_to_num(y)
        error = np.max(np.abs(x - y), initial=0.0)
        if error > 0.0:
            different[name] = error / np.max(np.abs(x), initial=1e-9)
    return different


def raw_gradients(arrays):
    """The gradients that `recording` kept, by the part of the agent that they are of."""
    parts = {
        "world_model": "state.agent.world_model_opt[0]",
        "policy": "state.agent.policy_opt.opt_state[0]",
        "critic": "state.agent.critic_opt[0]",
        "exploration": "state.agent.exploration_opt[0]",
    }
    return {
        part: {name: x for name, x in arrays.items() if name.startswith(prefix)}
        for part, prefix in parts.items()
        if f"metrics/{part}/skipped" in arrays  # it learned
    }


def assert_those_of_one_device(one, found, parts):
    assert counting.whole(one["state.updates"]) == 3
    gradients = raw_gradients(one)
    assert gradients.keys() == parts
    for part, gradient in gradients.items():
        assert len(gradient) > 4, part
        assert max(np.max(np.abs(x)) for x in gradient.values()) > 1e-3, part
        worst = max(differences(gradient, raw_gradients(found)[part]).values(), default=0.0)
        assert worst < TOLERANCE, part
    wrong = {k: d for k, d in differences(one, found).items() if d > TOLERANCE}
    assert not wrong


@pytest.mark.parametrize(
    "many",
    [
        "four",
        "two_by_two",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("four_by_one", "fsdp", "by_task")),
    ],
)
def test_raw_gradients_and_the_whole_state_are_those_of_one_device(one, many, request):
    found = request.getfixturevalue(many)
    assert_those_of_one_device(one, found, {"world_model", "policy", "exploration"})


@pytest.mark.slow
def test_gradients_of_what_learns_from_rollouts_are_those_of_one_device(folder):
    one, four = (
        result(out, start(out, n, 3, "--real"))
        for n, out in ((n, folder / f"real{n}.npz") for n in (1, 4))
    )
    assert_those_of_one_device(one, four, {"world_model", "policy", "exploration", "critic"})


@pytest.mark.slow
def test_a_wrong_sum_over_devices_is_found(one, folder):
    """The comparison above fails for means in the place of sums; Adam alone would hide them."""
    broken = result(folder / "broken.npz", start(folder / "broken.npz", 4, 3, "--broken"))
    for part, gradient in raw_gradients(one).items():
        assert max(differences(gradient, raw_gradients(broken)[part]).values()) > 0.1, part


@pytest.mark.slow
def test_twenty_iterations_on_four_devices_follow_one_device(folder):
    runs = [(folder / f"long{n}.npz", n) for n in (1, 4)]
    started = [(out, start(out, n, 20)) for out, n in runs]
    one, four = (result(out, process) for out, process in started)
    losses = [name for name in one if name.endswith(("loss", "/kl", "gradient_norm", "target"))]
    assert len(losses) >= 12
    for name in losses:
        x, y = one[name][1:], four[name][1:]
        assert np.all(np.isfinite(x)), name
        # The planner picks elites: rounding turns a near tie, and that environment goes its way.
        error = np.abs(x - y) / np.max(np.abs(x))
        assert np.mean(error) < 0.02 and np.max(error) < 0.1, (name, error)


def trace(*, fsdp):
    """Traces the step for four devices that need not exist."""
    experiment = sharded_run.make_experiment()
    shapes = jax.eval_shape(experiment.init, jax.random.key(0))
    mesh = jax.sharding.AbstractMesh(
        (4 // fsdp, fsdp), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    jax.eval_shape(sharding.shard_train_step(mesh, experiment), shapes)


def test_a_missing_sum_over_devices_does_not_even_trace(monkeypatch):
    trace(fsdp=2)
    psum = jax.lax.psum
    monkeypatch.setattr(jax.lax, "psum", lambda x, axis_name: x)
    with pytest.raises((ValueError, TypeError), match="vary|replicated|manual axis"):
        trace(fsdp=1)
    monkeypatch.setattr(jax.lax, "psum", psum)


@pytest.mark.parametrize(
    ("changes", "num_devices", "words"),
    [
        ({"env": {"num_envs": 6}}, 4, ["toy/PointReachA has 6 environments", "nearest: 8"]),
        (
            {"world_model": {"batch_size": 20}},
            4,
            ["world_model.batch_size = 20", "nearest: 16"],
        ),
        ({"critic": {"minibatches": 32}}, 4, ["critic.minibatches = 32", "nearest: 16"]),
        (
            {"train": {"task_placement": "by_task"}},
            4,
            ["task_placement = 'by_task'", "only 2 tasks", "at most 2 devices"],
        ),
        (
            {
                "tasks": ("toy/PointReachA?num_envs=16", "toy/TerminatingPole"),
                "train": {"task_placement": "by_task"},
            },
            2,
            ["toy/TerminatingPole: 8", "without the option num_envs", "or set 'sharded'"],
        ),
    ],
)
def test_what_does_not_split_is_refused_by_name(changes, num_devices, words):
    from m3po_jax.config_validation import validate
    from m3po_jax.workload import most_devices

    parts = {
        part: dataclasses.replace(getattr(sharded_run.CONFIG, part), **values)
        if isinstance(values, dict)
        else values
        for part, values in changes.items()
    }
    config = dataclasses.replace(sharded_run.CONFIG, **parts)
    validate(config)  # 0 devices: whatever fits
    assert most_devices(config, num_devices) in (1, 2, 3)
    train = dataclasses.replace(config.train, num_devices=num_devices)
    with pytest.raises(ConfigError) as caught:
        validate(dataclasses.replace(config, train=train))
    assert all(word in str(caught.value) for word in words), caught.value


def test_more_devices_than_there_are_are_refused():
    train = dataclasses.replace(sharded_run.CONFIG.train, num_devices=8)
    if jax.device_count() < 8:
        with pytest.raises(ConfigError, match="num_devices = 8 is more than the 1"):
            sharding.choose_devices(dataclasses.replace(sharded_run.CONFIG, train=train))


@pytest.mark.parametrize(
    ("num_devices", "fsdp", "words"),
    [
        (4, 3, "fsdp_devices = 3 does not divide 4 devices"),
        (1, 2, "fsdp_devices = 2 does not divide 1 devices"),
        (0, 16, "toy/PointReachA has 8 environments"),
    ],
)
def test_copies_that_do_not_split_are_refused(num_devices, fsdp, words):
    from m3po_jax.config_validation import validate

    train = dataclasses.replace(
        sharded_run.CONFIG.train, num_devices=num_devices, fsdp_devices=fsdp
    )
    with pytest.raises(ConfigError, match=words):
        validate(dataclasses.replace(sharded_run.CONFIG, train=train))


def test_more_devices_for_a_copy_than_there_are_are_refused():
    fsdp = 2 * jax.device_count()
    train = dataclasses.replace(sharded_run.CONFIG.train, fsdp_devices=fsdp)
    with pytest.raises(ConfigError, match=f"fsdp_devices = {fsdp} is more than"):
        sharding.choose_devices(dataclasses.replace(sharded_run.CONFIG, train=train))


def test_places_cover_the_whole_state():
    experiment = sharded_run.make_experiment()
    shapes = experiment.state_shapes()
    specs = jax.tree.map(lambda x: x.sharding.spec, shapes)
    assert set(jax.tree.leaves(specs.agent)) == {jax.P()}
    rows = jax.tree.leaves((specs.rollout, specs.replay.data))
    assert set(rows) == {jax.P(sharding.AXES)}
    for leaf in jax.tree.leaves((shapes.rollout, shapes.replay.data)):
        assert leaf.shape[0] % 8 == 0


def draws(num_devices):
    """Every environment's key on `num_devices` devices, in the order of the whole batch."""
    env = sharded_run.make_experiment().env
    share = env.shard(num_devices, ("shares",))
    key = jax.random.key(1)
    keys = jax.vmap(lambda _: jax.random.key_data(share.env_keys(key)), axis_name="shares")(
        np.arange(num_devices)
    )
    return np.asarray(keys).reshape(-1, 2)


def test_an_environment_draws_the_same_on_any_number_of_devices():
    for num_devices in (2, 4, 8):
        np.testing.assert_array_equal(draws(num_devices), draws(1))
