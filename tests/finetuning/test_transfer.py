"""What an agent keeps on its way into a run with other tasks and sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax import config as config_lib
from m3po_jax.config import ConfigError
from m3po_jax.config_validation import validate
from m3po_jax.finetuning import compatibility, transfer
from m3po_jax.learning.values import target_model
from m3po_jax.ops import counting
from m3po_jax.replay import buffer
from m3po_jax.training.experiment import make_experiment
from m3po_jax.types import Trajectory
from m3po_jax.world_model.latent import task_context

# observation sizes 2 and 2, action sizes 2 and 1; the second terminates
OLD_TASKS = ("toy/PointReachA", "toy/TerminatingPole")
# LinearQuadratic observes 3 numbers; the distractors make 7, and so the largest observation
NEW_TASKS = ("toy/LinearQuadratic", "toy/TerminatingPole?distractors=5", "toy/PointReachA")
SIZES = config_lib.NetworkConfig(
    encoder_width=16, mlp_width=16, latent_size=16, num_bins=21, embedding_size=4
)


def experiment_of(tasks, **train):
    return make_experiment(
        config_lib.Config(
            tasks=tasks,
            env=config_lib.EnvConfig(num_envs=2, action_repeat=2, unroll_length=4),
            network=SIZES,
            world_model=config_lib.WorldModelConfig(batch_size=12),
            replay=config_lib.ReplayConfig(capacity=480),
            train=config_lib.TrainConfig(**train),
        )
    )


def sides_of(*experiments):
    return [transfer.Ends(x.env.specs, x.networks, x.env.layout) for x in experiments]


def transfer_agent(old_agent, new_agent, old, new):
    ends = sides_of(old, new)
    sources = compatibility.embedding_sources(ends[1].tasks, ends[0].tasks, "mean")
    return transfer.transfer_agent(old_agent, new_agent, *ends, embedding_sources=sources)


def random_agent(experiment, seed=0, scale=0.4):
    """An agent with random weights, none at its zero start; its statistics are distinct numbers."""
    rng = np.random.default_rng(seed)

    def draw(x):
        return jnp.asarray(scale * rng.normal(size=x.shape), x.dtype)

    shapes = experiment.state_shapes().agent
    agent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    draws = {
        name: jax.tree.map(draw, getattr(shapes, name))
        for name in ("params", "target_q", "target_exploration", "statistics")
    }
    return agent.replace(**draws)


@pytest.fixture(scope="module")
def ends():
    old, new = experiment_of(OLD_TASKS), experiment_of(NEW_TASKS)
    return old, new


@pytest.fixture(scope="module")
def moved(ends):
    old, new = ends
    was = random_agent(old)
    now = transfer_agent(was, random_agent(new, seed=1), *ends)
    return was, now


def outcomes(experiment, agent, task, observation, u):
    """All that the agent predicts and does for one state of a task, sizes padded to the run's."""
    env, networks = experiment.env, experiment.networks
    index = [spec.name for spec in env.specs].index(task)
    pad = lambda x, size: jnp.pad(x, [(0, 0), (0, size - x.shape[-1])])  # noqa: E731
    params = agent.params.world_model
    context = task_context(networks, params, jnp.full(3, index))
    z = networks.encode(params, pad(observation, env.observation_size), context.e)
    u = pad(u, env.action_size)
    model = target_model(networks, agent)
    z_next, reward, continuation = model.next(z, u, context)
    mean, std = model.policy(z, context)
    width = env.specs[index].action_size
    return {
        "z": z,
        "z_next": z_next,
        "reward": reward,
        "continuation": continuation,
        "q": model.values(z, u, context),
        "mean": mean[:, :width],
        "std": std[:, :width],
        "v": networks.value_logits(agent.params.critic, z, context.e),
        "x": networks.exploration_logits(agent.params.exploration, z, context.e),
    }


