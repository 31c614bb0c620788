"""What makes each config in `experiments/configs/baselines` the algorithm of its name."""

import functools
import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from m3po_jax.cli import command_line
from m3po_jax.config import ConfigError, default_config, flatten, from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.learning import policy_update, replay_updates, rollout, train_step, world_model_update
from m3po_jax.learning.perception import perceive
from m3po_jax.ops import rows, two_hot
from m3po_jax.policy import trust_region
from m3po_jax.presets.suites import CLASSIC_TASKS
from m3po_jax.replay import buffer
from m3po_jax.training.evaluator import Evaluator, evaluate_workdir
from m3po_jax.training.experiment import make_experiment
from m3po_jax.types import Trajectory, Window
from m3po_jax.workdir.checkpoint import Checkpointer
from m3po_jax.world_model import losses

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "configs" / "baselines"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
# observation sizes 2, 3, 2; action sizes 2, 2, 1; the last one terminates
TASKS = "toy/PointReachA,toy/LinearQuadratic,toy/TerminatingPole"
B, T, OBS, A, K = 6, 8, 3, 2, 3


def get_config(name, tasks=""):
    return importlib.import_module(f"experiments.configs.baselines.{name}").get_config(tasks)


def small(name, **overrides):
    """A baseline on three toy tasks at toy size, with `part__name=value` overrides."""
    cfg = get_config(name, TASKS)
    sizes = dict(
        network=dict(encoder_width=16, mlp_width=16, latent_size=16, num_bins=21),
        env=dict(num_envs=2, action_repeat=2, unroll_length=T),
        world_model=dict(batch_size=12),
        planner=dict(num_samples=8, num_policy_samples=2, num_elites=4, horizon=2, iterations=1),
        replay=dict(capacity=480),
        train=dict(total_env_steps=4800, warmup_env_steps=96 * cfg.train.eval_policy.count("pla")),
    )
    for part, values in sizes.items():
        cfg[part].update(values)
    for key, value in overrides.items():
        part, _, name = key.partition("__")
        cfg[part][name] = value
    config = from_config_dict(cfg)
    validate(config)
    return make_experiment(config)


def jitted_step(experiment):
    return jax.jit(train_step.make_train_step(experiment))


def differs(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in pairs)


def trajectory_of(experiment, seed=0):
    """A made-up rollout: anything that has the right shapes will do for these losses."""
    rng = np.random.default_rng(seed)
    env = experiment.env
    mask = env.action_mask[env.task_id]
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    zeros = np.zeros((T, B), np.float32)
    return Trajectory(
        observation=normal(T, B, OBS),
        pre_tanh_action=normal(T, B, A) * mask,
        reward=normal(T, B),
        termination=zeros,
        truncation=zeros,
        valid=np.ones((T, B), np.float32),
        next_observation=normal(T, B, OBS),
        task_id=np.broadcast_to(env.task_id, (T, B)),
        behaviour_mean=normal(T, B, A) * mask,
        behaviour_std=np.exp(normal(T, B, A)) * mask,
    )


def random_agent(experiment, seed=0, scale=0.4):
    """An agent with random weights, no head at its zero start; all its other state is zero."""
    rng = np.random.default_rng(seed)
    shapes = experiment.state_shapes().agent
    params = jax.tree.map(
        lambda x: jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32), shapes.params
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return zeros.replace(params=params)


def log_prob(u, mean, std, mask):
    """Log density of diagonal Gaussians over the active dims, in numpy."""
    u, mean, std = (np.asarray(x, np.float64) for x in (u, mean, std))
    safe = np.where(mask > 0, std, 1.0)
    terms = -0.5 * ((u - mean) / safe) ** 2 - np.log(safe) - 0.5 * np.log(2.0 * np.pi)
    return np.sum(terms * mask, axis=-1)


# configs


