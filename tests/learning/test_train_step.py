"""The compiled iteration: counts, determinism, exact resume, and what the bonus may not touch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config as config_lib
from m3po_jax.learning import episodes, policy_update, train_step
from m3po_jax.learning.world_model_update import world_model_update
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
    counts = [int(state.updates) for state, _ in states]
    assert counts == [0, 0, 0, 18, 24, 30, 36]
    assert [int(state.replay.size) for state, _ in states] == [0, 4, 8, 12, 16, 20, 24]


def test_a_long_random_phase_is_made_up_for_in_several_iterations(step, states):
    # 40 updates owed and 6 of this iteration: 18 now, 28 stay owed.
    state = states[-1][0]
    after, _ = step(state.replace(update_debt=jnp.full((), 40.0)))
    assert int(after.updates) - int(state.updates) == 18
    assert float(after.update_debt) == 28.0


def test_nothing_is_learned_while_actions_are_random(states):
    assert not differs(states[0][0].agent.params, states[2][0].agent.params)
    changed = [states[2][0].agent.params, states[3][0].agent.params]
    for part in ("world_model", "policy", "critic", "exploration"):
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
    """The same agent with a bonus critic that values everything highly and at random."""
    leaves, structure = jax.tree.flatten(agent.params.exploration)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noise = [3.0 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    exploration = jax.tree.unflatten(structure, noise)
    return agent.replace(
        params=agent.params.replace(exploration=exploration), target_exploration=exploration
    )


def test_the_bonus_reaches_no_task_critic_and_no_evaluation(experiment, states):
    agent = states[-1][0].agent
    other = with_other_exploration(agent)
    key = jax.random.key(0)
    play = jax.jit(functools.partial(episodes.evaluate, parts=experiment, policy="planner"))
    assert_equal_trees(play(agent, key), play(other, key))

    replay, layout = states[-1][0].replay, experiment.env.layout
    window = buffer.sample(replay, key, batch_size=12, window=3, layout=layout)
    learn = jax.jit(lambda agent: world_model_update(agent, window, key, parts=experiment)[0])
    assert_equal_trees(learn(agent).params.world_model, learn(other).params.world_model)
    # The policy's data do see it while beta is positive, and do not at beta = 0.
    z = jnp.full((12, experiment.networks.world_model.latent_size), 0.125)
    data = jax.jit(
        lambda agent, beta: (
            policy_update.imagined_policy_data(
                agent, z, window.task_id, key, parts=experiment, beta=beta
            ).advantage
        )
    )
    zero, half = jnp.zeros(()), jnp.full((), 0.5)
    assert_equal_trees(data(agent, zero), data(other, zero))
    assert_equal_trees(data(agent, zero), data(agent, None))
    assert differs(data(agent, half), data(other, half))


def test_without_a_bonus_nothing_of_it_is_computed(experiment):
    off = dataclasses.replace(
        experiment.config,
        exploration=config_lib.ExplorationConfig(beta_start=0.0, beta_end=0.0),
    )
    assert train_step.bonus_weight(jnp.zeros(()), off) is None
    half_way = train_step.bonus_weight(jnp.full((), 2400.0), experiment.config)
    np.testing.assert_allclose(half_way, 0.05, rtol=1e-6)