@pytest.mark.parametrize("task", OLD_TASKS)
def test_on_known_tasks_the_agent_is_the_same_in_larger_sizes_and_another_order(ends, moved, task):
    rng = np.random.default_rng(2)
    observation, u = (jnp.asarray(rng.normal(size=(3, n)), jnp.float32) for n in (2, 1))
    before = outcomes(ends[0], moved[0], task, observation, u)
    after = outcomes(ends[1], moved[1], task, observation, u)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_and_back_again_nothing_is_lost(ends, moved):
    old, new = ends
    back = transfer_agent(moved[1], random_agent(old, seed=3), new, old)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), back.params, moved[0].params
    )


def test_new_tasks_start_from_the_mean_or_a_named_embedding(ends, moved):
    was = moved[0].params.world_model["embedding"]["table"]
    now = moved[1].params.world_model["embedding"]["table"]
    np.testing.assert_allclose(now, [jnp.mean(was, axis=0), was[1], was[0]], rtol=1e-6)
    sources = compatibility.embedding_sources(["a", "b"], ["b", "c"], "c")
    assert sources == {"a": ("c",), "b": ("b",)}
    refusal = "--embedding=d is neither mean nor a task of the agent: b, c"
    with pytest.raises(ConfigError, match=refusal):
        compatibility.embedding_sources(["a"], ["b", "c"], "d")


def test_a_person_reads_what_new_tasks_start_from():
    sources = {"a": ("b", "c"), "b": ("b",), "d": ("c",)}
    assert compatibility.start_lines(sources) == [
        "a starts from the mean embedding of b, c",
        "d starts from the embedding of c",
    ]


def test_statistics_follow_their_tasks_and_optimizers_are_fresh(ends, moved):
    fresh = random_agent(ends[1], seed=1)
    for name in ("plan_scale", "value_scale", "disagreement", "reward", "recent_reward"):
        was, now, new = (
            jax.tree.leaves(getattr(agent.statistics, name)) for agent in (*moved, fresh)
        )
        for x, y, z in zip(was, now, new, strict=True):
            assert y.tolist() == [z[0], x[1], x[0]]
    jax.tree.map(np.testing.assert_array_equal, moved[1].world_model_opt, fresh.world_model_opt)


def filled_replay(experiment, unrolls):
    """A replay whose rewards number task, environment and step: 100 task + 10 env + step."""
    env, shapes = experiment.env, experiment.state_shapes().replay.data
    batch, capacity = shapes["reward"].shape
    state = buffer.init(trajectory_of(experiment, 0), batch_size=batch, capacity_per_env=capacity)
    for index in range(unrolls):
        state = buffer.add(state, trajectory_of(experiment, index))
    assert env.batch_size == batch
    return state


def trajectory_of(experiment, index):
    env = experiment.env
    lead = (4, env.batch_size)
    within = np.zeros(env.batch_size)
    for task in range(len(env.specs)):
        rows = np.flatnonzero(env.task_id == task)
        within[rows] = np.arange(rows.size)
    steps = 4 * index + np.arange(4)[:, None]
    reward = jnp.asarray(100 * env.task_id + 10 * within + steps / 10.0, jnp.float32)
    zeros, observation = jnp.zeros(lead), jnp.ones((*lead, env.observation_size))
    action = jnp.zeros((*lead, env.action_size))
    return Trajectory(
        observation=observation, pre_tanh_action=action, reward=reward, termination=zeros,
        truncation=zeros, valid=jnp.ones(lead), next_observation=observation,
        task_id=jnp.broadcast_to(env.task_id, lead), behaviour_mean=action, behaviour_std=action,
    )  # fmt: skip


@pytest.fixture(scope="module")
def replays():
    """An old run of two tasks, and a new one with another before them."""
    return experiment_of(OLD_TASKS), experiment_of(("toy/LinearQuadratic", *OLD_TASKS[::-1]))


