"""The ring buffer, with steps that carry their own environment and time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.learning.state import trajectory_shapes
from m3po_jax.replay import buffer
from m3po_jax.types import BatchLayout, Trajectory

pytestmark = pytest.mark.usefixtures("strict_numerics")

T = 4
NUM_ENVS = (3, 1, 2)
B = sum(NUM_ENVS)
CAPACITY = 12
LAYOUT = BatchLayout(NUM_ENVS)
TASK_OF_ENV = LAYOUT.task_id

add = jax.jit(buffer.add)
sample = jax.jit(
    functools.partial(buffer.sample, layout=LAYOUT), static_argnames=("batch_size", "window")
)


def unroll(first_step, *, truncation=None, termination=None, valid=None):
    """T steps whose observation holds (environment, time) and whose successor is time + 1."""
    time = np.broadcast_to(first_step + np.arange(T, dtype=np.float32)[:, None], (T, B))
    env = np.broadcast_to(np.arange(B, dtype=np.float32), (T, B))
    zeros, ones = np.zeros((T, B), np.float32), np.ones((T, B), np.float32)
    arrays = Trajectory(
        observation=np.stack([env, time], axis=-1),
        pre_tanh_action=np.stack([env + 0.5, time + 0.5, time], axis=-1),
        reward=100.0 * env + time,
        termination=zeros if termination is None else termination,
        truncation=zeros if truncation is None else truncation,
        valid=ones if valid is None else valid,
        next_observation=np.stack([env, time + 1.0], axis=-1),
        task_id=np.broadcast_to(TASK_OF_ENV.astype(np.int32), (T, B)),
        behaviour_mean=np.zeros((T, B, 3), np.float32),
        behaviour_std=np.ones((T, B, 3), np.float32),
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), arrays)


def filled(num_unrolls, capacity=CAPACITY):
    state = buffer.init(unroll(0), batch_size=B, capacity_per_env=capacity)
    for i in range(num_unrolls):
        state = add(state, unroll(T * i))
    return state


@pytest.mark.parametrize(
    ("capacity", "expected"),
    # 6 environments of unrolls of 4: 24 transitions an unroll.
    [(24, 4), (47, 4), (48, 8), (1_000_000, 166_664)],
)
def test_capacity_is_rounded_down_to_whole_unrolls(capacity, expected):
    assert buffer.capacity_per_env(capacity, 6, 4) == expected


def test_a_capacity_under_one_unroll_is_refused():
    with pytest.raises(ValueError, match="at least 24"):
        buffer.capacity_per_env(23, 6, 4)


def test_bytes_are_known_before_anything_is_allocated():
    shapes = jax.eval_shape(lambda: unroll(0))
    state = jax.eval_shape(
        functools.partial(buffer.init, batch_size=B, capacity_per_env=CAPACITY), shapes
    )
    # A step holds 2 + 3 + 1 + 1 + 1 + 1 + 2 = 11 floats.
    assert buffer.num_bytes(state) == B * CAPACITY * 11 * 4
    assert buffer.num_bytes(filled(0)) == B * CAPACITY * 11 * 4


def test_ring_overwrites_the_oldest():
    state = filled(5)
    # 20 steps in a ring of 12: slots 0-3 hold 12-15, 4-7 hold 16-19, 8-11 still hold 8-11.
    expected = np.array([12, 13, 14, 15, 16, 17, 18, 19, 8, 9, 10, 11], np.float32)
    for env in range(B):
        np.testing.assert_array_equal(state.data["observation"][env, :, 1], expected)
        np.testing.assert_array_equal(state.data["reward"][env], 100.0 * env + expected)
    assert int(state.cursor) == 8 and int(state.size) == CAPACITY


def test_size_and_cursor_while_filling():
    history = [(int(filled(n).cursor), int(filled(n).size)) for n in range(5)]
    assert history == [(0, 0), (4, 4), (8, 8), (0, 12), (4, 12)]


@pytest.mark.parametrize("num_unrolls", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("window", [1, 3])
def test_windows_are_consecutive_and_never_cross_the_write_head(key, num_unrolls, window):
    windows = sample(filled(num_unrolls), key, batch_size=512, window=window)
    time = np.asarray(windows.observation[..., 1])
    newest = T * num_unrolls - 1
    oldest = max(0, newest + 1 - CAPACITY)
    # A window over the write head would jump from the newest step to the oldest.
    np.testing.assert_array_equal(np.diff(time, axis=0), 1.0)
    assert time.min() == oldest and time.max() == newest
    np.testing.assert_array_equal(windows.mask, 1.0)
    np.testing.assert_array_equal(windows.next_observation[..., 1], time + 1.0)
    np.testing.assert_array_equal(np.ptp(windows.observation[..., 0], axis=0), 0.0)


def test_weights_are_the_shares_of_the_tasks_in_every_round(key):
    weights, rounds = (2, 1, 3), 512
    windows = buffer.sample(
        filled(4), key, batch_size=6 * rounds + 2, window=3, layout=LAYOUT, weights=weights
    )
    task_id = np.asarray(windows.task_id)
    np.testing.assert_array_equal(task_id[:-2], np.tile([0, 1, 2, 0, 2, 2], rounds))
    env = np.asarray(windows.observation[0, :, 0]).astype(int)
    np.testing.assert_array_equal(TASK_OF_ENV[env], task_id)
    counts = np.bincount(env[:-2])
    for task, size in enumerate(NUM_ENVS):
        # Windows of a task go through its environments in turn: up to one window at each end.
        own = counts[task == TASK_OF_ENV]
        assert np.all(np.abs(own - weights[task] * rounds / size) <= 2.0)


def test_every_field_comes_from_the_same_step(key):
    windows = sample(filled(4), key, batch_size=512, window=3)
    env, time = (np.asarray(windows.observation[..., i]) for i in (0, 1))
    np.testing.assert_array_equal(windows.reward, 100.0 * env + time)
    np.testing.assert_array_equal(
        windows.pre_tanh_action, np.stack([env + 0.5, time + 0.5, time], axis=-1)
    )
    np.testing.assert_array_equal(windows.next_observation[..., 0], env)
    np.testing.assert_array_equal(windows.task_id, TASK_OF_ENV[env[0].astype(int)])
    assert windows.task_id.dtype == jnp.int32


def chi_square(counts):
    """Pearson's statistic against equal expected counts."""
    expected = counts.sum() / counts.size
    return float(np.sum((counts - expected) ** 2) / expected)


