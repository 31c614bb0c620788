"""Tests of the multi-task batch, on toy tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config
from m3po_jax.envs import base, multitask, registry, toy
from m3po_jax.envs import task as task_lib

# Episodes of 7, 5 and 6 agent steps; observations of 3, 2, 2 and actions of 2, 2, 1 numbers.
NAMES = (
    "toy/LinearQuadratic?episode_length=14",
    "toy/PointReachA?num_envs=4&episode_length=5&action_repeat=1",
    "toy/TerminatingPole?num_envs=5&episode_length=23&action_repeat=4",
)
LENGTHS = (7, 5, 6)
STEPS = 20


class Faulty:
    """Returns a bad observation or reward where the action says so, and is fine otherwise."""

    observation_size = 2
    action_size = 1
    episode_length = 10
    can_terminate = True

    def reset(self, key):
        x = jax.random.uniform(key, (2,))
        return base.EnvState(x, x, jnp.zeros(()), jnp.zeros(()))

    def step(self, state, action):
        assert action.shape == (self.action_size,)  # not the padded action
        x = state.physics + 0.125
        code = action[0]
        observation = jnp.where(code == 0.25, x.at[1].set(jnp.nan), x)
        reward = jnp.where(code == 0.5, -jnp.inf, 1.0)
        # A fault that comes with a termination is a fault.
        termination = (code >= 0.5).astype(jnp.float32)
        return base.EnvState(x, observation, reward, termination)


def _rollout(env, key, *, stagger, num_steps=STEPS, action=None):
    """Returns all states before the steps, the timesteps, the last state and the pool."""
    init_key, pool_key, action_key = jax.random.split(key, 3)

    @jax.jit
    def run():
        pool = env.draw_resets(pool_key)
        state = env.init(init_key, stagger=stagger).with_new_pool()

        def step(state, k):
            shape = (env.batch_size, env.action_size)
            drawn = jax.random.uniform(k, shape, minval=-1.0, maxval=1.0)
            taken = drawn if action is None else jnp.full(shape, action)
            new_state, timestep = env.step(state, pool, taken)
            return new_state, (state, timestep, taken)

        last, out = jax.lax.scan(step, state, jax.random.split(action_key, num_steps))
        return last, out, pool

    last, (states, timesteps, actions), pool = run()
    return states, timesteps, last, pool, actions


@pytest.fixture(scope="module")
def env():
    return registry.make(NAMES, config.EnvConfig(num_envs=3, action_repeat=2))


@pytest.fixture(scope="module")
def rollout(env):
    return _rollout(env, jax.random.key(7), stagger=False)


@pytest.fixture(scope="module")
def staggered(env):
    return _rollout(env, jax.random.key(8), stagger=True)


@pytest.fixture(params=["aligned", "staggered"])
def either(request, rollout, staggered):
    return rollout if request.param == "aligned" else staggered


def _ended(timesteps):
    return np.asarray(timesteps.termination + timesteps.truncation) > 0


def _observations(states, last):
    """Returns the observation before each step and after the last `[T + 1, B, O]`."""
    return np.concatenate([states.observation, last.observation[None]])


def test_attributes(env):
    assert env.num_envs == (3, 4, 5)
    assert (env.batch_size, env.observation_size, env.action_size) == (12, 3, 2)
    # 3, 4 and 5 have no common divisor: one block, tasks in order.
    np.testing.assert_array_equal(env.task_id, [0] * 3 + [1] * 4 + [2] * 5)
    np.testing.assert_array_equal(env.action_mask, [[1, 1], [1, 1], [1, 0]])
    np.testing.assert_array_equal(env.episode_length, LENGTHS)
    assert env.task_id.dtype == env.episode_length.dtype == np.int32
    assert env.action_mask.dtype == env.discount.dtype == np.float32
    np.testing.assert_allclose(env.discount, [spec.discount for spec in env.specs])


def test_resized_changes_the_number_of_environments_only(env):
    resized = env.resized(2)
    assert resized.num_envs == (2, 2, 2)
    assert resized.specs == env.specs
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        resized.draw_resets(key)[2].observation[:2], env.draw_resets(key)[2].observation[:2]
    )


def test_default_discount_by_hand():
    # L = 250: (50 - 1) / 50. Long and short episodes meet the bounds.
    assert task_lib.default_discount(250) == pytest.approx(0.98)
    assert task_lib.default_discount(10_000) == 0.995
    assert task_lib.default_discount(1) == task_lib.default_discount(5) == 0.95


def test_shapes_and_dtypes(env, either):
    states, timesteps, *_ = either
    batch = (STEPS, env.batch_size)
    assert timesteps.next_observation.shape == (*batch, 3)
    for name in ("reward", "termination", "truncation", "valid", "episode_complete"):
        assert getattr(timesteps, name).shape == batch
        assert getattr(timesteps, name).dtype == jnp.float32
    assert timesteps.episode_length.dtype == jnp.int32
    assert states.observation.shape == (*batch, 3)
    assert not any(x.weak_type for x in jax.tree.leaves((states, timesteps)))


def test_padded_observation_dims_are_zero(env, either):
    states, timesteps, last, *_ = either
    padded = env.task_id > 0  # the last two tasks have 2 of 3 numbers
    for observation in (states.observation, timesteps.next_observation, last.observation):
        assert np.all(np.asarray(observation)[..., padded, 2] == 0.0)
        assert np.all(np.any(np.asarray(observation) != 0.0, axis=-1))


def test_padded_action_dims_are_ignored(env):
    state = env.init(jax.random.key(0), stagger=False)
    pool = env.draw_resets(jax.random.key(1))
    action = jnp.full((env.batch_size, env.action_size), 0.5)
    changed = jnp.where(env.action_mask[env.task_id] > 0, action, -7.0)
    step = jax.jit(env.step)
    for x, y in zip(
        jax.tree.leaves(step(state, pool, action)),
        jax.tree.leaves(step(state, pool, changed)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_next_observation_is_the_true_successor(env, either):
    """Replays every step with the bare environments, ends of episodes included."""
    states, timesteps, _, _, actions = either
    start = 0
    for task, name in enumerate(NAMES):
        num_envs, spec = env.num_envs[task], env.specs[task]
        bare = registry.make_env(registry.parse_task(name))

        def replay(state, action, bare=bare, spec=spec):
            reward = 0.0
            for _ in range(spec.action_repeat):
                new = bare.step(state, action[: spec.action_size])
                live = state.termination == 0.0
                reward += jnp.where(live, new.reward, 0.0)
                state = jax.tree.map(lambda a, b, live=live: jnp.where(live, a, b), new, state)
            return state.observation, reward, state.termination

        rows = slice(start, start + num_envs)
        start += num_envs
        observation, reward, termination = jax.jit(jax.vmap(jax.vmap(replay)))(
            states.env_states[task], actions[:, rows]
        )
        size = spec.observation_size
        np.testing.assert_allclose(
            timesteps.next_observation[:, rows, :size], observation, rtol=1e-6, atol=1e-7
        )
        np.testing.assert_allclose(timesteps.reward[:, rows], reward, rtol=1e-5)
        np.testing.assert_array_equal(timesteps.termination[:, rows], termination)


def test_an_episode_goes_on_from_the_successor_or_from_the_pool(env, either):
    states, timesteps, last, pool, _ = either
    ended = _ended(timesteps)
    after = _observations(states, last)[1:]
    successor = np.asarray(timesteps.next_observation)
    np.testing.assert_array_equal(after[~ended], successor[~ended])
    assert np.all(np.any(after[ended] != successor[ended], axis=-1))
    resets = np.zeros(env.batch_size, int)
    index = np.concatenate([np.arange(n) for n in env.num_envs])
    for t in range(STEPS):
        for i in np.flatnonzero(ended[t]):
            task = env.task_id[i]
            chosen = (index[i] + resets[i] % 2) % env.num_envs[task]
            expected = pool[task].observation[chosen]
            np.testing.assert_array_equal(after[t, i, : expected.shape[0]], expected)
        resets += ended[t]
    np.testing.assert_array_equal(last.resets, resets)
    assert resets.max() >= 3


def test_every_reset_of_an_unroll_starts_differently(env, rollout):
    states, timesteps, last, *_ = rollout
    ended = _ended(timesteps)
    after = _observations(states, last)[1:]
    first = np.asarray(states.observation)[0]
    for i in range(env.batch_size):
        starts = [first[i], *after[ended[:, i], i]]
        # The environment's own start of the pool, that of the next one, then the first again.
        starts = starts[:3]
        assert len(np.unique(np.stack(starts), axis=0)) == len(starts) >= 3


def test_copies_start_differently_and_pools_are_fresh(env):
    state = env.init(jax.random.key(0), stagger=False)
    first, second = (env.draw_resets(jax.random.key(seed)) for seed in (1, 2))
    for task in range(len(NAMES)):
        # Behind the pool of each task stands its first start once more.
        pools = [pool[task].observation for pool in (first, second)]
        for pool in pools:
            np.testing.assert_array_equal(pool[-1], pool[0])
        starts = [state.env_states[task].observation, *(pool[:-1] for pool in pools)]
        everything = np.concatenate(starts)
        assert len(np.unique(everything, axis=0)) == len(everything)


def test_a_new_pool_is_read_from_its_start(env, rollout):
    *_, last, _, _ = rollout
    assert last.resets.max() > 0
    renewed = last.with_new_pool()
    assert not renewed.resets.any()
    np.testing.assert_array_equal(renewed.observation, last.observation)


def test_aligned_episodes_truncate_at_their_length(env, rollout):
    _, timesteps, *_ = rollout
    steps = np.arange(1, STEPS + 1)
    for task in (0, 1):  # the pole terminates instead
        rows = env.task_id == task
        expected = (steps % LENGTHS[task] == 0).astype(np.float32)[:, None]
        np.testing.assert_array_equal(
            np.asarray(timesteps.truncation)[:, rows],
            np.broadcast_to(expected, (STEPS, rows.sum())),
        )
        assert not np.asarray(timesteps.termination)[:, rows].any()


def test_termination_and_truncation_exclude_each_other(env, either):
    _, timesteps, *_ = either
    both = np.asarray(timesteps.termination) * np.asarray(timesteps.truncation)
    assert not both.any()
    assert timesteps.termination.any()
    assert timesteps.truncation.any()
    assert np.all(np.asarray(timesteps.valid) == 1.0)


def test_a_termination_at_the_last_step_is_no_truncation():
    def first_episodes(length):
        env = registry.make(
            [f"toy/TerminatingPole?episode_length={length}"],
            config.EnvConfig(num_envs=16, action_repeat=1),
        )
        key = jax.random.key(0)
        # Full force to one side.
        _, timesteps, *_ = _rollout(env, key, stagger=False, num_steps=length, action=1.0)
        return timesteps

    falls = np.argmax(first_episodes(30).termination, axis=0) + 1
    # With the length at the first fall, that episode ends both ways at once.
    last = jax.tree.map(lambda x: np.asarray(x[-1]), first_episodes(int(falls.min())))
    assert last.termination.sum() == (falls == falls.min()).sum() < 16
    np.testing.assert_array_equal(last.truncation, 1.0 - last.termination)
    assert last.episode_complete.all()


def test_episode_sums_start_anew(env, rollout):
    _, timesteps, last, *_ = rollout
    ended = _ended(timesteps)
    total, length = np.zeros(env.batch_size), np.zeros(env.batch_size)
    for t in range(STEPS):
        total, length = total + timesteps.reward[t], length + 1
        np.testing.assert_allclose(timesteps.episode_return[t], total, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(timesteps.episode_length[t], length)
        total, length = np.where(ended[t], 0, total), np.where(ended[t], 0, length)
    np.testing.assert_array_equal(last.episode_step, length)
    np.testing.assert_array_equal(timesteps.episode_complete, ended)


def test_staggered_episodes_are_out_of_phase():
    env = registry.make(
        ["toy/PointReachA", "toy/LinearQuadratic?episode_length=6"],
        config.EnvConfig(num_envs=256, action_repeat=1),
    )
    steps = np.asarray(env.init(jax.random.key(0), stagger=True).episode_step)
    for task, length in enumerate((50, 6)):
        own = steps[env.task_id == task]
        assert own.min() == 0
        assert own.max() == length - 1
        # Uniform: mean (L - 1) / 2 with a standard error of L / sqrt(12 * 256).
        assert abs(own.mean() - (length - 1) / 2) < 4 * length / np.sqrt(12 * 256)
    assert not np.asarray(env.init(jax.random.key(0), stagger=False).episode_step).any()


def test_staggered_first_episodes_are_not_complete(env, staggered):
    states, timesteps, *_ = staggered
    ended = _ended(timesteps)
    first = np.cumsum(ended, axis=0) - ended == 0  # up to and with the first end
    complete = np.asarray(timesteps.episode_complete)
    assert not complete[first].any()
    np.testing.assert_array_equal(complete[~first], ended[~first])
    # They end when the drawn step plus the steps made reach the length.
    length = np.asarray(timesteps.episode_length)
    assert np.all(length[0] == np.asarray(states.episode_step)[0] + 1)
    assert len(set(np.argmax(ended[:, env.task_id == 1], axis=0))) > 1


@pytest.mark.parametrize("stagger", [False, True])
def test_streams_do_not_depend_on_the_other_tasks(env, stagger):
    """Reordering, adding tasks and adding environments leave a task's draws as they were."""
    cfg = config.EnvConfig(num_envs=3, action_repeat=2)
    others = [
        registry.make(NAMES[::-1], cfg),
        registry.make([NAMES[1], "toy/PointReachB", NAMES[0], NAMES[2]], cfg),
        registry.make([name.replace("num_envs=5", "num_envs=9") for name in NAMES], cfg),
    ]
    key = jax.random.key(3)
    state, pool = env.init(key, stagger=stagger), env.draw_resets(key)
    for other in others:
        other_state, other_pool = other.init(key, stagger=stagger), other.draw_resets(key)
        for task, spec in enumerate(env.specs):
            there = [s.name for s in other.specs].index(spec.name)
            n = env.num_envs[task]
            for mine, theirs in ((state.env_states, other_state.env_states), (pool, other_pool)):
                np.testing.assert_array_equal(
                    mine[task].observation[:n], theirs[there].observation[:n]
                )
            np.testing.assert_array_equal(
                state.episode_step[env.task_id == task],
                other_state.episode_step[other.task_id == there][:n],
            )