def test_replay_keeps_the_newest_steps_of_known_tasks_and_new_tasks_wait_for_theirs(replays):
    old, new = replays
    stored = filled_replay(old, 35)  # of 120 steps per environment, the ring has wrapped
    empty = filled_replay(new, 0)
    capacity = empty.data["reward"].shape[1]
    assert capacity == 80
    state = transfer.transfer_replay(stored, empty, *sides_of(old, new), unroll_length=4)
    assert (int(state.size), int(state.cursor)) == (80, 0)
    assert state.skip.tolist() == [80 if task == 0 else 0 for task in new.env.task_id]
    ends_here = np.asarray(state.data["truncation"])
    assert np.all(ends_here[new.env.task_id > 0, -1] == 1.0) and ends_here.sum() == 4.0

    def windows(state, count=600):
        return buffer.sample(
            state, jax.random.key(0), batch_size=count, window=3, layout=new.env.layout
        )

    window = jax.jit(windows)(state)
    known = np.asarray(window.task_id) > 0
    assert np.all(np.asarray(window.mask)[:, known] == 1.0)
    assert np.all(np.asarray(window.mask)[:, ~known] == 0.0)
    state = jax.tree.map(jnp.asarray, state)
    # Steps 60 to 139 of 140 are the newest 80; TerminatingPole was task 1 and PointReachA task 0.
    reward = np.asarray(window.reward)
    for task, number in ((1, 100.0), (2, 0.0)):
        values = reward[:, np.asarray(window.task_id) == task] - number
        steps = 10.0 * np.where(values >= 15.9, values - 10.0, values)
        assert steps.min() >= 59.9 and steps.max() <= 139.1 and np.ptp(steps) > 70
    # Two unrolls on, new tasks have 8 steps of their own, and no window shows anything else.
    for index in range(2):
        state = buffer.add(state, trajectory_of(new, index))
    window = jax.jit(windows)(state)
    fresh = np.asarray(window.task_id) == 0
    assert np.all(np.asarray(window.mask)[:, fresh] == 1.0)
    assert np.asarray(window.reward)[:, fresh].max() <= 10.8


def test_no_window_runs_from_the_last_old_step_into_a_new_one(replays):
    old, new = replays
    state = transfer.transfer_replay(
        filled_replay(old, 2), filled_replay(new, 0), *sides_of(old, new), unroll_length=4
    )
    state = buffer.add(jax.tree.map(jnp.asarray, state), trajectory_of(new, 0))
    window = buffer.sample(
        state, jax.random.key(0), batch_size=300, window=2, layout=new.env.layout
    )
    # Step 7 is the last old one, and the new ones begin with step 0.
    reward = np.asarray(window.reward) % 10
    seam = (np.abs(reward[0] - 0.7) < 1e-3) & (np.asarray(window.task_id) > 0)
    assert seam.any() and np.all(reward[1, seam] < 0.05)
    assert np.all(np.asarray(window.mask)[:, seam] == np.array([[1.0], [0.0]]))


def test_what_an_environment_never_had_is_not_taken_over_as_data(replays):
    old, new = replays
    once = transfer.transfer_replay(
        filled_replay(old, 10), filled_replay(new, 0), *sides_of(old, new), unroll_length=4
    )
    for index in range(2):
        once = buffer.add(jax.tree.map(jnp.asarray, once), trajectory_of(new, index))
    assert once.skip.tolist() == [40 if task == 0 else 0 for task in new.env.task_id]
    third = experiment_of(
        ("toy/LinearQuadratic",),
    )
    kept = filled_replay(third, 0).data["reward"].shape[1]
    again = transfer.transfer_replay(
        once, filled_replay(third, 0), *sides_of(new, third), unroll_length=4
    )
    assert int(again.size) == 48 <= kept
    assert again.skip.tolist() == [40, 40]
    # Of the newest 20 steps the first 12 are those that it never had.
    empty = filled_replay(third, 0)
    short = empty.replace(data={name: leaf[:, :20] for name, leaf in empty.data.items()})
    again = transfer.transfer_replay(once, short, *sides_of(new, third), unroll_length=4)
    assert int(again.size) == 20 and again.skip.tolist() == [12, 12]
    steps = np.arange(8) / 10.0
    np.testing.assert_allclose(again.data["reward"][:, 12:], [steps, 10.0 + steps], rtol=1e-6)


