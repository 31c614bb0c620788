"""What is spread over devices is what it is in one piece; `vmap` with a name plays the devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.ops import observation_moments, rows, statistics
from m3po_jax.ops.minibatches import minibatches
from m3po_jax.replay import buffer
from m3po_jax.types import BatchLayout, Trajectory

AXIS = ("shares",)
SHARES = 4
N, K = 24, 3


def spread(function, *arrays):
    """Calls the function on every share of the leading axes: results `[SHARES, ...]`."""
    shares = [x.reshape(SHARES, -1, *x.shape[1:]) for x in arrays]
    return jax.vmap(functools.partial(function, axis_name=AXIS), axis_name=AXIS[0])(*shares)


def join(x):
    return np.asarray(x).reshape(-1, *x.shape[2:])


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=N).astype(np.float32)
    task_id = np.repeat(np.arange(K, dtype=np.int32), N // K)
    rng.shuffle(task_id)
    mask = (rng.random(N) > 0.3).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(task_id), jnp.asarray(mask)


def assert_alike_and_equal(found, expected):
    """The same result on every share, and that of the whole."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        for share in np.asarray(x):
            np.testing.assert_allclose(share, y, rtol=1e-5, atol=1e-6)


def moments(x, task_id, mask, **options):
    return statistics.per_task_moments(x, task_id, mask, num_tasks=K, **options)


def running_moments(x, task_id, mask, **options):
    state = statistics.init_running_moments(K)
    return statistics.update_running_moments(state, x, task_id, mask, decay=0.9, **options)


def running_scale(x, task_id, mask, **options):
    state = statistics.init_running_scale(K)
    return statistics.update_running_scale(state, x, task_id, mask, decay=0.9, **options)


def running_range(x, task_id, mask, **options):
    state = statistics.init_running_range(K)
    return statistics.update_running_range(state, x, task_id, mask, **options)


def observations(x, task_id, mask, **options):
    state = observation_moments.init_observation_moments(K, 2)
    observation = jnp.stack([x, x**2], axis=-1)
    return observation_moments.update_observation_moments(
        state, observation, task_id, mask, **options
    )


def masked_mean(x, task_id, mask, **options):
    return statistics.masked_mean(x, mask, **options)


@pytest.mark.parametrize(
    "function", [moments, running_moments, running_scale, running_range, observations, masked_mean]
)
def test_statistics_are_those_of_all_samples(samples, function):
    assert_alike_and_equal(spread(function, *samples), function(*samples))


def normalized(x, task_id, mask, **options):
    return statistics.normalize_per_task(x, task_id, mask, num_tasks=K, **options)


def weighted(x, task_id, mask, **options):
    return normalized(x, task_id, 0.1 + 0.5 * mask, **options)


@pytest.mark.parametrize("function", [normalized, weighted])
def test_samples_are_measured_against_all_samples(samples, function):
    np.testing.assert_allclose(
        join(spread(function, *samples)), function(*samples), rtol=1e-5, atol=1e-6
    )


def test_rows_draw_by_their_number(key):
    def draw(x, axis_name=()):
        return rows.normal(key, rows.numbers(x.shape[0], axis_name), (3,))

    whole = draw(jnp.zeros(N))
    np.testing.assert_array_equal(join(spread(draw, jnp.zeros(N))), whole)
    assert len(np.unique(np.asarray(whole))) == 3 * N


def test_every_share_holds_its_part_of_each_minibatch(key):
    def deal(x, axis_name=()):
        return minibatches(x, key, epochs=2, num_minibatches=3, axis_name=axis_name)

    x = jnp.arange(N)
    whole, shares = np.asarray(deal(x)), np.asarray(spread(deal, x))
    for index, batch in enumerate(whole):
        np.testing.assert_array_equal(shares[:, index].reshape(-1), batch)


def test_windows_are_those_of_the_whole_replay(key):
    """Shares draw from their own environments and get, together, the whole's windows in order."""
    layout, share = BatchLayout((8, 4)), BatchLayout((2, 1))
    steps = jnp.broadcast_to(jnp.arange(12.0), (6, 12)) + 100.0 * jnp.arange(6.0)[:, None]

    def sample(reward, axis_name=()):
        reward = jnp.swapaxes(reward, 0, 1)  # [T, B]
        ones = jnp.ones_like(reward)
        trajectory = Trajectory(
            observation=reward[..., None],
            pre_tanh_action=reward[..., None],
            reward=reward,
            termination=0.0 * ones,
            truncation=0.0 * ones,
            valid=ones,
            next_observation=reward[..., None],
            task_id=ones.astype(jnp.int32),
            behaviour_mean=reward[..., None],
            behaviour_std=reward[..., None],
        )
        size = reward.shape[1]
        state = buffer.init(trajectory, batch_size=size, capacity_per_env=6)
        return buffer.sample(
            buffer.add(state, trajectory),
            key,
            batch_size=16,
            window=2,
            layout=share if axis_name else layout,
            axis_name=axis_name,
        )

    by_environment = jnp.swapaxes(steps, 0, 1)
    whole, shares = sample(by_environment), spread(sample, by_environment)
    np.testing.assert_array_equal(join(shares.task_id), whole.task_id)
    # [SHARES, W, B] to [W, SHARES * B].
    reward = np.moveaxis(np.asarray(shares.reward), 0, 1).reshape(2, -1)
    np.testing.assert_array_equal(reward, whole.reward)


def test_windows_that_do_not_split_are_refused(key):
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        jax.vmap(lambda _: buffer._strata(key, 12, (1, 1), AXIS), axis_name=AXIS[0])(
            jnp.arange(SHARES)
        )


def test_gradients_of_spread_values_are_summed(key):
    """Outside of a mesh it changes nothing."""
    gradient = jax.grad(lambda p: jnp.sum(rows.spread(p, ())["w"] ** 2))({"w": jnp.arange(3.0)})
    np.testing.assert_allclose(gradient["w"], 2.0 * np.arange(3.0))
