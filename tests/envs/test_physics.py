"""Tests of physics that tasks share: as each task alone, and computed once."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config
from m3po_jax.envs import base, multitask, physics, registry
from m3po_jax.envs import task as task_lib
from m3po_jax.envs.catalog import CATALOG

STEPS = 7


@flax.struct.dataclass
class Model:
    """A pendulum."""

    damping: jax.Array
    colour: int = flax.struct.field(pytree_node=False, default=0)
    power: int = flax.struct.field(pytree_node=False, default=1)


@jax.jit
def _swing(model, x, action):
    angle, speed = x
    speed = speed - 0.1 * (jnp.sin(angle) + model.damping * speed**model.power) + 0.1 * action
    return angle + 0.1 * speed, speed


@jax.jit
def _settle(model, x):
    angle, speed = x
    return angle * (1.0 - model.damping), speed


@dataclasses.dataclass
class Pendulum:
    """Tasks differ in the reward; a first state settles, and where asked for once more."""

    gain: float = 1.0
    model: Model = dataclasses.field(default_factory=lambda: Model(jnp.float32(0.1)))
    settles: int = 1
    observation_size = 2
    action_size = 1
    episode_length = 100
    can_terminate = False

    @property
    def body(self):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return physics.Body(_swing, self.model, ((shape, shape), shape))

    def _state(self, x, reward):
        return base.EnvState(x, jnp.stack([jnp.sin(x[0]), x[1]]), reward, jnp.zeros(()))

    def reset(self, key):
        x = (jax.random.normal(key, ()), jnp.zeros(()))
        for _ in range(self.settles):
            x = physics.call(_settle, self.model, x)
        return self._state(x, jnp.zeros(()))

    def step(self, state, action):
        force = self.gain * action[0]
        x = physics.call(_swing, self.model, state.physics, force)
        return self._state(x, self.gain * x[1] - jnp.square(force))


def _task(name, environment, *, num_envs=2, action_repeat=2):
    return task_lib.as_task(
        name=name, environment=environment, num_envs=num_envs, action_repeat=action_repeat
    )


def _tasks():
    damped = Model(jnp.float32(0.3), colour=1)
    return [
        _task("one", Pendulum()),
        _task("more", Pendulum(gain=-0.5), num_envs=3),
        _task("damped", Pendulum(gain=0.5, model=damped), num_envs=1),
    ]


def _play(env, faulty_row=None):
    """Returns states and rewards of some steps under fixed actions, by task."""

    @jax.jit
    def run():
        pool = env.draw_resets(jax.random.key(1))
        state = env.init(jax.random.key(0), stagger=False)
        # The same actions whatever the other tasks are.
        action = jnp.sin(env.layout.join([jnp.arange(1.0, n + 1.0) for n in env.num_envs]))
        action = jnp.tile(action[:, None], env.action_size)
        if faulty_row is not None:
            action = action.at[faulty_row].set(jnp.nan)

        def step(state, _):
            state, timestep = env.step(state, pool, action)
            return state, (timestep.next_observation[:, :2], timestep.reward, timestep.valid)

        return jax.lax.scan(step, state, None, length=STEPS)[1]

    names = [spec.name for spec in env.specs]
    rows = {name: env.task_id == k for k, name in enumerate(names)}
    played = jax.device_get(run())
    return {name: [x[:, rows[name]] for x in played] for name in names}


def test_each_task_goes_as_alone_whatever_stands_beside_it():
    tasks = _tasks()
    alone = {}
    for task in tasks:
        alone.update(_play(multitask.MultiTaskEnv([task])))
    for order in (tasks[::-1], tasks[1:]):
        together = _play(multitask.MultiTaskEnv(order))
        assert list(together) == [task.spec.name for task in order]
        for name, values in together.items():
            for mine, expected in zip(values, alone[name], strict=True):
                np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(alone["one"][1][:, 0], alone["damped"][1][:, 0])


def test_a_fault_stays_in_its_environment():
    env = multitask.MultiTaskEnv(_tasks())
    row = int(np.flatnonzero(env.task_id == 1)[1])
    fine, faulty = _play(env), _play(env, faulty_row=row)
    np.testing.assert_array_equal(faulty["more"][2], np.tile([1.0, 0.0, 1.0], (STEPS, 1)))
    for name, values in fine.items():
        keep = np.arange(values[0].shape[1]) != (1 if name == "more" else -1)
        for mine, expected in zip(faulty[name], values, strict=True):
            np.testing.assert_array_equal(mine[:, keep], expected[:, keep])


@pytest.mark.parametrize("function", ["step", "draw_resets"])
def test_the_physics_of_a_body_is_computed_once(function):
    env = multitask.MultiTaskEnv(_tasks())
    key = jax.random.key(0)
    if function == "draw_resets":
        closed, name = jax.make_jaxpr(env.draw_resets)(key), "_settle"
    else:
        state = jax.eval_shape(functools.partial(env.init, stagger=False), key)
        pool = jax.eval_shape(env.draw_resets, key)
        action = jax.ShapeDtypeStruct((env.batch_size, env.action_size), jnp.float32)
        closed, name = jax.make_jaxpr(env.step)(state, pool, action), "_swing"
    assert str(closed).count(f"name={name}") == 1


@pytest.mark.parametrize(
    "other, joined",
    [
        (_task("other", Pendulum(gain=3.0)), True),
        (_task("other", Pendulum(), action_repeat=3), False),
        # A part of the model that the program does not read, and one that it does.
        (_task("other", Pendulum(model=Model(jnp.float32(0.1), colour=2))), True),
        (_task("other", Pendulum(model=Model(jnp.float32(0.1), power=2))), False),
        (_task("other", Pendulum(model=Model(jnp.zeros(2)))), False),
    ],
)
def test_who_belongs_together(other, joined):
    found = physics.groups([_task("one", Pendulum()).environment, other.environment])
    assert found == (((0, 1),) if joined else ((0,), (1,)))


def test_distractors_are_no_physics():
    tasks = [
        task_lib.as_task(
            name=str(n), environment=Pendulum(), num_envs=2, action_repeat=1, distractors=n
        )
        for n in (0, 3)
    ]
    env = multitask.MultiTaskEnv(tasks)
    assert physics.groups(env.environments) == ((0, 1),)
    alone = _play(multitask.MultiTaskEnv(tasks[1:]))["3"]
    for mine, expected in zip(_play(env)["3"], alone, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


def test_tasks_of_a_body_that_ask_differently_are_refused():
    tasks = [_task("one", Pendulum()), _task("two", Pendulum(settles=2))]
    with pytest.raises(ValueError, match="same physics in the same order"):
        jax.eval_shape(multitask.MultiTaskEnv(tasks).draw_resets, jax.random.key(0))


@functools.cache
def _classic_control():
    return registry.make([f"dmc/{name}" for name in CATALOG["dmc"]], config.EnvConfig(num_envs=1))


@pytest.mark.slow
def test_bodies_of_the_control_suite():
    env = _classic_control()
    names = [
        "+".join(env.specs[k].name.removeprefix("dmc/") for k in group)
        for group in physics.groups(env.environments)
    ]
    assert names == [
        "AcrobotSwingup+AcrobotSwingupSparse",
        "BallInCup",
        "CartpoleBalance+CartpoleBalanceSparse+CartpoleSwingup+CartpoleSwingupSparse",
        "CheetahRun",
        "FingerSpin+FingerTurnEasy+FingerTurnHard",
        "FishSwim",
        "HopperHop+HopperStand",
        "HumanoidRun+HumanoidStand+HumanoidWalk",
        "PendulumSwingup",
        "PointMass",
        "ReacherEasy+ReacherHard",
        "SwimmerSwimmer6",
        "WalkerRun+WalkerStand+WalkerWalk",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        # One model, and two that differ in arrays and in static parts.
        ("dmc/CartpoleBalance", "dmc/CartpoleSwingup?num_envs=3"),
        ("dmc/ReacherHard", "dmc/ReacherEasy"),
    ],
)
def test_simulated_tasks_go_as_alone(names):
    settings = config.EnvConfig(num_envs=2, action_repeat=2)
    together = _play(registry.make(names, settings))
    assert len(physics.groups(registry.make(names, settings).environments)) == 1
    for name in names:
        for task, values in _play(registry.make([name], settings)).items():
            for mine, expected in zip(together[task], values, strict=True):
                np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)