def test_there_are_baselines():
    assert {"m3po", "tdmpc2", "ppo"} <= set(NAMES) and len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_config_is_valid_with_its_own_and_with_given_tasks(name):
    for tasks, expected in (("", CLASSIC_TASKS), (TASKS, tuple(TASKS.split(",")))):
        cfg = get_config(name, tasks)
        assert cfg.is_locked
        config = from_config_dict(cfg)
        validate(config)
        assert config.tasks == expected


@pytest.mark.parametrize("name", NAMES)
def test_config_flag_loads_it_from_its_path_alone(name, monkeypatch, tmp_path):
    argv = ["train", f"--config={FOLDER / name}.py:toy/PointReachA", "--config.train.log_every=3"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", argv)  # where overrides are looked for
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(ROOT)])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    command_line.parse_flags(argv, values)
    assert values.config.tasks == ("toy/PointReachA",)
    assert values.config.train.log_every == 3


SURROGATE = {
    "policy.objective": "likelihood_ratio",
    "policy.trust_region": "clip",
    "policy.epochs": 2,
    "policy.entropy_scale": 3e-2,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m3po", {}),
        ("m3po_no_bonus", {"exploration.scale": 0.0}),
        ("m3po_prior_acts", {"planner.collect": False, "exploration.scale": 0.0}),
        ("reconstruction", {"world_model.reconstruction_scale": 0.1}),
        ("m3po_no_trust_region", {"policy.trust_region": "none"}),
        ("m3po_likelihood_ratio", SURROGATE),
        ("m3po_real", {**SURROGATE, "policy.data": "real", "policy.planner_kl_scale": 0.1}),
    ],
)
def test_ablations_differ_from_the_agent_in_one_thing(name, expected):
    default = flatten(default_config().to_dict())
    values = flatten(get_config(name).to_dict())
    changed = {key: value for key, value in values.items() if value != default[key]}
    del changed["tasks"]
    assert changed == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("planner.collect", True),
        ("policy.objective", "pathwise"),
        ("policy.data", "imagined"),
        ("policy.planner_kl_scale", 0.1),
        ("exploration.scale", 0.1),
        ("train.updates_per_transition", 1.0),
        ("train.eval_policy", "planner"),
    ],
)
def test_without_a_model_nothing_can_ask_for_one(key, value):
    cfg = get_config("ppo")
    part, name = key.split(".")
    cfg[part][name] = value
    with pytest.raises(ConfigError, match=rf"config.{key} = {value!r} .*has none; set"):
        validate(from_config_dict(cfg))


def test_with_a_model_it_must_be_trained():
    cfg = get_config("m3po")
    cfg.train.updates_per_transition = 0.0
    with pytest.raises(ConfigError, match="updates_per_transition = 0.0 never trains"):
        validate(from_config_dict(cfg))


def test_settings_of_the_model_do_not_bind_an_agent_without_one():
    cfg = get_config("ppo", TASKS)
    cfg.env.unroll_length, cfg.env.num_envs, cfg.train.warmup_env_steps = 2, 8, 0
    cfg.replay.capacity = 1
    validate(from_config_dict(cfg))


def test_a_run_without_a_model_cannot_be_evaluated_with_the_planner(tmp_path):
    config = small("ppo").config
    with pytest.raises(ConfigError, match="no world model to plan with"):
        evaluate_workdir(config, tmp_path, episodes=1, policy="planner")


# the critic that nothing uses


# TD-MPC2


def captured_pathwise_loss(experiment, agent, z, task_id, monkeypatch):
    """The loss function, its data and the optimised parameters of one pathwise update."""
    captured = {}

    def capture(loss_fn, params, state, data, key, *, optimizer, config, axis_name):
        captured.update(loss_fn=loss_fn, params=params, data=data, cfg=config)
        return params, state, {"kl": jnp.zeros(())}

    monkeypatch.setattr(trust_region, "trust_region_update", capture)
    policy_update.pathwise_policy_update(agent, z, task_id, jax.random.key(0), parts=experiment)
    return captured