def test_env_keys_are_distinct_and_follow_the_task(env):
    key = jax.random.key(5)
    keys = np.asarray(jax.random.key_data(env.env_keys(key)))
    assert len(np.unique(keys, axis=0)) == env.batch_size
    other = registry.make(NAMES[::-1], config.EnvConfig(num_envs=3, action_repeat=2))
    other_keys = np.asarray(jax.random.key_data(other.env_keys(key)))
    for task in range(3):
        np.testing.assert_array_equal(
            keys[env.task_id == task], other_keys[other.task_id == 2 - task]
        )


def test_two_tasks_of_one_body_draw_different_starts():
    env = registry.make(["toy/PointReachA", "toy/PointReachB"], config.EnvConfig(num_envs=4))
    a, b = env.draw_resets(jax.random.key(0))
    assert not np.any(np.all(np.asarray(a.observation) == np.asarray(b.observation), axis=-1))


def test_equal_numbers_of_environments_interleave_the_tasks():
    env = registry.make(
        ["toy/PointReachA?num_envs=4", "toy/PointReachB"], config.EnvConfig(num_envs=2)
    )
    np.testing.assert_array_equal(env.task_id, [0, 0, 1, 0, 0, 1])
    state = env.init(jax.random.key(0), stagger=False)
    for task in range(2):
        np.testing.assert_array_equal(
            state.observation[env.task_id == task], state.env_states[task].observation
        )


