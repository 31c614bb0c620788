import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3po_jax.deploy.agent import AgentError, load
from m3po_jax.learning import rollout
from m3po_jax.workdir.checkpoint import CheckpointError
from m3po_jax.workdir.record import WorkdirError
from tests.integration import tiny_config
from tests.integration.saved_run import save_run

REACH, POLE, LQ = "toy/PointReachA", "toy/TerminatingPole", "toy/LinearQuadratic"


def test_it_knows_its_tasks(agent):
    assert agent.tasks == (REACH, POLE, LQ)
    assert agent.policies == ("planner", "prior")
    assert agent.spec(POLE).action_size == 1
    assert agent.env_steps == 7
    assert agent.plan_shape == (2, 2)


def test_loaded_are_the_saved_parameters_and_nothing_of_the_optimizers(agent, run):
    _, _, state = run
    for name in ("params", "statistics"):
        loaded, saved = getattr(agent.state, name), getattr(state.agent, name)
        jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    assert not jax.tree.leaves((agent.state.world_model_opt, agent.state.target_q))


@pytest.mark.parametrize("policy", ["planner", "prior"])
def test_it_acts_as_in_an_evaluation(agent, run, policy):
    _, experiment, state = run
    env = experiment.env.resized(1)
    observation = np.array([[0.5, -0.2, 0.0], [0.1, 0.3, 0.0], [0.2, -0.4, 0.3]], np.float32)
    key = jax.random.key(5)
    keys = jnp.stack([jax.random.fold_in(key, row) for row in range(3)])
    plan_mean = jnp.full((3, *agent.plan_shape), 0.1) * env.action_mask[:, None]
    args = (experiment.networks, state.agent, env, observation, plan_mean, keys)
    expected = (
        rollout.prior_actions(*args, explore=False)
        if policy == "prior"
        else rollout.planned_actions(*args, explore=False, config=experiment.config)
    )
    action, plan = agent.plan(observation, agent.tasks, plan_mean, key=key, policy=policy)
    np.testing.assert_allclose(action, np.tanh(expected.u), atol=1e-5)
    if policy == "planner":
        np.testing.assert_allclose(plan[:, :-1], expected.plan_mean[:, 1:], atol=1e-5)
        assert not plan[:, -1].any()
    assert np.abs(action).min(axis=1)[0] > 0.0
    assert action[1, 1] == 0.0  # the pole has one action


def test_a_single_observation_is_the_first_row_of_a_batch(agent):
    observation = np.array([[0.1, 0.3], [-0.5, 0.2]])
    single, batch = agent.act(observation[0], POLE), agent.act(observation, POLE)
    assert (single.shape, batch.shape, single.dtype) == ((1,), (2, 1), np.float32)
    np.testing.assert_allclose(single, batch[0], atol=1e-6)


def test_a_row_does_not_depend_on_the_tasks_of_the_others(agent):
    observation = np.array([[0.1, 0.3, 0.0], [-0.5, 0.2, 0.0]])
    mixed = agent.act(observation, [REACH, POLE])
    assert mixed.shape == (2, 2)
    np.testing.assert_allclose(mixed[1, :1], agent.act(observation, POLE)[1], atol=1e-6)
    np.testing.assert_allclose(mixed[0], agent.act(observation, REACH)[0], atol=1e-6)


def test_the_same_key_gives_the_same_action_and_another_key_another(agent):
    observation = [0.1, 0.3]
    first = agent.act(observation, REACH, key=jax.random.key(1))
    np.testing.assert_array_equal(first, agent.act(observation, REACH, key=jax.random.key(1)))
    assert (first != agent.act(observation, REACH, key=jax.random.key(2))).any()
    default = agent.act(observation, REACH)
    np.testing.assert_array_equal(default, agent.act(observation, REACH, key=jax.random.key(0)))


def test_a_plan_goes_on_from_the_last_one(agent):
    _, cold = agent.plan([0.1, 0.3], REACH)
    assert cold.shape == (1, 2, 2)
    _, warm = agent.plan([0.1, 0.3], REACH, cold)
    assert (warm != cold).any()
    _, zeros = agent.plan([0.1, 0.3], REACH, jnp.zeros_like(cold))
    np.testing.assert_array_equal(zeros, cold)