def test_tdmpc2_policy_loss_is_scaled_value_and_entropy(monkeypatch):
    experiment = small("tdmpc2", policy__entropy_scale=0.3)
    networks = experiment.networks
    agent = random_agent(experiment, scale=1.0)
    task_id = jnp.arange(30, dtype=jnp.int32) % K
    # Windows of two steps: the loss is over both, the scale of the values is the first ones'.
    windows = jax.nn.softmax(3.0 * jax.random.normal(jax.random.key(1), (2, 30, 2, 8)))
    windows = windows.reshape(2, 30, 16)
    captured = captured_pathwise_loss(experiment, agent, windows, task_id, monkeypatch)
    key = jax.random.key(7)
    loss, _ = captured["loss_fn"](captured["params"], captured["data"], key)

    z = jnp.swapaxes(windows, 0, 1).reshape(60, 16)
    task_id = jnp.repeat(task_id, 2)
    model_params, mask = agent.params.world_model, networks.action_mask(task_id)
    e = networks.embed(model_params, task_id)
    mean, std = networks.policy(agent.params.policy, z, e, mask)

    def value(u):
        logits = networks.apply_model(model_params, "q_logits", z, jnp.tanh(u) * mask, e)
        return np.mean(np.asarray(two_hot.decode(logits, networks.support), np.float64), axis=0)

    first = value(mean)[::2]
    spread = np.array([np.ptp(np.percentile(first[k::K], [5, 95])) for k in range(K)])
    scale = np.maximum(spread, 1.0)[np.asarray(task_id)]
    noise = rows.normal(key, rows.numbers(60), mean.shape[1:])
    u = np.asarray(mean + std * noise, np.float64)
    # log(1 - tanh(u)^2), where tanh(u) is 1 to the last digit too
    log_slope = 2.0 * (np.log(2.0) - np.abs(u) - np.log1p(np.exp(-2.0 * np.abs(u))))
    squash = np.sum(np.asarray(mask) * log_slope, axis=-1)
    entropy = -(log_prob(u, mean, std, np.asarray(mask)) - squash)
    expected = -np.mean(value(u) / scale + 0.3 * entropy)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert np.std(value(u)) > 0.05 and np.max(scale) > 1.0
    assert captured["cfg"].trust_region == "none" and captured["cfg"].epochs == 1


def test_tdmpc2_learns_no_critic_no_bonus_and_is_held_by_no_trust_region():
    published = from_config_dict(get_config("tdmpc2"))
    assert published.policy.entropy_scale == 1e-4 and published.policy.learning_rate == 3e-4
    experiment = small("tdmpc2", policy__learning_rate=0.1)
    config = experiment.config
    assert not config.has_bonus and not config.learns_from_real
    agent, trajectory = random_agent(experiment), trajectory_of(experiment)
    key = jax.random.key(0)

    shapes = experiment.state_shapes().replay
    replay = buffer.add(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), trajectory)
    update_once = jax.jit(functools.partial(replay_updates.replay_update, parts=experiment))
    learned, metrics = update_once(agent, replay, key)
    before, after = agent.params, learned.params
    assert not differs(before.critic, after.critic)
    assert not differs(before.exploration, after.exploration)
    assert differs(before.policy, after.policy) and differs(before.world_model, after.world_model)
    assert {name.split("/")[0] for name in metrics} == {"world_model", "policy"}
    assert metrics["policy/kl_max"] > 1.5 * config.policy.kl_target


def test_tdmpc2_values_are_one_step_targets_of_the_worse_head(monkeypatch):
    experiment = small("tdmpc2")
    config = experiment.config
    assert config.world_model.value_target == "td"
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    replay_update = functools.partial(replay_updates.replay_update, parts=experiment)

    class TargetsAsked(Exception):
        pass

    def td_targets(*_, axis_name):
        raise TargetsAsked

    monkeypatch.setattr(world_model_update.world_model_losses, "td_targets", td_targets)
    with pytest.raises(TargetsAsked):
        jax.eval_shape(replay_update, state.agent, state.replay, jax.random.key(0))