def test_a_share_has_its_numbers_of_environments_of_every_task():
    names = ["toy/PointReachA?num_envs=6", "toy/TerminatingPole"]
    env = registry.make(names, config.EnvConfig(num_envs=3))
    share = env.shard(3, ())
    assert share.num_envs == (2, 1) and share.num_shards == 3
    np.testing.assert_array_equal(np.tile(share.task_id, 3), env.task_id)
    with pytest.raises(
        ValueError, match="3 environments of toy/TerminatingPole do not divide evenly over"
    ):
        env.shard(2, ())


def test_init_and_resets_of_one_key_differ_from_another(env):
    first, again, other = (env.init(jax.random.key(s), stagger=True) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.observation, again.observation)
    assert not np.array_equal(first.observation, other.observation)


@pytest.mark.parametrize("code", [0.25, 0.5])
@pytest.mark.parametrize("action_repeat", [1, 3])
def test_a_fault_is_invalid_and_resets_that_environment_alone(code, action_repeat):
    def task(name, environment):
        return task_lib.as_task(
            name=name, environment=environment, num_envs=3, action_repeat=action_repeat
        )

    env = multitask.MultiTaskEnv([task("faulty", Faulty()), task("fine", toy.make("PointReachA"))])
    state = env.init(jax.random.key(0), stagger=False)
    pool = env.draw_resets(jax.random.key(1))
    action = jnp.zeros((6, 2))
    step = jax.jit(env.step)
    state, _ = step(state, pool, action)
    # Rows alternate between the tasks: row 2 is the second faulty environment.
    new_state, timestep = step(state, pool, action.at[2, 0].set(code))
    bad = np.arange(6) == 2
    np.testing.assert_array_equal(timestep.valid, ~bad)
    np.testing.assert_array_equal(timestep.truncation, bad)
    assert not timestep.termination.any()
    assert timestep.reward[2] == 0.0
    np.testing.assert_array_equal(timestep.next_observation[2], state.observation[2])
    assert timestep.episode_return[2] == state.episode_return[2]
    assert not timestep.episode_complete.any()
    for x in jax.tree.leaves((new_state, timestep)):
        assert np.all(np.isfinite(x))
    # That environment starts anew, the others go on.
    np.testing.assert_array_equal(new_state.observation[2], pool[0].observation[1])
    np.testing.assert_array_equal(new_state.episode_step, [2, 2, 0, 2, 2, 2])
    np.testing.assert_array_equal(
        new_state.observation[~bad], np.asarray(timestep.next_observation)[~bad]
    )
    # The next episode of that environment is an ordinary one.
    _, timestep = step(new_state, pool, action)
    assert timestep.valid.all()
    assert timestep.episode_length[2] == 1