def test_uniform_over_environments_of_a_task_and_over_starts(key):
    window = 3
    windows = sample(filled(4), key, batch_size=30_000, window=window)
    env = np.asarray(windows.observation[0, :, 0]).astype(int)
    start = np.asarray(windows.observation[0, :, 1]).astype(int) - T
    num_starts = CAPACITY - window + 1
    for task, size in enumerate(NUM_ENVS):
        own = TASK_OF_ENV[env] == task
        cells = (env[own] - env[own].min()) * num_starts + start[own]
        counts = np.bincount(cells, minlength=size * num_starts)
        assert counts.size == size * num_starts
        # Chi-square has mean n and variance 2 n, n the degrees of freedom: 5 deviations above.
        freedom = counts.size - 1
        assert chi_square(counts) < freedom + 5.0 * np.sqrt(2.0 * freedom)


@pytest.mark.parametrize("rounds", [0, 2])
def test_tasks_are_stratified_and_the_remainder_is_uniform(rounds):
    state = filled(3)
    keys = jax.random.split(jax.random.key(1), 600)
    whole = 3 * rounds
    draw = functools.partial(buffer.sample, batch_size=whole + 2, window=1, layout=LAYOUT)
    task_ids = np.asarray(jax.jit(jax.vmap(lambda key: draw(state, key).task_id))(keys))
    # Whole rounds in order, then two distinct tasks.
    np.testing.assert_array_equal(task_ids[:, :whole], np.tile([0, 1, 2], (600, rounds)))
    assert (task_ids[:, -2] != task_ids[:, -1]).all()
    # Each of the two extra places is uniform over 3 tasks: 2 degrees of freedom, 5 deviations.
    for place in (-2, -1):
        assert chi_square(np.bincount(task_ids[:, place], minlength=3)) < 2.0 + 5.0 * 2.0


