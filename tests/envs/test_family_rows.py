"""Tests of the rows of a family in the batch: physics with others, resets, shares of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import multitask, physics
from m3po_jax.envs import task as task_lib
from tests.envs.test_physics import Model, Pendulum, _settle, _swing

DAMPINGS = np.array([0.1, 0.9, 0.5], np.float32)


@dataclasses.dataclass
class Swings(Pendulum):
    """The pendulum of three dampings; the state carries which."""

    def reset(self, key, variation):
        model = Model(jnp.asarray(DAMPINGS)[variation])
        x = (jax.random.normal(key, ()), jnp.zeros(()))
        for _ in range(self.settles):
            x = physics.call(_settle, model, x)
        return self._state(x, jnp.zeros(())).replace(physics=(variation, x))

    def step(self, state, action):
        variation, x = state.physics
        model = Model(jnp.asarray(DAMPINGS)[variation])
        x = physics.call(_swing, model, x, self.gain * action[0])
        return self._state(x, x[0]).replace(physics=(variation, x))


def family(num_envs, episode_length=100):
    task = task_lib.as_task(
        name="swings",
        environment=Swings(),
        num_envs=num_envs,
        action_repeat=2,
        episode_length=episode_length,
    )
    return task_lib.with_variations(task, {f"swings#{d:.1f}": () for d in DAMPINGS})


def alone(damping, name="alone"):
    environment = Pendulum(model=Model(jnp.float32(damping)))
    return task_lib.as_task(name=name, environment=environment, num_envs=2, action_repeat=2)


def play(env, steps=3, key=0):
    def all_steps(key):
        first, pool_key, action_key = jax.random.split(key, 3)
        state, pool = env.init(first, stagger=False), env.draw_resets(pool_key)
        shape = (steps, env.batch_size, env.action_size)
        actions = jax.random.normal(action_key, shape)

        def step(state, action):
            before = state.env_states
            state, timestep = env.step(state, pool, jnp.tanh(action))
            return state, (timestep.next_observation, before)

        return jax.lax.scan(step, state, actions)

    return jax.jit(all_steps)(jax.random.key(key))


def test_a_family_and_a_task_of_its_body_are_computed_together_and_go_as_each_alone():
    env = multitask.MultiTaskEnv([family(2), alone(0.3)])
    assert physics.groups(env.environments) == ((0, 1),)
    assert [spec.shown_as for spec in env.specs] == ["swings"] * 3 + ["alone"]
    assert env.task_id.tolist() == [0, 1, 2, 3] * 2
    states = env.draw_states(jax.random.key(1))
    actions = [jnp.full((6, 1), 0.3), jnp.full((2, 1), -0.2)]
    new, other = physics.step(env.environments, states, actions, [None, None])
    for row, variation in enumerate([0, 1, 2] * 2):
        task = Pendulum(model=Model(jnp.float32(DAMPINGS[variation])))
        state = task._state(
            jax.tree.map(lambda x, row=row: x[row], states[0].physics[1]), jnp.zeros(())
        )
        for _ in range(2):
            state = task.step(state, jnp.array([0.3]))
        np.testing.assert_allclose(new.observation[row], state.observation, rtol=1e-5)
        assert int(new.physics[0][row]) == variation
    own = Pendulum(model=Model(jnp.float32(0.3)))
    state = jax.tree.map(lambda x: x[0], states[1])
    for _ in range(2):
        state = own.step(state, jnp.array([-0.2]))
    np.testing.assert_allclose(other.observation[0], state.observation, rtol=1e-5)


def test_first_states_of_the_pool_are_those_of_the_same_variation():
    env = multitask.MultiTaskEnv([family(2, episode_length=2), alone(0.3)])
    assert all(spec.episode_length == 1 for spec in env.specs[:3])
    _, (_, (states, _)) = play(env, steps=3)
    # every step ends an episode: the states before the steps are three first states
    assert states.physics[0].tolist() == [[0, 1, 2] * 2] * 3
    angles = np.asarray(states.physics[1][0])
    assert not np.any(angles[0] == angles[1]) and not np.any(angles[1] == angles[2])


def test_a_family_draws_the_same_beside_other_tasks():
    key = jax.random.key(2)
    _, beside = multitask.MultiTaskEnv([alone(0.3), family(2)]).draw_states(key)
    (by_itself,) = multitask.MultiTaskEnv([family(2)]).draw_states(key)
    jax.tree.map(np.testing.assert_array_equal, beside, by_itself)


def test_one_environment_alone_is_of_the_first_variation():
    env = multitask.MultiTaskEnv([alone(0.3), family(2)]).alone("swings")
    assert env.batch_size == 1 and [spec.name for spec in env.specs] == ["swings#0.1"]
    (state,) = env.draw_states(jax.random.key(0))
    assert state.physics[0].tolist() == [0]
