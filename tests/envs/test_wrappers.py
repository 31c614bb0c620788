"""Tests of action repeat, padding and casting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.envs import base, wrappers


class Counter:
    """Counts its steps; reward = count; ends or breaks at chosen counts."""

    observation_size = 1
    action_size = 1
    episode_length = 10
    can_terminate = True

    def __init__(self, terminate_at=99, bad_observation_at=99, bad_reward_at=99):
        self._terminate_at = terminate_at
        self._bad_observation_at = bad_observation_at
        self._bad_reward_at = bad_reward_at

    def reset(self, key):
        del key
        return self._state(jnp.zeros((), jnp.float32)).replace(reward=jnp.zeros((), jnp.float32))

    def step(self, state, action):
        del action
        return self._state(state.physics + 1.0)

    def _state(self, count):
        bad_observation = count == self._bad_observation_at
        bad_reward = count == self._bad_reward_at
        return base.EnvState(
            physics=count,
            observation=jnp.where(bad_observation, jnp.nan, count)[None],
            reward=jnp.where(bad_reward, jnp.inf, count),
            termination=(count == self._terminate_at).astype(jnp.float32),
        )


def _steps(environment, num_steps, repeats):
    repeated = wrappers.ActionRepeat(environment, repeats)
    state = repeated.reset(jax.random.key(0))
    states = []
    for _ in range(num_steps):
        state = repeated.step(state, jnp.zeros((1,)))
        states.append(state)
    return states


def test_rewards_are_summed_and_do_not_leak_into_the_next_step():
    first, second = _steps(Counter(), 2, 3)
    # 1 + 2 + 3, then 4 + 5 + 6.
    assert (first.reward, second.reward) == (6.0, 15.0)
    assert (first.observation, second.observation) == (3.0, 6.0)


def test_one_repeat_is_the_environment_itself():
    (state,) = _steps(Counter(), 1, 1)
    assert state.reward == 1.0


class Goal(Counter):
    """Its goal is met in the second step alone."""

    def _state(self, count):
        state, success = super()._state(count), (count == 2).astype(jnp.float32)
        return base.GoalState(**vars(state), success=success)


@pytest.mark.parametrize(("repeats", "expected"), [(1, [0, 1, 0]), (3, [1, 0, 0])])
def test_success_in_any_step_of_the_repeat_counts_once(repeats, expected):
    assert [state.success for state in _steps(Goal(), 3, repeats)] == expected


def test_success_after_a_termination_does_not_count():
    assert _steps(Goal(terminate_at=1), 1, 3)[0].success == 0


def test_success_in_half_of_the_states_is_refused():
    class Forgetful(Goal):
        def reset(self, key):
            return Counter().reset(key)

    with pytest.raises(ValueError, match="Forgetful must .* not EnvState and GoalState"):
        _steps(Forgetful(), 1, 1)


def test_distractors_keep_success():
    environment = wrappers.Distractors(Goal(), 2)
    states = [environment.reset(jax.random.key(0))]
    for _ in range(2):
        states.append(environment.step(states[-1], jnp.zeros((1,))))
    assert [state.success for state in states] == [0, 0, 1]


def test_nothing_is_added_after_a_termination():
    (state,) = _steps(Counter(terminate_at=2), 1, 4)
    # 1 + 2, and the successor is the state of the termination, not two steps later.
    assert state.reward == 3.0
    assert state.observation == 2.0
    assert state.termination == 1.0


def test_a_fault_inside_the_repeat_stays_visible():
    # The environment is finite again one step later.
    (state,) = _steps(Counter(bad_observation_at=2), 1, 4)
    assert not wrappers.is_finite(state)
    (state,) = _steps(Counter(bad_reward_at=2), 1, 4)
    assert not wrappers.is_finite(state)
    # A later termination does not hide it.
    (state,) = _steps(Counter(bad_observation_at=2, terminate_at=3), 1, 4)
    assert not wrappers.is_finite(state)
    assert state.termination == 0.0


def test_the_last_repeat_is_cut_where_the_episode_ends():
    repeated = wrappers.ActionRepeat(Counter(terminate_at=12), 3, episode_length=11)
    assert repeated.episode_length == 11
    state, rewards = repeated.reset(jax.random.key(0)), []
    for agent_step in range(4):
        left = repeated.steps_left(jnp.array(agent_step))
        state = repeated.step(state, jnp.zeros((1,)), left)
        rewards.append(float(state.reward))
    # 1 + 2 + 3, ..., and 10 + 11 alone: the termination at 12 is past the end.
    assert rewards == [6.0, 15.0, 24.0, 21.0]
    assert (state.observation, state.termination) == (11.0, 0.0)
    assert wrappers.ActionRepeat(Counter(), 5).steps_left(jnp.array(0)) is None


def test_nothing_is_added_after_a_limit_of_the_task():
    class Limited(Counter):
        def _state(self, count):
            over = (count == 2).astype(jnp.float32)
            return super()._state(count).replace(truncation=over)

    (state,) = _steps(Limited(), 1, 4)
    assert (state.reward, state.observation) == (3.0, 2.0)
    assert (state.truncation, state.termination) == (1.0, 0.0)
    assert wrappers.is_truncated(state) and not wrappers.goes_on(state)


@pytest.mark.parametrize("field", ["observation", "reward", "termination", "truncation", "success"])
def test_a_state_is_finite_if_all_that_is_read_of_it_is(field):
    zero = jnp.zeros(())
    state = base.GoalState(
        physics=jnp.nan, observation=zero[None], reward=zero, termination=zero,
        truncation=zero, success=zero,
    )  # fmt: skip
    assert wrappers.is_finite(state) and wrappers.goes_on(state)
    broken = state.replace(**{field: getattr(state, field) + jnp.nan})
    assert not wrappers.is_finite(broken) and not wrappers.goes_on(broken)


def test_repeat_keeps_the_facts_of_the_environment():
    repeated = wrappers.ActionRepeat(Counter(), 4)
    assert isinstance(repeated, base.Environment)
    assert (repeated.observation_size, repeated.action_size) == (1, 1)
    assert (repeated.episode_length, repeated.can_terminate) == (10, True)
    with pytest.raises(ValueError, match="at least 1"):
        wrappers.ActionRepeat(Counter(), 0)


def test_pad_last():
    padded = wrappers.pad_last(jnp.ones((2, 3)), 5)
    np.testing.assert_array_equal(padded, [[1, 1, 1, 0, 0]] * 2)
    assert wrappers.pad_last(jnp.ones((2, 3)), 3).shape == (2, 3)
    with pytest.raises(ValueError, match="cannot pad"):
        wrappers.pad_last(jnp.ones((2, 3)), 2)


def test_distractors_oscillate_and_leave_the_task_as_it_is():
    wrapped = wrappers.Distractors(Counter(terminate_at=3), 4)
    assert wrapped.observation_size == 5
    state = wrapped.reset(jax.random.key(0))
    phases = []
    for count in (1.0, 2.0, 3.0):
        previous = state
        state = wrapped.step(state, jnp.zeros((1,)))
        assert (state.observation[0], state.reward) == (count, count)
        speed = np.asarray(state.physics[2])
        np.testing.assert_array_equal(speed, previous.physics[2])
        assert np.all((speed >= 0.05) & (speed < 0.5))
        np.testing.assert_allclose(
            state.observation[1:], np.sin(np.asarray(previous.physics[1]) + speed), rtol=1e-5
        )
        phases.append(np.asarray(state.physics[1]))
    assert state.termination == 1.0
    # Each has a phase and a speed of its own, and another reset draws others.
    assert len(np.unique(phases[0])) == len(np.unique(speed)) == 4
    other = wrapped.reset(jax.random.key(1))
    assert np.all(np.asarray(other.observation[1:]) != np.sin(phases[0]))
    with pytest.raises(ValueError, match="num_distractors must be at least 1, got 0"):
        wrappers.Distractors(Counter(), 0)


def test_distractors_are_an_option_of_every_task():
    from m3po_jax import config
    from m3po_jax.envs import registry

    env = registry.make(("toy/TerminatingPole?distractors=3",), config.EnvConfig())
    plain = registry.make(("toy/TerminatingPole",), config.EnvConfig())
    assert env.observation_size == plain.observation_size + 3
