"""Numbers that are not finite: which updates are left out, and how a run ends."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from m3po_jax import config as config_lib
from m3po_jax.learning.fitting import fit
from m3po_jax.learning.state import AgentState
from m3po_jax.networks.factory import AgentParams
from m3po_jax.ops import counting
from m3po_jax.policy import trust_region
from m3po_jax.training.fault import FaultWatch, NumericsError, skipped_modules
from m3po_jax.workdir.checkpoint import Checkpointer

OK = {"world_model/skipped": np.float32(0), "critic/skipped": np.float32(0), "loss": np.float32(1)}
BAD = {**OK, "world_model/skipped": np.float32(3)}


def bits_equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def quadratic(params, batch, key):
    """A loss whose minibatches can carry a NaN, with a KL that stays inside the bound."""
    del key
    return jnp.mean((params["w"] - batch) ** 2), 1e-3 * jnp.sum(params["w"] ** 2)


def steep(params, batch, key):
    """A finite loss with a gradient that is not: the derivative of sqrt at 0, times 0."""
    loss, kl = quadratic(params, batch, key)
    factor = jnp.where(jnp.any(batch == 7.0), 0.0, 1.0)
    return loss + 0.0 * jnp.sqrt(factor * params["w"][0]), kl


@pytest.mark.parametrize("kind", ["clip", "kl", "none"])
@pytest.mark.parametrize(("loss_fn", "bad"), [(quadratic, jnp.nan), (steep, 7.0)])
def test_a_policy_step_with_a_bad_loss_or_gradient_is_left_out(key, kind, loss_fn, bad):
    cfg = config_lib.PolicyConfig(trust_region=kind, epochs=1, minibatches=2, kl_target=1.0)
    optimizer = optax.adam(0.1)
    params = {"w": jnp.full(2, 0.5)}
    state = trust_region.init_trust_region(params, optimizer)
    run = jax.jit(
        functools.partial(
            trust_region.trust_region_update, loss_fn, optimizer=optimizer, config=cfg
        )
    )
    # in one of the two minibatches: one step is taken
    _, one_state, metrics = run(params, state, jnp.ones((4, 2)).at[3].set(bad), key)
    assert metrics["skipped"] == 1.0 and metrics["steps"] == 1.0
    assert one_state.opt_state[0].count == 1
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(one_state))
    # in both: nothing moves
    new, new_state, metrics = run(params, state, jnp.full((4, 2), bad), key)
    assert metrics["skipped"] == 2.0 and metrics["steps"] == 0.0
    assert bits_equal(new, params) and bits_equal(new_state, state)


def test_a_regression_step_with_a_bad_target_is_left_out(key):
    config = config_lib.Config(critic=config_lib.CriticConfig(epochs=3, minibatches=2))
    optimizer = optax.adam(0.1)
    params = {"w": jnp.ones(2)}
    agent = AgentState(
        params=AgentParams(world_model={}, policy={}, critic=params, exploration={}),
        critic_opt=optimizer.init(params),
        **dict.fromkeys(
            ("target_q", "target_exploration", "world_model_opt", "policy_opt", "exploration_opt")
        ),
        statistics=None,
    )
    parts = types.SimpleNamespace(
        config=config, axis_name=(), optimizers=types.SimpleNamespace(critic=optimizer)
    )

    def loss_fn(params, batch):
        return jnp.mean((params["w"] - batch) ** 2)

    def fitted(data):
        new, metrics = fit("critic", loss_fn, agent, data, key, parts=parts)
        return new.params.critic, new.critic_opt, metrics

    new, opt_state, metrics = fitted(jnp.zeros((4, 2)).at[0, 0].set(jnp.inf))
    assert metrics["critic/skipped"] == 3.0  # one of two minibatches in each of three epochs
    assert opt_state[0].count == 3
    assert np.all(np.isfinite(new["w"])) and not bits_equal(new, params)
    new, opt_state, metrics = fitted(jnp.full((4, 2), jnp.nan))
    assert metrics["critic/skipped"] == 6.0
    assert bits_equal(new, params) and bits_equal(opt_state, optimizer.init(params))


def test_modules_are_named():
    assert skipped_modules(OK) == []
    assert skipped_modules({**BAD, "critic/skipped": np.float32(1)}) == ["world_model", "critic"]


def watch(tmp_path, limit=3):
    (tmp_path / "config.json").write_text("{}")
    return FaultWatch(tmp_path, limit=limit)


def test_only_iterations_in_a_row_count(tmp_path):
    faults = watch(tmp_path)
    faults.note([BAD, BAD, OK, BAD])
    faults.note([BAD])
    assert not faults.suspicious
    faults.note([BAD])
    assert faults.suspicious
    faults.note([OK])
    assert not faults.suspicious


def test_one_more_stops_the_run_with_a_bundle(tmp_path):
    faults = watch(tmp_path)
    faults.note([BAD] * 3)
    faults.save_state(9, {"x": jnp.arange(3.0)}, {"env_steps": 90})
    with pytest.raises(NumericsError) as caught:
        faults.judge(BAD)
    text = str(caught.value)
    for word in ("world_model", "4 iterations", "max_skipped_updates = 3", "replay_fault"):
        assert word in text, text
    assert str(tmp_path / "fault") in text
    assert caught.value.exit_code == 70
    assert json.loads((tmp_path / "fault" / "metrics.json").read_text())["world_model/skipped"] == 3
    assert (tmp_path / "fault" / "config.json").exists()
    with Checkpointer(tmp_path / "fault") as checkpointer:
        state, meta = checkpointer.restore_latest({"x": jnp.zeros(3)})
    assert meta == {"env_steps": 90} and state["x"].tolist() == [0.0, 1.0, 2.0]


def test_a_suspect_that_turns_out_well_leaves_nothing_behind(tmp_path):
    faults = watch(tmp_path)
    faults.note([BAD] * 3)
    faults.save_state(9, {"x": jnp.arange(3.0)}, {})
    faults.judge(OK)
    assert not (tmp_path / "fault").exists()
    assert not faults.suspicious


def test_a_newer_bundle_replaces_an_older_one(tmp_path):
    faults = watch(tmp_path)
    for step in (1, 2):
        faults.save_state(step, {"x": jnp.full(3, step)}, {})
    with Checkpointer(tmp_path / "fault") as checkpointer:
        assert checkpointer.latest_step() == 2
    folders = {child.name for child in (tmp_path / "fault" / "checkpoints").iterdir()}
    assert folders == {"2"}


@pytest.fixture(scope="module")
def tiny():
    """The smallest whole agent: its experiment, compiled step, and a state that has learned."""
    from m3po_jax.learning import train_step
    from m3po_jax.training.experiment import make_experiment
    from tests.integration.tiny_config import get_config

    experiment = make_experiment(config_lib.from_config_dict(get_config()))
    step = jax.jit(train_step.make_train_step(experiment))
    state = jax.jit(experiment.init)(jax.random.key(0))
    for _ in range(4):
        state, _ = step(state)
    return types.SimpleNamespace(experiment=experiment, step=step, state=state)


def poisoned(state, name):
    data = dict(state.replay.data)
    data[name] = jnp.full_like(data[name], jnp.nan)
    return state.replace(replay=state.replay.replace(data=data))


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("reward", {"world_model"}), ("observation", {"world_model", "policy", "exploration"})],
)
def test_poison_in_replay_touches_no_parameter(tiny, name, left_out):
    clean, clean_metrics = tiny.step(tiny.state)
    assert skipped_modules(clean_metrics) == []
    new, metrics = tiny.step(poisoned(tiny.state, name))
    # fresh transitions take two of the steps in the ring, so a window can still be whole
    assert set(skipped_modules(metrics)) == left_out
    for leaf in jax.tree.leaves(new.agent):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or np.all(np.isfinite(leaf))
    agent, old = new.agent, tiny.state.agent
    done = counting.whole(new.updates) - counting.whole(tiny.state.updates)
    if metrics["world_model/skipped"] == done:
        assert bits_equal(agent.params.world_model, old.params.world_model)
        assert bits_equal(agent.world_model_opt, old.world_model_opt)
        assert bits_equal(agent.target_q, old.target_q)
    # what learns from the fresh rollout goes on
    assert bits_equal(agent.statistics.recent_reward, clean.agent.statistics.recent_reward)
    assert not bits_equal(agent.statistics.recent_reward, old.statistics.recent_reward)


@pytest.mark.slow
def test_the_guard_changes_no_bit_of_a_healthy_run(tiny, monkeypatch):
    """Without fusion: XLA fuses two programs differently, which rounds some last bits otherwise."""
    from m3po_jax.learning import train_step
    from m3po_jax.ops import finite

    experiment = tiny.experiment
    options = {"xla_disable_hlo_passes": "fusion"}
    guarded = jax.jit(train_step.make_train_step(experiment), compiler_options=options)
    guarded_state, _ = guarded(tiny.state)
    monkeypatch.setattr(finite, "is_finite", lambda *_: jnp.array(True))
    monkeypatch.setattr(finite, "select", lambda ok, new, old: new)
    bare = jax.jit(train_step.make_train_step(experiment), compiler_options=options)
    bare_state, _ = bare(tiny.state)
    assert not bits_equal(guarded_state.agent.params, tiny.state.agent.params)
    assert bits_equal(guarded_state.agent, bare_state.agent)
    assert bits_equal(guarded_state.replay, bare_state.replay)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_an_environment_that_yields_nan_is_a_fault_and_no_skip(what, monkeypatch):
    from m3po_jax.envs import registry, toy
    from m3po_jax.learning import train_step
    from m3po_jax.training.experiment import make_experiment
    from tests.integration.tiny_config import get_config

    class Broken(toy.PointReach):
        """Gives NaN in one quarter of the plane."""

        def step(self, state, action):
            new = super().step(state, action)
            poison = jnp.where(jnp.all(new.physics > 0.0), jnp.nan, 0.0)
            return new.replace(**{what: getattr(new, what) + poison})

    monkeypatch.setattr(registry, "make_env", lambda *_: Broken((0.6, 0.4)))
    experiment = make_experiment(config_lib.from_config_dict(get_config()))
    step = jax.jit(train_step.make_train_step(experiment))
    state = jax.jit(experiment.init)(jax.random.key(1))
    faults = 0.0
    for _ in range(60):
        state, metrics = step(state)
        faults += float(metrics["rollout/faults"].sum())
        assert skipped_modules(metrics) == []
    assert faults > 0.0
    for leaf in jax.tree.leaves((state.agent, state.replay.data)):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or np.all(np.isfinite(leaf))
