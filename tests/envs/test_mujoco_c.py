"""Tests of C MuJoCo in place of MJX: the same tasks, exact states, and faults that show."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from experiments import host_physics
from m3po_jax.envs import mujoco_c, mujoco_log, multitask, playground_adapter
from m3po_jax.envs import task as task_lib
from m3po_jax.envs.catalog import CATALOG

# One of each body.
BODIES = (
    *("AcrobotSwingup", "BallInCup", "CartpoleSwingup", "CheetahRun", "FingerSpin", "FishSwim"),
    *("FingerTurnEasy", "HopperHop", "HumanoidRun", "PendulumSwingup", "PointMass", "ReacherEasy"),
    *("SwimmerSwimmer6", "WalkerWalk"),
)


@functools.cache
def _make(name):
    return playground_adapter.make_dmc(name, impl="c")


@functools.cache
def _env(names, num_envs=2):
    return multitask.MultiTaskEnv(
        [
            task_lib.as_task(name=name, environment=_make(name), num_envs=num_envs, action_repeat=2)
            for name in names
        ]
    )


def _control(nu, rows, steps=25):
    rng = np.random.default_rng(0)
    return rng.uniform(-1.0, 1.0, (steps, rows, nu)).astype(np.float32)


@pytest.mark.parametrize("name", BODIES)
def test_a_state_is_whole_and_exact(name):
    """Stepping from words, in any company, gives the bits of a simulator that runs on."""
    environment = _make(name)
    library, backend = environment._env, environment.backend
    model, nsub = library.mj_model, library.n_substeps
    start = np.asarray(jax.jit(environment.reset)(jax.random.key(3)).physics.data)
    data = mujoco.MjData(model)
    backend.place(data, {"words": start})
    rows = np.stack([start, start, start])
    call = backend.call(nsub)
    for control in _control(model.nu, 3):
        out = call.answer(np.concatenate([rows, control.view(np.uint32)], axis=1))
        alone = call.answer(np.concatenate([rows[1:2], control[1:2].view(np.uint32)], axis=1))
        np.testing.assert_array_equal(out[1:2], alone)
        rows = out[:, : start.size]
        data.ctrl[:] = control[1]
        for _ in range(nsub):
            mujoco.mj_step(model, data)
        parts = backend.parts(rows[1])
        for part in ("time", "qpos", "qvel", "qacc_warmstart", "mocap_pos"):
            np.testing.assert_array_equal(parts[part], getattr(data, part))
        fields = out[1, start.size :].view(np.float32)
        theirs = [np.reshape(getattr(data, field), -1) for field in backend.crossing]
        np.testing.assert_array_equal(fields, np.concatenate(theirs).astype(np.float32))


@pytest.mark.parametrize("name", ["PendulumSwingup", "ReacherEasy"])
def test_control_steps_are_those_of_mjx(name):
    steps = host_physics.parity(name, 60)
    assert max(step.observation for step in steps) < 1e-3
    assert max(step.reward for step in steps) < 1e-3
    assert len(steps) == 60


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_every_body_steps_as_in_mjx(name):
    steps = host_physics.parity(name, host_physics.STEPS)
    # A contact that one of them sees a step earlier is a large difference.
    assert np.median([step.observation for step in steps]) < 1e-3
    assert np.median([step.reward for step in steps]) < 1e-3


def test_facts_are_those_of_the_catalog():
    for name in BODIES:
        facts, environment = CATALOG["dmc"][name], _make(name)
        assert environment.observation_size == facts.observation_size
        assert environment.action_size == facts.action_size


def _programs(env):
    key = jax.random.key(0)
    state = jax.eval_shape(functools.partial(env.init, stagger=False), key)
    pool = jax.eval_shape(env.draw_resets, key)
    action = jax.ShapeDtypeStruct((env.batch_size, env.action_size), jnp.float32)
    return jax.make_jaxpr(env.step)(state, pool, action), jax.make_jaxpr(env.draw_resets)(key)


def test_all_tasks_of_a_step_are_one_callback():
    env = _env(("PendulumSwingup", "CheetahRun", "WalkerWalk"))
    step, resets = _programs(env)
    assert str(step).count("pure_callback[") == 1
    # The cheetah settles in a call of its own.
    assert str(resets).count("pure_callback[") == 2


def _play(env, faulty_row=None, steps=6):
    @jax.jit
    def run():
        pool = env.draw_resets(jax.random.key(1))
        state = env.init(jax.random.key(0), stagger=False)
        action = jnp.sin(jnp.arange(1.0, env.batch_size + 1.0))[:, None]
        action = jnp.tile(action, env.action_size)
        if faulty_row is not None:
            action = action.at[faulty_row].set(jnp.nan)

        def step(state, _):
            state, timestep = env.step(state, pool, action)
            return state, (timestep.next_observation, timestep.reward, timestep.valid)

        return jax.lax.scan(step, state, None, length=steps)[1]

    return jax.device_get(run())


def test_a_fault_stays_in_its_environment(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mujoco_log, "_shown", [])  # the first warning alone is shown
    env = _env(("PendulumSwingup", "WalkerWalk"))
    fine, faulty = _play(env), _play(env, faulty_row=2)
    assert fine[2].all()
    np.testing.assert_array_equal(faulty[2][:, 2], np.zeros(6))
    others = np.arange(env.batch_size) != 2
    for mine, expected in zip(faulty, fine, strict=True):
        np.testing.assert_array_equal(mine[:, others], expected[:, others])
    assert "CTRL" in "".join(capfd.readouterr())


def test_a_state_of_another_model_is_refused():
    call = _make("PendulumSwingup").backend.call(0)
    start = np.array(jax.jit(_make("PendulumSwingup").reset)(jax.random.key(0)).physics.data)
    assert np.isfinite(call.run(start[None])[0, start.size :].view(np.float32)).all()
    start[-1] += 1
    with pytest.raises(ValueError, match="of another model than the task has now"):
        call.run(start[None])


def test_its_pose_places_the_bodies_as_the_state_says():
    environment = _make("ReacherEasy")
    state = jax.jit(environment.reset)(jax.random.key(5))
    model = environment._env.mj_model
    data = mujoco.MjData(model)
    environment.backend.place(data, jax.device_get(environment.pose(state)))
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qpos, state.observation[:2], atol=1e-6)
    # The observation of a reset is older than the place of its target, as in Playground.
    target = data.geom("target").xpos[:2]
    assert 0.049 < np.linalg.norm(target) < 0.201
    state = jax.jit(environment.step)(state, jnp.zeros(2))
    toward = target - data.geom("finger").xpos[:2]
    np.testing.assert_allclose(state.observation[2:4], toward, atol=1e-4)


def test_what_does_not_cross_is_named():
    backend = _make("PendulumSwingup").backend
    kept = jnp.zeros(backend.call(0).state_words, jnp.uint32)
    with pytest.raises(ValueError, match=r"dmc/PendulumSwingup: the task reads xfrc.*impl=jax"):
        _ = backend.restore(kept).xfrc_applied
    with pytest.raises(ValueError, match=r"dmc/PendulumSwingup: the task sets xpos.*impl=jax"):
        backend.restore(kept).replace(xpos=jnp.zeros(3))


def test_float32_becomes_float64_exactly():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 4096, dtype=np.uint32)
    special = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, 1e-45, -1e-40, 1.1754942e-38, 3.4028235e38]
    x = np.concatenate([bits.view(np.float32), np.array(special, np.float32)])
    x = x[~np.isnan(x)]
    words = np.asarray(mujoco_c.as_float64(jnp.asarray(x)))
    np.testing.assert_array_equal(words.view(np.uint64), x.astype(np.float64).view(np.uint64))
    assert np.isnan(np.asarray(mujoco_c.as_float64(jnp.array([jnp.nan]))).view(np.float64)).all()