class Flaw(Faulty):
    """Its first state, or the termination of a step by 1, is not what it must be."""

    can_terminate = False

    def __init__(self, *, start=0.0, start_ended=False, termination=0.0):
        self._start, self._start_ended, self._termination = start, start_ended, termination

    def reset(self, key):
        state = super().reset(key)
        ended = jnp.zeros(()) + self._start_ended
        return state.replace(observation=state.observation + self._start, termination=ended)

    def step(self, state, action):
        x = state.physics
        termination = jnp.where(action[0] == 1.0, self._termination, 0.0)
        return base.EnvState(x, x, jnp.ones(()), termination)


@pytest.mark.parametrize("action_repeat", [1, 3])
@pytest.mark.parametrize(
    "flaw",
    [
        {"start": np.nan},
        {"start": np.inf},
        {"start_ended": True},
        {"termination": np.nan},
        {"termination": 1.0},  # can_terminate is False
    ],
)
def test_what_a_task_must_not_do_is_a_fault(flaw, action_repeat):
    def task(name, environment):
        return task_lib.as_task(
            name=name, environment=environment, num_envs=2, action_repeat=action_repeat
        )

    env = multitask.MultiTaskEnv([task("flawed", Flaw(**flaw)), task("fine", Flaw())])
    state = env.init(jax.random.key(0), stagger=False)
    assert np.all(np.isfinite(state.observation))  # what the agent and replay get to see
    pool = env.draw_resets(jax.random.key(1))
    new_state, timestep = jax.jit(env.step)(state, pool, jnp.ones((4, 1)))
    np.testing.assert_array_equal(timestep.valid, [0, 1, 0, 1])
    np.testing.assert_array_equal(timestep.truncation, [1, 0, 1, 0])
    np.testing.assert_array_equal(timestep.reward, np.array([0, 1, 0, 1]) * action_repeat)
    assert not timestep.termination.any() and not timestep.episode_complete.any()
    np.testing.assert_array_equal(new_state.episode_step, [0, 1, 0, 1])
    for x in (new_state.observation, *jax.tree.leaves(timestep)):
        assert np.all(np.isfinite(x))