@pytest.mark.parametrize("num_envs", [(3, 1, 2), (4, 2), (2, 2, 2), (5,)])
def test_every_environment_of_a_task_comes_equally_often(key, num_envs):
    """Window j of n falls into stratum j of N environments; N / n of one where n is the larger."""
    layout = BatchLayout(num_envs)
    batch = sum(num_envs)
    step = jnp.broadcast_to(jnp.arange(batch, dtype=jnp.float32), (1, batch))
    zeros = jnp.zeros((1, batch))
    trajectory = Trajectory(
        observation=step[..., None],
        pre_tanh_action=step[..., None],
        reward=step,
        termination=zeros,
        truncation=zeros,
        valid=zeros + 1.0,
        next_observation=step[..., None],
        task_id=jnp.asarray(layout.task_id)[None],
        behaviour_mean=step[..., None],
        behaviour_std=step[..., None],
    )
    state = buffer.init(trajectory, batch_size=batch, capacity_per_env=1)
    state = buffer.add(state, trajectory)
    per_env = 30
    windows = buffer.sample(
        state,
        key,
        batch_size=per_env * max(num_envs) * len(num_envs),
        window=1,
        layout=layout,
    )
    row = np.asarray(windows.reward[0]).astype(int)
    np.testing.assert_array_equal(layout.task_id[row], windows.task_id)
    counts = np.bincount(row, minlength=batch)
    for task, size in enumerate(num_envs):
        own = counts[layout.task_id == task]
        # Strata of a whole number of windows, whose ends alone can fall to either side.
        expected = per_env * max(num_envs) / size
        assert np.all(np.abs(own - expected) <= 1.0), (task, own)
        if max(num_envs) % size == 0:
            np.testing.assert_array_equal(own, expected)


def test_different_keys_draw_different_windows():
    state = filled(3)
    first, second, again = (
        sample(state, jax.random.key(seed), batch_size=512, window=3).reward for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(second)).any()


def test_window_mask_by_hand():
    def column(*values):
        return jnp.array(values)[:, None]

    zeros, ones = column(0.0, 0.0, 0.0, 0.0), column(1.0, 1.0, 1.0, 1.0)
    end = column(0.0, 1.0, 0.0, 0.0)
    # The step that ends the episode belongs to it; what follows is another episode.
    after_end = [[1.0], [1.0], [0.0], [0.0]]
    np.testing.assert_array_equal(buffer.window_mask(end, zeros, ones), after_end)
    np.testing.assert_array_equal(buffer.window_mask(zeros, end, ones), after_end)
    # An invalid step is left out, and all that follow.
    fault = column(1.0, 0.0, 1.0, 1.0)
    np.testing.assert_array_equal(
        buffer.window_mask(zeros, end, fault), [[1.0], [0.0], [0.0], [0.0]]
    )
    # An end at the last step masks nothing; a fault at the first masks everything.
    last = column(0.0, 0.0, 0.0, 1.0)
    np.testing.assert_array_equal(buffer.window_mask(last, zeros, ones), 1.0)
    np.testing.assert_array_equal(buffer.window_mask(zeros, zeros, column(0.0, 1.0, 1.0, 1.0)), 0.0)