# real surrogate data


def test_reconstruction_decodes_observations_and_the_agent_does_not():
    experiment = small("reconstruction")
    agent, networks = random_agent(experiment), experiment.networks
    params = agent.params.world_model
    trajectory = trajectory_of(experiment)
    window = Window(
        observation=trajectory.observation[:3],
        pre_tanh_action=trajectory.pre_tanh_action[:3],
        reward=trajectory.reward[:3],
        termination=trajectory.termination[:3],
        next_observation=trajectory.next_observation[:3],
        mask=trajectory.valid[:3],
        task_id=trajectory.task_id[0],
    )

    def losses_of(params):
        return losses.world_model_losses(
            networks, params, window, jnp.zeros((3, B, 16)), window.reward, jax.random.key(0)
        )[0]

    found = losses_of(params)
    # By hand: the first latent is the encoder's, the next ones are the model's own.
    e = networks.embed(params, window.task_id)
    a = jnp.tanh(window.pre_tanh_action) * networks.action_mask(window.task_id)
    z = networks.encode(params, window.observation[0], e)
    for t in range(3):
        decoded = np.asarray(networks.apply_model(params, "decode", z, e))
        symlog = np.sign(window.observation[t]) * np.log1p(np.abs(window.observation[t]))
        np.testing.assert_allclose(
            found["reconstruction"][t], ((decoded - symlog) ** 2).sum(-1), rtol=1e-4
        )
        z = networks.apply_model(params, "next_latent", z, a[t], e)
    gradient = jax.grad(lambda p: jnp.sum(losses_of(p)["reconstruction"]))(params)
    reached = {
        name for name, part in gradient.items() if differs(part, jax.tree.map(jnp.zeros_like, part))
    }
    assert reached == {
        "embedding",
        "encoder",
        "encoder_norm",
        "dynamics",
        "dynamics_norm",
        "decoder",
    }
    plain = jax.eval_shape(small("m3po").init, jax.random.key(0)).agent.params.world_model
    assert set(params) - set(plain) == {"decoder"}