def test_without_a_model_the_prior_acts_and_the_sizes_come_from_the_environments(model_free):
    assert model_free.policies == ("prior",)
    assert model_free.spec(REACH).observation_size == 2
    action = model_free.act([0.1, 0.3], REACH)
    np.testing.assert_array_equal(action, model_free.act([0.1, 0.3], REACH, policy="prior"))
    with pytest.raises(AgentError, match="no policy 'planner'"):
        model_free.act([0.1, 0.3], REACH, policy="planner")


@pytest.mark.parametrize(
    ("observation", "task", "message"),
    [
        ([0.1, 0.3], "toy/PointReachB", r"not trained on task 'toy/PointReachB'; did you mean"),
        ([0.1], REACH, r"size 2 \(padded: 3\), got 1"),
        ([[0.1, 0.3]] * 2, [REACH], "1 task names for 2 observations"),
        ([[[0.1, 0.3]]], REACH, r"\[1, 1, 2\]; give \[o\] or \[N, o\]"),
        ([0.1, np.nan], REACH, "not finite"),
        ([[0.1, 0.3, 0.0]] * 2, [REACH, "toy/x"], "'toy/x'"),
        ([0.1, 0.3], None, f"named by a text, .* got None; choose one of {REACH}"),
        ([0.1, 0.3], 0, "named by a text, .* got 0"),
        ([0.1, 0.3], [0], "named by a text, got 0"),
        (None, REACH, "a NoneType is no array of numbers"),
        ("left", REACH, "a str is no array of numbers"),
        ({"x": 0.1}, REACH, "a dict is no array of numbers .*np.concatenate"),
        ([[0.1, 0.3], [0.1]], [REACH, REACH], "a list is no array of numbers"),
    ],
)
def test_what_it_cannot_act_on_is_named(agent, observation, task, message):
    with pytest.raises(AgentError, match=message):
        agent.act(observation, task)


def test_a_wrong_plan_or_policy_is_named(agent):
    with pytest.raises(AgentError, match=r"\[1, 3, 2\], not \[1, 2, 2\]"):
        agent.plan([0.1, 0.3], REACH, jnp.zeros((1, 3, 2)))
    with pytest.raises(AgentError, match="no policy 'plan'; did you mean planner"):
        agent.act([0.1, 0.3], REACH, policy="plan")
    with pytest.raises(AgentError, match="no policy 1; choose one of"):
        agent.act([0.1, 0.3], REACH, policy=1)
    with pytest.raises(AgentError, match="a str is no array of numbers"):
        agent.plan([0.1, 0.3], REACH, "warm")


@pytest.mark.parametrize("key", [0, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))])
def test_a_key_that_is_none_is_named(agent, key):
    with pytest.raises(AgentError, match=r"must be one typed key, as jax.random.key\(0\)"):
        agent.act([0.1, 0.3], REACH, key=key)


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(WorkdirError, match="holds no run"):
        load(tmp_path)
    shutil.copy(run[0] / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path)


def test_damage_in_the_agent_is_refused_and_the_replay_is_not_read(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    state = copy / "checkpoints" / "0" / "state"
    data = max(
        (path for path in state.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    load(copy)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 3])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(copy)


def test_an_agent_with_a_decoder_loads(tmp_path):
    config = tiny_config.get_config()
    config.world_model.reconstruction_scale = 1.0
    _, state = save_run(tmp_path, config, (REACH, POLE))
    loaded = load(tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        loaded.state.params.world_model["decoder"],
        state.agent.params.world_model["decoder"],
    )


def test_another_networks_checkpoint_is_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"latent_size": 8', '"latent_size": 16'))
    with pytest.raises(CheckpointError, match="holds a different state"):
        load(copy)


def test_the_pure_function_is_what_act_runs(agent):
    observation = jnp.array([[0.1, 0.3, 0.0]])
    task_id = jnp.array([0])
    decide = jax.jit(agent.decide, static_argnames="policy")
    plan = jnp.zeros((1, *agent.plan_shape))
    action, _ = decide(agent.state, observation, task_id, plan, jax.random.key(0), policy="planner")
    np.testing.assert_allclose(action[0], agent.act([0.1, 0.3], REACH), atol=1e-6)