def test_sampled_mask_follows_the_stored_flags(key):
    state = buffer.init(unroll(0), batch_size=B, capacity_per_env=CAPACITY)
    end = np.zeros((T, B), np.float32)
    end[1, 0] = 1.0
    fault = np.ones((T, B), np.float32)
    fault[2, 4] = 0.0
    state = add(state, unroll(0, termination=end, valid=fault))
    state = add(state, unroll(T))
    windows = sample(state, key, batch_size=512, window=3)
    env = np.asarray(windows.observation[0, :, 0]).astype(int)
    start = np.asarray(windows.observation[0, :, 1]).astype(int)
    offset = np.arange(3)[:, None]
    expected = np.ones((3, 512), np.float32)
    # Environment 0 ends at time 1: from a start at or before it, times after 1 are masked.
    expected[(env == 0) & (start <= 1) & (start + offset > 1)] = 0.0
    # Environment 4 fails at time 2: times from 2 on are masked unless the window starts after.
    expected[(env == 4) & (start <= 2) & (start + offset >= 2)] = 0.0
    assert {0, 4} <= set(env) and (expected == 0.0).any()
    np.testing.assert_array_equal(windows.mask, expected)


def test_mask_is_zero_until_a_window_fits(key):
    for num_unrolls, expected in ((0, 0.0), (1, 0.0), (2, 1.0)):
        mask = sample(filled(num_unrolls), key, batch_size=16, window=T + 1).mask
        np.testing.assert_array_equal(mask, expected)


def test_a_ring_of_one_unroll_holds_one_window_per_environment(key):
    state = filled(3, capacity=T)
    windows = sample(state, key, batch_size=32, window=T)
    np.testing.assert_array_equal(windows.observation[0, :, 1], 2.0 * T)


def test_donated_writes_reuse_the_buffer_and_trace_once():
    traces = 0

    def write(state, trajectory):
        nonlocal traces
        traces += 1
        return buffer.add(state, trajectory)

    step = jax.jit(write, donate_argnums=0)
    state = buffer.init(unroll(0), batch_size=B, capacity_per_env=CAPACITY)
    pointers = jax.tree.map(lambda leaf: leaf.unsafe_buffer_pointer(), state.data)
    for i in range(4):
        donated, state = state, step(state, unroll(T * i))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    assert traces == 1
    assert jax.tree.map(lambda leaf: leaf.unsafe_buffer_pointer(), state.data) == pointers
    assert int(state.size) == CAPACITY


def test_a_donated_write_needs_no_memory_of_the_size_of_the_buffer():
    state = jax.eval_shape(
        functools.partial(buffer.init, batch_size=B, capacity_per_env=100 * T),
        jax.eval_shape(lambda: unroll(0)),
    )
    compiled = jax.jit(buffer.add, donate_argnums=0).lower(state, unroll(0)).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= buffer.num_bytes(state)
    assert memory.temp_size_in_bytes < buffer.num_bytes(state) // 10


def test_impossible_requests_are_refused(key):
    state = filled(1)
    with pytest.raises(ValueError, match="not a multiple"):
        buffer.init(unroll(0), batch_size=B, capacity_per_env=CAPACITY + 1)
    with pytest.raises(ValueError, match="6 environments, not 7"):
        buffer.init(unroll(0), batch_size=B + 1, capacity_per_env=CAPACITY)
    with pytest.raises(ValueError, match="must sum to the 6"):
        buffer.sample(state, key, batch_size=4, window=1, layout=BatchLayout((3, 1)))
    with pytest.raises(ValueError, match=r"\[1, 12\]"):
        buffer.sample(state, key, batch_size=4, window=CAPACITY + 1, layout=LAYOUT)
    with pytest.raises(ValueError, match="does not divide"):
        odd = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), unroll(0))
        buffer.add(state, odd)


def test_a_transition_takes_the_bytes_that_the_docs_say():
    size, action = 24, 6
    shapes = trajectory_shapes((4, 2), size, action)
    state = jax.eval_shape(lambda: buffer.init(shapes, batch_size=2, capacity_per_env=8))
    assert buffer.num_bytes(state) / 16 == 4 * (2 * size + action + 4) == 232