def test_an_episode_that_begins_anew_from_a_bad_state_is_a_fault_once():
    flawed = task_lib.as_task(name="a", environment=Flaw(), num_envs=2, action_repeat=1)
    env = multitask.MultiTaskEnv([flawed])
    (first,) = env.draw_resets(jax.random.key(1))
    # The pool's own state of environment 0 is bad, and that of the next one is fine.
    pool = (first.replace(observation=first.observation.at[0].set(jnp.nan)),)
    state = env.init(jax.random.key(0), stagger=False).replace(
        episode_step=jnp.array([9, 9], jnp.int32)
    )
    step, valid, seen = jax.jit(env.step), [], []
    for _ in range(3):
        state, timestep = step(state, pool, jnp.zeros((2, 1)))
        valid.append(np.asarray(timestep.valid).tolist())
        seen.append(state.observation)
    assert valid == [[1, 1], [0, 1], [1, 1]]
    assert np.all(np.isfinite(seen))
    np.testing.assert_array_equal(seen[1][0], first.observation[1])


def test_a_limit_of_the_task_is_a_truncation():
    class Limited(Flaw):
        def step(self, state, action):
            over = (action[0] == 1.0).astype(jnp.float32)
            return super().step(state, action).replace(truncation=over)

        def reset(self, key):
            return super().reset(key).replace(truncation=jnp.zeros(()))

    def task(name, environment):
        return task_lib.as_task(name=name, environment=environment, num_envs=2, action_repeat=2)

    env = multitask.MultiTaskEnv([task("limited", Limited()), task("plain", Flaw())])
    state = env.init(jax.random.key(0), stagger=False)
    pool = env.draw_resets(jax.random.key(1))
    state, timestep = env.step(state, pool, jnp.array([[1.0], [1.0], [0.0], [1.0]]))
    np.testing.assert_array_equal(timestep.truncation, [1, 0, 0, 0])
    np.testing.assert_array_equal(timestep.valid, [1, 1, 1, 1])
    np.testing.assert_array_equal(timestep.episode_complete, [1, 0, 0, 0])
    np.testing.assert_array_equal(timestep.reward, [1, 2, 2, 2])
    assert not timestep.termination.any()