def test_real_data_carry_the_importance_weight_of_the_planner():
    experiment = small("m3po_real")
    agent = random_agent(experiment)
    trajectory = trajectory_of(experiment)
    discount = experiment.env.discount[experiment.env.task_id]
    data_of = jax.jit(
        functools.partial(
            policy_update.real_policy_data, agent, discount=discount, parts=experiment
        )
    )
    planned = data_of(trajectory)
    mask, u = np.asarray(planned.context.action_mask), planned.u
    weight = np.exp(
        log_prob(u, planned.old.mean, planned.old.std, mask)
        - log_prob(u, planned.behaviour.mean, planned.behaviour.std, mask)
    )
    assert np.min(weight) < 0.1 and np.max(weight) > 3.0

    def unflatten(x):  # the samples of an environment stand together
        return x.reshape(B, T, A).swapaxes(0, 1)

    prior = trajectory.replace(
        behaviour_mean=unflatten(planned.old.mean), behaviour_std=unflatten(planned.old.std)
    )
    on_policy = data_of(prior)
    np.testing.assert_allclose(
        planned.advantage, np.minimum(1.0, weight) * on_policy.advantage, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(planned.old.mean, on_policy.old.mean)
    assert np.std(on_policy.advantage) > 0.5


def test_the_planner_is_what_real_data_are_drawn_towards():
    experiment = small("m3po_real")
    agent = random_agent(experiment)
    trajectory = trajectory_of(experiment)
    discount = experiment.env.discount[experiment.env.task_id]

    def distances():
        networks, key = experiment.networks, jax.random.key(0)
        data = policy_update.real_policy_data(agent, trajectory, discount, parts=experiment)
        data = data._replace(advantage=jnp.zeros_like(data.advantage))
        near, _ = policy_update.policy_update(agent, data, key, parts=experiment)
        mask = data.context.action_mask
        for params in (agent.params.policy, near.params.policy):
            new = trust_region.Gaussians(*networks.policy(params, data.z, data.context.e, mask))
            yield trust_region.mean_kl(data.behaviour, new, data.weight, mask)

    before, after = jax.jit(lambda: tuple(distances()))()
    assert after < before


# PPO


@pytest.fixture(scope="module")
def ppo():
    return small("ppo")


@pytest.fixture(scope="module")
def ppo_history(ppo):
    """States and metrics of the first three iterations."""
    step = jitted_step(ppo)
    history = [(jax.jit(ppo.init)(jax.random.key(0)), None)]
    for _ in range(3):
        history.append(step(history[-1][0]))
    return history


def test_ppo_has_no_model_and_replays_nothing(ppo, ppo_history):
    first, last = ppo_history[0][0], ppo_history[-1][0]
    assert first.agent.params.world_model == last.agent.params.world_model == {}
    assert first.agent.target_q == {}
    assert not jax.tree.leaves(first.agent.world_model_opt)[1:]  # Adam's step counter at most
    assert not last.updates.any() and last.update_debt == 0.0
    assert last.replay.data["reward"].shape == (B, T)
    metrics = ppo_history[-1][1]
    assert not [name for name in metrics if name.startswith("world_model/")]
    for part in ("policy", "critic"):
        assert differs(getattr(first.agent.params, part), getattr(last.agent.params, part))
    assert not differs(first.agent.params.exploration, last.agent.params.exploration)


def test_ppo_state_without_a_model_is_saved_and_restored(ppo, ppo_history, tmp_path):
    state = ppo_history[-1][0]
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state, {})
        restored, _ = checkpointer.restore_latest(ppo.state_shapes())
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert not differs(restored.agent, state.agent)


def test_ppo_learns_from_the_first_rollout_on_and_stays_in_its_trust_region(ppo, ppo_history):
    for _, metrics in ppo_history[1:]:
        assert np.isfinite(metrics["critic/loss"])
        assert 0.0 < metrics["policy/kl"] <= 1.5 * ppo.config.policy.kl_target


def test_ppo_behaviour_is_the_policy_that_is_improved(ppo, ppo_history):
    state = ppo_history[-1][0]
    _, trajectory, _, spread = jax.jit(
        functools.partial(rollout.collect, ppo.env, parts=ppo, random=False)
    )(state.agent, state.rollout, jax.random.key(5))
    discount = ppo.env.discount[ppo.env.task_id]
    data = jax.jit(functools.partial(policy_update.real_policy_data, parts=ppo))(
        state.agent, trajectory, discount
    )
    mask = np.asarray(data.context.action_mask)
    log_ratio = log_prob(data.u, data.old.mean, data.old.std, mask) - log_prob(
        data.u, data.behaviour.mean, data.behaviour.std, mask
    )
    np.testing.assert_allclose(log_ratio, 0.0, atol=1e-4)
    kl = trust_region.mean_kl(data.behaviour, data.old, data.weight, data.context.action_mask)
    np.testing.assert_allclose(kl, 0.0, atol=1e-5)
    assert np.all(np.asarray(spread) == 0.0)
    assert np.std(data.old.mean) > 0.0 and np.min(np.asarray(data.old.std)[mask > 0]) > 0.0

    # So the advantages are the plain ones: mean 0 and standard deviation 1 in every task.
    tasks = np.repeat(ppo.env.task_id, T)
    for k in range(K):
        assert np.abs(np.mean(data.advantage[tasks == k])) < 1e-3
        np.testing.assert_allclose(np.std(data.advantage[tasks == k]), 1.0, rtol=1e-2)


