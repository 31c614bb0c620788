"""Tasks placed on devices: which goes where, and that stepping them so changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config
from m3po_jax.envs import base, by_task, multitask, registry
from m3po_jax.envs import task as task_lib
from m3po_jax.envs.placement import place_tasks


class Mixed:
    """Has state of every kind that simulators have: keys, flags, small and large integers, none."""

    observation_size = 1
    action_size = 1
    episode_length = 5
    can_terminate = False

    def reset(self, key):
        physics = {
            "key": key,
            "odd": jnp.asarray(False),
            "half": jnp.asarray(-1.5, jnp.bfloat16),
            "small": jnp.asarray(-3, jnp.int8),
            "large": jnp.asarray(2**31 - 1, jnp.int32),
            "none": jnp.zeros((0, 3)),
        }
        return base.EnvState(physics, jnp.zeros(1), jnp.zeros(()), jnp.zeros(()))

    def step(self, state, action):
        old = state.physics
        key, draw = jax.random.split(old["key"])
        physics = {
            **old,
            "key": key,
            "odd": ~old["odd"],
            "half": -old["half"],
            "small": old["small"] - jnp.asarray(1, jnp.int8),
        }
        seen = jax.random.normal(draw) + old["half"].astype(jnp.float32) + old["small"]
        observation = jnp.where(old["odd"], seen, -seen)[None] + action
        return base.EnvState(physics, observation, seen, jnp.zeros(()))


def mixed_env():
    """8 environments on each of 2 devices: the third task alone on one of them."""
    names = ("toy/PointReachA?episode_length=6", "toy/TerminatingPole")
    tasks = [
        registry.make((name,), config.EnvConfig(num_envs=4, action_repeat=1))._tasks[0]
        for name in names
    ]
    last = task_lib.as_task(name="test/Mixed", environment=Mixed(), num_envs=8, action_repeat=1)
    return multitask.MultiTaskEnv([*tasks, last])


def whole(tree, axis=0):
    """What the devices hold, in the order of the batch."""

    def join(x):
        x = np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        return np.concatenate(list(x), axis=axis)

    return jax.tree.map(join, tree)


def unroll(env, state, pool, key):
    def step(state, key):
        keys = env.env_keys(key)
        action = jax.vmap(lambda k: jax.random.uniform(k, (env.action_size,), minval=-1.0))(keys)
        state, timestep = env.step(state, pool, action)
        return state, (timestep, jnp.broadcast_to(env.task_id, timestep.reward.shape))

    return jax.lax.scan(step, state, jax.random.split(key, 13))


def run(env, num_devices, placement=None):
    share = env.shard(num_devices, ("devices",))
    placed = by_task.ByTaskEnv(env, placement, ("devices",)) if placement else share

    def device(_):
        state = share.init(jax.random.key(1), stagger=True)
        plan = jnp.arange(share.batch_size * 2.0).reshape(-1, 2)
        plan += 100.0 * jax.lax.axis_index("devices")
        before = plan
        if placement:
            state, plan = placed.enter(state, plan)
        state = state.with_new_pool()
        state, given = unroll(
            placed, state, placed.draw_resets(jax.random.key(2)), jax.random.key(3)
        )
        if placement:
            state, plan, given = placed.leave(state, plan, given)
        return state, plan - before, given

    program = jax.jit(jax.vmap(device, axis_name="devices")).lower(jnp.arange(num_devices))
    # It runs briefly, so little optimisation pays.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    state, plan, given = program.compile(compiler_options=options)(jnp.arange(num_devices))
    return whole((state, plan)), whole(given, axis=1)


def test_stepping_whole_tasks_gives_what_stepping_shares_gives():
    env = mixed_env()
    placement = place_tasks(env.num_envs, by_task.step_costs(env), 2)
    assert placement == ((2,), (0, 1))
    expected, found = run(env, 1), run(env, 2, placement)
    (_, plan), (timesteps, task_id) = found
    assert not np.any(plan) and set(task_id.ravel()) == {0, 1, 2}
    assert np.sum(timesteps.truncation) > 20 and np.sum(timesteps.termination) > 0
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), expected, found
    )


@pytest.mark.parametrize(
    ("num_envs", "costs", "num_devices", "placement"),
    [
        ((4, 4, 4, 4), (8, 7, 2, 1), 2, ((0, 3), (1, 2))),
        ((4, 4, 4, 4), (1, 1, 1, 9), 4, ((3,), (0,), (1,), (2,))),
        ((8, 4, 4, 2, 2, 4), (1, 2, 3, 4, 5, 6), 3, ((0,), (3, 4, 5), (1, 2))),
        ((4, 4), (1, 1), 1, ((0, 1),)),
        ((4, 4, 4), (1, 1, 1), 2, None),
        ((4, 4), (1, 1), 3, None),
        ((4, 2), (1, 1), 2, None),
    ],
)
def test_placement_by_hand(num_envs, costs, num_devices, placement):
    assert place_tasks(num_envs, costs, num_devices) == placement


def test_costs_count_loops_and_environments():
    def costs(options):
        return by_task.step_costs(
            registry.make((f"toy/PointReachA?{options}",), config.EnvConfig())
        )

    (one,), (more,) = costs("num_envs=2&action_repeat=1"), costs("num_envs=6&action_repeat=1")
    assert more == 3 * one > 0
    (repeated,) = costs("num_envs=2&action_repeat=5")
    assert repeated == pytest.approx(5 * one, rel=0.1)


def test_the_text_names_devices_and_the_dearest():
    env = mixed_env()
    text = by_task.placement_text(env, ((2,), (0, 1)), 2)
    assert "by_task: the most expensive device has 1." in text
    assert "device 0, " in text and "test/Mixed" in text.splitlines()[1]
    assert "each of 2 devices steps 1/2" in by_task.placement_text(env, None, 2)


def test_what_a_callback_computes_is_counted():
    def cost(*names):
        settings = config.EnvConfig(num_envs=2, action_repeat=2)
        return by_task.step_costs(registry.make(names, settings))

    pendulum, walker, gym = cost(
        "dmc/PendulumSwingup?impl=c", "dmc/WalkerWalk?impl=c", "gym/Pendulum-v1"
    )
    (mjx_walker,) = cost("dmc/WalkerWalk?impl=jax")
    assert 2.0 * pendulum < walker < mjx_walker
    assert gym > walker
    (twice,) = cost("dmc/WalkerWalk?impl=c&action_repeat=4")
    np.testing.assert_allclose(twice, 2.0 * walker, rtol=0.01)
