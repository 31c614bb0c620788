"""Every task of the registry resets, steps, truncates and resets again, compiled."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs

from m3po_jax import config
from m3po_jax.envs import batch, registry
from m3po_jax.envs.catalog import CATALOG
from tests import registered_tasks

FAST = {
    *(f"toy/{name}" for name in CATALOG["toy"]),
    "dmc/CartpoleBalance",
    "dmc/PendulumSwingup",
    "brax/inverted_pendulum",
    "brax/fast",
    "metaworld/reach-v3",
}
# Their libraries draw nothing at a reset.
FIXED_START = {
    "brax/fast",
    "dmc/BallInCup",
    "dmc/HumanoidRun",
    "dmc/HumanoidStand",
    "dmc/HumanoidWalk",
}
NUM_ENVS = 3
ACTION_REPEAT = 2
LENGTH = 10
STEPS = 21


@pytest.mark.parametrize("name", registered_tasks.parameters(FAST))
def test_the_catalog_says_what_the_environment_is(name):
    registered_tasks.skip_if_unavailable(name)
    request = registry.parse_task(name)
    environment = registry.make_env(request)
    facts = CATALOG[request.suite][request.env_name]
    found = (environment.observation_size, environment.action_size, environment.episode_length)
    if request.suite != "playground":
        assert found == facts[:3]
    assert environment.can_terminate == facts.can_terminate


@functools.cache
def _compiled(name):
    """Returns the environment, a draw of first states and a rollout, both compiled once."""
    env = registry.make(
        [f"{name}?episode_length={LENGTH * ACTION_REPEAT}"],
        config.EnvConfig(num_envs=NUM_ENVS, action_repeat=ACTION_REPEAT),
    )

    @jax.jit
    def rollout(first, pool, actions):
        zeros = jnp.zeros(NUM_ENVS)
        state = batch.MultiTaskState(
            env_states=first,
            observation=first[0].observation,
            episode_step=zeros.astype(jnp.int32),
            episode_return=zeros,
            from_reset=zeros == 0,
            resets=zeros.astype(jnp.int32),
        )

        def step(state, action):
            new_state, timestep = env.step(state, pool, action)
            return new_state, (state, timestep)

        last, (states, timesteps) = jax.lax.scan(step, state, actions)
        return states, timesteps, last

    draw_resets = jax.jit(env.draw_resets)

    def draw_two(seed):
        first, pool = draw_resets(jax.random.key(seed)), draw_resets(jax.random.key(seed + 1))
        return jax.tree.map(lambda x: x[:NUM_ENVS], first), pool

    return env, draw_two, rollout


@pytest.fixture(scope="module", params=registered_tasks.parameters(FAST))
def run(request):
    """Returns the name, environment, states before the steps, timesteps, last state and pool."""
    registered_tasks.skip_if_unavailable(request.param)
    env, draw_two, rollout = _compiled(request.param)
    first, pool = draw_two(0)
    shape = (STEPS, NUM_ENVS, env.action_size)
    actions = jax.random.uniform(jax.random.key(2), shape, minval=-1.0, maxval=1.0)
    return request.param, env, *rollout(first, pool, actions), pool


def test_shapes_and_facts(run):
    name, env, states, timesteps, *_ = run
    (spec,) = env.specs
    assert spec.name == name
    assert spec.episode_length == LENGTH
    assert timesteps.next_observation.shape == (STEPS, NUM_ENVS, spec.observation_size)
    assert env.action_mask.tolist() == [[1.0] * spec.action_size]
    assert states.observation.dtype == timesteps.reward.dtype == jnp.float32
    assert not any(x.weak_type for x in jax.tree.leaves((states, timesteps)))


def test_nothing_is_wrong_numerically(run):
    _, _, states, timesteps, *_ = run
    assert np.all(np.asarray(timesteps.valid) == 1.0)
    for x in jax.tree.leaves((states.observation, timesteps)):
        assert np.all(np.isfinite(x))


def test_episodes_truncate_at_the_length(run):
    _, env, _, timesteps, *_ = run
    truncation, termination = np.asarray(timesteps.truncation), np.asarray(timesteps.termination)
    assert not (truncation * termination).any()
    at_limit = np.asarray(timesteps.episode_length) == LENGTH
    np.testing.assert_array_equal(truncation + termination > 0, at_limit | (termination > 0))
    assert at_limit.any() or termination.any()
    if not env.specs[0].can_terminate:
        assert not termination.any()


def test_successors_are_true(run):
    name, _, states, timesteps, last, _ = run
    ended = np.asarray(timesteps.termination + timesteps.truncation) > 0
    after = np.concatenate([states.observation[1:], last.observation[None]])
    successor = np.asarray(timesteps.next_observation)
    np.testing.assert_array_equal(after[~ended], successor[~ended])
    if name != "brax/fast":  # it can stand still at its one start
        assert np.all(np.any(after[ended] != successor[ended], axis=-1))


def test_resets_come_from_the_pool_and_differ(run):
    name, _, states, timesteps, last, pool = run
    ended = np.asarray(timesteps.termination + timesteps.truncation) > 0
    after = np.concatenate([states.observation[1:], last.observation[None]])
    starts = np.asarray(pool[0].observation)
    first = np.asarray(states.observation)[0]
    for t, i in zip(*np.nonzero(ended), strict=True):
        assert np.any(np.all(after[t, i] == starts, axis=-1))
    everything = np.concatenate([starts, first])
    distinct = len(np.unique(everything, axis=0))
    if name.startswith("metaworld/"):  # each is one of fifty
        assert distinct > NUM_ENVS
    else:
        assert distinct == (1 if name in FIXED_START else 2 * NUM_ENVS)


BRAX = [name for name in registry.task_names() if name.startswith("brax/")]


@pytest.mark.parametrize("name", BRAX)
def test_can_terminate_is_what_the_source_of_the_brax_task_says(name):
    kind = envs._envs[name.removeprefix("brax/")]
    writes_done = "done=done" in inspect.getsource(kind.step)
    assert writes_done == CATALOG["brax"][name.removeprefix("brax/")].can_terminate


@pytest.mark.slow
@pytest.mark.parametrize("name", BRAX)
def test_can_terminate_is_what_the_brax_task_computes(name):
    environment = registry.make_env(registry.parse_task(name))
    library = environment._env
    state = jax.eval_shape(library.reset, jax.random.key_data(jax.random.key(0)))
    action = jax.ShapeDtypeStruct((environment.action_size,), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda s, a: library.step(s, a).done)(state, action).jaxpr
    # A task that cannot terminate hands the `done` of its argument through.
    assert environment.can_terminate == (jaxpr.outvars[0] not in jaxpr.invars)


def test_brax_termination_ends_the_episode():
    env, draw_two, rollout = _compiled("brax/inverted_pendulum")
    first, pool = draw_two(3)
    # Full force to one side lets the pole fall at once.
    _, timesteps, _ = rollout(first, pool, jnp.ones((STEPS, NUM_ENVS, 1)))
    terminated = np.asarray(timesteps.termination) == 1
    assert terminated.any(axis=0).all()
    np.testing.assert_array_equal(
        timesteps.episode_complete, timesteps.termination + timesteps.truncation
    )
    # Reward 1 for each control step up to the fall.
    assert np.all(np.asarray(timesteps.reward)[~terminated] == ACTION_REPEAT)
    assert np.any(np.asarray(timesteps.reward)[terminated] < ACTION_REPEAT)
    assert np.all(np.abs(timesteps.next_observation[..., 1])[terminated] > 0.2)


def test_playground_nan_is_a_fault():
    _, draw_two, rollout = _compiled("dmc/PendulumSwingup")
    first, pool = draw_two(3)
    physics = first[0].physics
    data = physics.data.replace(qvel=physics.data.qvel.at[0].set(jnp.nan))
    broken = first[0].replace(physics=physics.replace(data=data))
    states, timesteps, last = rollout((broken,), pool, jnp.zeros((STEPS, NUM_ENVS, 1)))
    np.testing.assert_array_equal(timesteps.valid[0], [0, 1, 1])
    np.testing.assert_array_equal(timesteps.truncation[0], [1, 0, 0])
    np.testing.assert_array_equal(timesteps.next_observation[0, 0], first[0].observation[0])
    np.testing.assert_array_equal(states.observation[1, 0], pool[0].observation[0])
    assert np.all(np.asarray(timesteps.valid)[1:] == 1.0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((last, timesteps)))