def test_replay_of_other_environments_is_refused(replays):
    old, _ = replays
    others = {
        "num_envs = 4 and had 2": "toy/TerminatingPole?num_envs=4",
        "observation_size = 4 and had 2": "toy/TerminatingPole?distractors=2",
    }
    for words, task in others.items():
        other = experiment_of((NEW_TASKS[0], task))
        with pytest.raises(ConfigError, match=rf"TerminatingPole has {words}, so"):
            transfer.transfer_replay(
                filled_replay(old, 1), filled_replay(other, 0), *sides_of(old, other),
                unroll_length=4,
            )  # fmt: skip


def test_what_can_never_learn_is_said_or_refused():
    pole, reach = experiment_of(OLD_TASKS[1:]), experiment_of(OLD_TASKS[:1])
    linear = experiment_of(("toy/LinearQuadratic",))
    parts = ("encoder", "dynamics", "embedding", "critic")
    assert transfer.frozen_lines(parts, *sides_of(reach, reach)) == []
    # One action more, and as many observations.
    assert transfer.frozen_lines(parts, *sides_of(pole, reach)) == [
        "dynamics is frozen: it ignores the new inputs"
    ]
    assert transfer.frozen_lines(("encoder",), *sides_of(reach, linear)) == [
        "encoder is frozen: it ignores the new inputs"
    ]
    with pytest.raises(ConfigError, match="new action dimensions of the policy at its random"):
        transfer.frozen_lines(("policy",), *sides_of(pole, reach))
    with pytest.raises(ConfigError, match="of the termination at its random start; leave term"):
        transfer.frozen_lines(("encoder", "termination"), *sides_of(reach, pole))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"mlp_width": 32}, ["network.mlp_width = 32", "--config.network.mlp_width=16"]),
        ({"num_bins": 41}, ["network.num_bins = 41", "--config.network.num_bins=21"]),
    ],
)
def test_networks_of_another_size_are_refused(network, words):
    old = experiment_of(OLD_TASKS).config
    config = dataclasses.replace(old, network=dataclasses.replace(SIZES, **network))
    with pytest.raises(ConfigError) as error:
        compatibility.adapted_config(config, old, compatibility.Origin("old"))
    for word in words:
        assert word in str(error.value)


def test_the_embedding_keeps_its_size_whatever_the_number_of_tasks():
    old = config_lib.Config(tasks=tuple(f"dmc/{i}" for i in range(12)))
    config = compatibility.adapted_config(
        config_lib.Config(tasks=("dmc/1",)), old, compatibility.Origin("old", "dmc/3")
    )
    assert config.network.embedding_size == 96


def test_frozen_parts_stay_as_they_are():
    frozen = ("encoder", "dynamics", "policy")
    experiment = experiment_of(
        OLD_TASKS, frozen=frozen, warmup_env_steps=48, total_env_steps=960,
        updates_per_transition=0.25,
    )  # fmt: skip
    validate(experiment.config)
    state = experiment.init(jax.random.key(0))
    before = state.agent.params
    from m3po_jax.learning.train_step import make_train_step

    step = jax.jit(make_train_step(experiment))
    for _ in range(4):
        state, _ = step(state)
    assert counting.whole(state.updates) > 0
    after = state.agent.params

    def changed(a, b):
        return any(
            np.any(np.asarray(x) != np.asarray(y))
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    moved_parts = {
        k for k in before.world_model if changed(before.world_model[k], after.world_model[k])
    }
    assert moved_parts == {"embedding", "reward", "termination", "q", "explorers"}
    assert not changed(before.policy, after.policy)
    assert changed(before.exploration, after.exploration)


def test_a_part_that_is_none_cannot_be_frozen():
    config = config_lib.Config(
        tasks=OLD_TASKS, train=config_lib.TrainConfig(frozen=("encoder", "dynamic"))
    )
    with pytest.raises(ConfigError, match=r"train\.frozen = .*'dynamic'; did you mean .*dynamics"):
        validate(config)