@pytest.mark.parametrize(("repeat", "length"), [(3, 20), (4, 21), (7, 5), (5, 20)])
def test_no_more_control_steps_count_than_the_episode_has(repeat, length):
    task = task_lib.as_task(
        name="a", environment=Flaw(), num_envs=2, action_repeat=repeat, episode_length=length
    )
    env = multitask.MultiTaskEnv([task])
    state = env.init(jax.random.key(0), stagger=False)
    # Each environment is where it is.
    state = state.replace(episode_step=jnp.array([0, 1], jnp.int32))
    pool, step, returns = env.draw_resets(jax.random.key(1)), jax.jit(env.step), [[], []]
    for _ in range(2 * -(-length // repeat)):
        state, timestep = step(state, pool, jnp.zeros((2, 1)))
        for row in np.flatnonzero(timestep.truncation):
            returns[row].append(float(timestep.episode_return[row]))
    # A reward of 1 for each control step, the first episode of the second one repeat shorter.
    assert returns[0] == [length] * 2
    assert returns[1][:2] == [max(length - repeat, 0), length]


def test_a_termination_without_a_fault_stays_one():
    env = multitask.MultiTaskEnv(
        [task_lib.as_task(name="faulty", environment=Faulty(), num_envs=2, action_repeat=1)]
    )
    state = env.init(jax.random.key(0), stagger=False)
    _, timestep = env.step(state, env.draw_resets(jax.random.key(1)), jnp.array([[1.0], [0.0]]))
    np.testing.assert_array_equal(timestep.termination, [1, 0])
    np.testing.assert_array_equal(timestep.valid, [1, 1])
    np.testing.assert_array_equal(timestep.episode_complete, [1, 0])


def test_tasks_are_refused_where_they_make_no_sense():
    fine = task_lib.as_task(
        name="a", environment=toy.make("PointReachA"), num_envs=1, action_repeat=1
    )
    with pytest.raises(ValueError, match="at least one task"):
        multitask.MultiTaskEnv([])
    with pytest.raises(ValueError, match="a is listed more than once"):
        multitask.MultiTaskEnv([fine, fine])
    with pytest.raises(ValueError, match="episode_length"):
        task_lib.as_task(
            name="a", environment=Faulty(), num_envs=1, action_repeat=1, episode_length=0
        )
    none = task_lib.as_task(name="b", environment=Faulty(), num_envs=0, action_repeat=1)
    with pytest.raises(ValueError, match="b: num_envs"):
        multitask.MultiTaskEnv([none])


def test_step_traces_once_in_a_scan_and_keeps_its_carry(env):
    state = jax.eval_shape(lambda k: env.init(k, stagger=True), jax.random.key(0))
    pool = jax.eval_shape(env.draw_resets, jax.random.key(0))
    action = jax.ShapeDtypeStruct((env.batch_size, env.action_size), jnp.float32)
    new_state, _ = jax.eval_shape(env.step, state, pool, action)

    def kind(x):
        return x.shape, x.dtype, x.weak_type

    assert jax.tree.map(kind, state) == jax.tree.map(kind, new_state)
