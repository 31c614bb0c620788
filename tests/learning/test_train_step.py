"""The compiled iteration: counts, determinism, exact resume, and what the bonus may not touch."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config as config_lib
from m3po_jax.learning import episodes, replay_updates, rollout, train_step
from m3po_jax.ops import counting, statistics
from m3po_jax.replay import buffer
from m3po_jax.training.experiment import make_experiment
from m3po_jax.workdir.checkpoint import Checkpointer

SMALL = config_lib.Config(
    tasks=("toy/PointReachA", "toy/LinearQuadratic", "toy/TerminatingPole"),
    env=config_lib.EnvConfig(num_envs=2, action_repeat=2, unroll_length=4),
    network=config_lib.NetworkConfig(
        encoder_width=16, mlp_width=16, latent_size=16, num_bins=21, embedding_size=4
    ),
    world_model=config_lib.WorldModelConfig(batch_size=12, imagined_target_steps=2),
    planner=config_lib.PlannerConfig(num_samples=8, num_policy_samples=2, num_elites=3, horizon=2),
    policy=config_lib.PolicyConfig(imagined_horizon=2),
    replay=config_lib.ReplayConfig(capacity=480),
    train=config_lib.TrainConfig(
        total_env_steps=4800, warmup_env_steps=96, updates_per_transition=0.25
    ),
)
# 3 tasks x 2 environments x 4 steps.
TRANSITIONS = 24


@pytest.fixture(scope="module")
def experiment():
    return make_experiment(SMALL)


@pytest.fixture(scope="module")
def step(experiment):
    return jax.jit(train_step.make_train_step(experiment))


@pytest.fixture(scope="module")
def states(experiment, step):
    """States and metrics of the first six iterations; the first two are random."""
    state = jax.jit(experiment.init)(jax.random.key(3))
    history = [(state, None)]
    for _ in range(6):
        history.append(step(history[-1][0]))
    return history


def assert_equal_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path, x in jax.tree_util.tree_leaves_with_path(a):
        y = dict(jax.tree_util.tree_leaves_with_path(b))[path]
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def differs(a, b):
    return any(
        bool(np.any(np.asarray(x) != np.asarray(y)))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_one_trace_and_no_transfer(step, states):
    with jax.transfer_guard("disallow"):
        step(states[-1][0])
    assert step._cache_size() == 1


def test_updates_are_paid_per_transition(states):
    # 96 random env steps are two iterations of 48; their 12 updates come with the first 6 of the
    # third iteration, which are three times the usual ones.
    counts = [counting.whole(state.updates) for state, _ in states]
    assert counts == [0, 0, 0, 18, 24, 30, 36]
    assert [int(state.replay.size) for state, _ in states] == [0, 4, 8, 12, 16, 20, 24]


def test_a_long_random_phase_is_made_up_for_in_several_iterations(step, states):
    # 40 updates owed and 6 of this iteration: 18 now, 28 stay owed.
    state = states[-1][0]
    after, _ = step(state.replace(update_debt=jnp.full((), 40.0)))
    assert counting.whole(after.updates) - counting.whole(state.updates) == 18
    assert float(after.update_debt) == 28.0


def test_nothing_is_learned_while_actions_are_random(states):
    assert not differs(states[0][0].agent.params, states[2][0].agent.params)
    changed = [states[2][0].agent.params, states[3][0].agent.params]
    for part in ("world_model", "policy", "exploration"):
        assert differs(*(getattr(params, part) for params in changed)), part
    assert np.isnan(states[2][1]["policy/kl"]) and not np.isnan(states[3][1]["policy/kl"])


def test_state_and_metrics_are_finite_and_the_trust_region_holds(states):
    state, metrics = states[-1]
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.all(np.isfinite(leaf))
    for name, value in metrics.items():
        if not name.startswith("rollout/episode_"):
            assert np.all(np.isfinite(value)), name
    bound = 1.5 * SMALL.policy.kl_target
    for _, metrics in states[3:]:
        assert 0.0 < metrics["policy/kl_max"] <= bound
        assert metrics["policy/kl_over_bound"] == 0.0


def test_the_same_seed_gives_the_same_bits(experiment, step, states):
    state = jax.jit(experiment.init)(jax.random.key(3))
    for _ in range(6):
        state, _ = step(state)
    assert_equal_trees(state, states[-1][0])


def test_save_restore_and_go_on_equals_not_stopping(experiment, step, states, tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, states[3][0], {})
    with Checkpointer(tmp_path) as checkpointer:
        state, _ = checkpointer.restore_latest(experiment.state_shapes())
    assert_equal_trees(state, states[3][0])
    for _ in range(3):
        state, _ = step(state)
    assert_equal_trees(state, states[-1][0])


def test_replay_holds_the_rewards_of_the_tasks_alone(experiment, states):
    """LinearQuadratic pays at most 0, the others 0 to 2 per agent step; a bonus would show."""
    reward = np.asarray(states[-1][0].replay.data["reward"])[:, :24]
    point, quadratic, pole = (reward[experiment.env.task_id == task] for task in range(3))
    assert np.all(quadratic <= 0.0) and np.all(quadratic < 0.0, axis=-1).any()
    assert np.all((point >= 0.0) & (point <= 2.0))
    assert set(np.unique(pole)) <= {0.0, 1.0, 2.0}


def with_other_exploration(agent):
    """The same agent with explorers and a value of novelty that say anything at random."""

    def noise(tree, seed):
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        other = [3.0 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, other)

    params = agent.params
    explorers = noise(params.world_model["explorers"], 8)
    exploration = noise(params.exploration, 9)
    return agent.replace(
        params=params.replace(
            world_model={**params.world_model, "explorers": explorers}, exploration=exploration
        ),
        target_exploration=exploration,
    )


def without_explorers(world_model):
    return {name: part for name, part in world_model.items() if name != "explorers"}


def test_novelty_reaches_no_evaluation_no_task_critic_and_no_policy(experiment, states):
    agent = states[-1][0].agent
    other = with_other_exploration(agent)
    key = jax.random.key(0)
    play = jax.jit(functools.partial(episodes.evaluate, parts=experiment, policy="planner"))
    assert_equal_trees(play(agent, key), play(other, key))

    replay, layout = states[-1][0].replay, experiment.env.layout
    window = buffer.sample(replay, key, batch_size=12, window=3, layout=layout)
    learn = jax.jit(
        lambda agent: replay_updates.update_from_windows(
            agent, window, jax.random.split(key, 3), parts=experiment
        )[0]
    )
    one, two = learn(agent), learn(other)
    assert_equal_trees(*(without_explorers(x.params.world_model) for x in (one, two)))
    assert_equal_trees(one.target_q, two.target_q)
    assert_equal_trees(one.params.policy, two.params.policy)
    assert differs(one.params.exploration, two.params.exploration)


def planned(experiment, state, agent, explore):
    env = experiment.env
    return rollout.planned_actions(
        experiment.networks, agent, env, state.rollout.env.observation, state.rollout.plan_mean,
        env.env_keys(jax.random.key(5)), explore=explore, config=experiment.config,
    ).u  # fmt: skip


def test_novelty_steers_what_is_collected(experiment, states):
    state = states[-1][0]
    other = with_other_exploration(state.agent)
    plan = jax.jit(
        lambda agent, explore: planned(experiment, state, agent, explore), static_argnums=1
    )
    assert differs(plan(state.agent, True), plan(other, True))
    assert not differs(plan(state.agent, False), plan(other, False))


def test_where_no_reward_differs_collecting_plans_for_novelty_alone(experiment, states):
    """Nothing that Q or the reward head says then matters, but it does once a reward is known."""
    state = states[-1][0]
    agent = state.agent
    q = jax.tree.map(lambda x: x + 0.3, agent.params.world_model["q"])
    other = agent.replace(
        params=agent.params.replace(world_model={**agent.params.world_model, "q": q})
    )

    def unknown(agent):
        reward = statistics.init_running_range(3)
        return agent.replace(statistics=agent.statistics.replace(reward=reward))

    plan = jax.jit(lambda agent: planned(experiment, state, agent, True))
    assert not differs(plan(unknown(agent)), plan(unknown(other)))
    assert differs(plan(agent), plan(other))


def test_the_rewards_seen_are_those_collected(states):
    seen = states[-1][0].agent.statistics
    # LinearQuadratic pays at most 0, the others 0 to 2 per agent step.
    assert seen.reward.high[1] <= 0.0 and seen.reward.low[1] < 0.0
    assert seen.reward.low[2] >= 0.0 and 0.0 < seen.reward.high[2] <= 2.0
    assert np.all(seen.recent_reward.mean >= seen.reward.low - 1e-5)
    assert np.all(seen.recent_reward.mean <= seen.reward.high + 1e-5)


def test_without_a_bonus_nothing_of_it_is_computed():
    off = dataclasses.replace(SMALL, exploration=config_lib.ExplorationConfig(scale=0.0))
    experiment = make_experiment(off)
    shapes = jax.eval_shape(train_step.make_train_step(experiment), experiment.state_shapes())
    assert "explorers" not in shapes[0].agent.params.world_model
    assert not any(name.startswith("exploration") for name in shapes[1])


@pytest.mark.parametrize(
    ("warmup", "iteration", "random"),
    [
        (101, 10, True),
        (101, 11, False),
        (3 * 10**8, 3 * 10**7 - 1, True),  # float32 knows 3e7 - 1 as 3e7
        (3 * 10**8, 3 * 10**7, False),
        (10**12, 2**31 - 2, True),
        (10**12, 2**31 - 1, False),
    ],
)
def test_the_warmup_ends_with_its_last_iteration(warmup, iteration, random):
    config = dataclasses.replace(
        SMALL, train=config_lib.TrainConfig(total_env_steps=10**13, warmup_env_steps=warmup)
    )
    parts = types.SimpleNamespace(config=config, env_steps_per_iteration=10)
    state = types.SimpleNamespace(iteration=jnp.asarray(iteration, jnp.int32))
    assert bool(train_step._is_random(state, parts)) == random