def test_ppo_sees_normalised_observations_and_the_task(ppo, ppo_history):
    state = ppo_history[-1][0]
    task_id = jnp.asarray(ppo.env.task_id)
    observation = np.asarray(state.replay.data["observation"][:, 0])
    context, z = perceive(ppo.networks, state.agent, observation, task_id)
    np.testing.assert_array_equal(context.e, np.eye(K)[ppo.env.task_id])
    moments = state.agent.statistics.observation
    std = np.sqrt(np.asarray(moments.variance))[ppo.env.task_id]
    expected = (observation - np.asarray(moments.mean)[ppo.env.task_id]) / np.where(std > 0, std, 1)
    np.testing.assert_allclose(z, np.clip(expected, -10.0, 10.0), rtol=1e-3, atol=1e-4)


def test_ppo_statistics_are_those_of_all_observations(ppo, ppo_history):
    # Without a model the replay holds exactly the newest rollout.
    rollouts = [state.replay.data for state, _ in ppo_history[1:]]
    x = np.concatenate([np.asarray(data["observation"], np.float64) for data in rollouts], axis=1)
    assert all(np.all(data["valid"] == 1.0) for data in rollouts)
    moments = ppo_history[-1][0].agent.statistics.observation
    for k in range(K):
        samples = x[ppo.env.task_id == k].reshape(-1, OBS)
        assert moments.count[k] == len(samples) == 3 * 2 * T
        np.testing.assert_allclose(moments.mean[k], samples.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.variance[k], samples.var(axis=0), rtol=1e-4, atol=1e-6)


def test_ppo_leaves_invalid_steps_out_of_the_statistics(ppo, ppo_history):
    agent = ppo_history[0][0].agent
    trajectory = trajectory_of(ppo)
    faulty = trajectory.replace(
        observation=np.where(np.arange(T)[:, None, None] == 2, np.nan, trajectory.observation),
        valid=np.where(np.arange(T)[:, None] == 2, 0.0, trajectory.valid),
    )
    moments = train_step.update_observation_moments(agent, faulty, ppo).statistics.observation
    assert moments.count.tolist() == [2 * (T - 1)] * K
    assert np.all(np.isfinite(moments.mean)) and np.all(np.isfinite(moments.variance))


def test_a_model_leaves_the_observation_statistics_alone():
    experiment = small("m3po")
    agent = jax.eval_shape(experiment.init, jax.random.key(0)).agent
    assert agent.params.world_model and agent.target_q
    context, z = jax.eval_shape(
        functools.partial(perceive, experiment.networks),
        agent,
        jnp.zeros((B, OBS)),
        jnp.asarray(experiment.env.task_id),
    )
    assert z.shape == (B, 16) and context.e.shape == (
        B,
        experiment.networks.world_model.embedding_size,
    )


def test_ppo_learns_to_reach_two_goals_that_only_the_task_tells():
    cfg = get_config("ppo", "toy/PointReachA,toy/PointReachB")
    cfg.network.update(mlp_width=16)
    cfg.env.update(num_envs=16, action_repeat=1, unroll_length=25)
    cfg.policy.update(learning_rate=3e-3, epochs=4)
    cfg.critic.update(learning_rate=3e-3, epochs=4)
    config = from_config_dict(cfg)
    validate(config)
    experiment = make_experiment(config)
    step = jax.jit(train_step.make_train_step(experiment), donate_argnums=0)
    state = jax.jit(experiment.init)(jax.random.key(0))
    evaluator = Evaluator(experiment, episodes=16)
    before = evaluator(state.agent, policy="prior", seed=0)["tasks"]
    for _ in range(60):
        state, _ = step(state)
    after = evaluator(state.agent, policy="prior", seed=0)["tasks"]
    for task in after:
        # A start in the middle reaches the goal in 7 steps; the optimum is about 45.
        assert before[task]["return_mean"] < 15.0
        assert after[task]["return_mean"] > 35.0, after
