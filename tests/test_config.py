import dataclasses
import importlib
import math

import ml_collections
import pytest

from m3po_jax import config as config_lib
from m3po_jax import presets, workload
from m3po_jax.config import Config, ConfigError, NetworkConfig, Range
from m3po_jax.config.rules import above, at_least
from m3po_jax.config_validation import validate
from tests import registered_tasks

TOY = ("toy/PointReachA", "toy/PointReachB")


def likelihood_ratio(**overrides):
    """The same with PPO's surrogate."""
    return make(policy__objective="likelihood_ratio", **overrides)


def real(**overrides):
    """The same with a policy that learns from fresh rollouts."""
    return likelihood_ratio(policy__data="real", **overrides)


def make(**overrides):
    """The default settings on two toy tasks with four control steps per agent step, overridden."""
    tree = config_lib.default_config().to_dict()
    tree["tasks"] = TOY
    tree["env"]["action_repeat"] = 4
    for key, value in overrides.items():
        part, _, name = key.partition("__")
        if name:
            tree[part][name] = value
        else:
            tree[part] = value
    return tree


def refusal(tree):
    with pytest.raises(ConfigError) as caught:
        validate(config_lib.from_config_dict(tree))
    return str(caught.value)


def test_default_config_is_the_dataclasses_defaults():
    cfg = config_lib.default_config()
    assert config_lib.from_config_dict(cfg) == Config()
    assert hash(config_lib.from_config_dict(cfg)) == hash(Config())


def test_default_config_is_locked_but_keys_can_change():
    cfg = config_lib.default_config()
    cfg.planner.horizon = 5
    cfg.tasks = ("toy/PointReachA",)
    assert config_lib.from_config_dict(cfg).planner.horizon == 5
    assert config_lib.from_config_dict(cfg).tasks == ("toy/PointReachA",)
    with pytest.raises(AttributeError):
        cfg.planner.horizn = 5


def test_two_default_configs_share_nothing():
    first, second = config_lib.default_config(), config_lib.default_config()
    first.train.log_every = 7
    assert second.train.log_every == Config().train.log_every


def test_json_types_come_back_as_the_dataclasses_types():
    cfg = config_lib.from_config_dict(make(tasks=list(TOY), planner__temperature=1))
    assert cfg.tasks == TOY
    assert type(cfg.planner.temperature) is float


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (make(train__total_env_stps=3), ["train.total_env_stps", "train.total_env_steps"]),
        (make(sead=3), ["config.sead", "seed"]),
        (make(train__total_env_steps=3.5), ["train.total_env_steps", "3.5", "float", "int"]),
        (make(train__total_env_steps="many"), ["train.total_env_steps", "'many'", "str"]),
        (make(train__total_env_steps=True), ["train.total_env_steps", "True", "bool"]),
        (make(planner__collect=1), ["planner.collect", "1", "bool"]),
        (make(planner__temperature="hot"), ["planner.temperature", "'hot'", "float"]),
        (make(policy__data=3), ["policy.data", "3", "str"]),
        (make(tasks="toy/PointReachA"), ["tasks", "'toy/PointReachA'", "tuple"]),
        (make(tasks=(1, 2)), ["tasks", "(1, 2)", "tuple"]),
        (make(planner=3), ["config.planner", "3", "group"]),
        (make(planner=None), ["config.planner", "None", "group"]),
    ],
)
def test_wrong_names_and_types_are_refused(tree, words):
    text = refusal(tree)
    assert all(word in text for word in words), text


def test_a_missing_key_is_refused_with_a_remedy():
    tree = make()
    del tree["planner"]["horizon"]
    assert "config.planner.horizon is missing" in refusal(tree)
    assert "default_config()" in refusal(tree)


def test_something_that_is_no_config_is_refused():
    with pytest.raises(ConfigError, match="must be a ConfigDict"):
        config_lib.from_config_dict(3)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (make(tasks=()), ["tasks", "no task"]),
        (make(tasks=("toy/PointRechA",)), ["tasks[0]", "toy/PointRechA", "toy/PointReachA"]),
        (make(tasks=("dmc/CartpoleSwingUp",)), ["tasks[0]", "dmc/CartpoleSwingup"]),
        (make(tasks=(TOY[0], "toy/PointReachB?num_env=3")), ["tasks[1]", "num_env", "num_envs"]),
        (make(tasks=(TOY[0], TOY[0])), ["tasks[1]", "twice"]),
        (make(tasks=(TOY[0], TOY[0] + "?num_envs=3")), ["tasks[1]", "twice"]),
        (make(network__size="tyni"), ["network.size", "'tyni'", "tiny"]),
        (make(network__size="huge"), ["network.size", "'huge'", "317M"]),
        (make(network__latent_size=60), ["network.latent_size", "60", "56 or 64"]),
        (make(network__latent_size=4), ["network.latent_size", "4", "nearest: 8"]),
        (make(network__simplex_size=7), ["network.latent_size", "64", "63 or 70"]),
        (make(network__num_q=1), ["network.num_q", "1", "at least 2"]),
        (make(network__support_low=10.0), ["network.support_low", "network.support_high"]),
        (make(network__log_std_min=2.0), ["network.log_std_min", "network.log_std_max"]),
        (make(network__support_high=99.0), ["network.support_high", "99.0", "20"]),
        (make(network__dropout=1.0), ["network.dropout", "1.0", "below 1"]),
        (make(planner__num_elites=33), ["planner.num_elites", "33", "num_samples = 32"]),
        (make(planner__num_policy_samples=40), ["planner.num_policy_samples", "40", "32"]),
        (make(planner__min_std=3.0), ["planner.min_std", "3.0", "max_std = 2.0"]),
        (make(planner__horizon=9), ["planner.horizon", "9", "env.unroll_length = 8"]),
        (make(world_model__horizon=9), ["world_model.horizon", "9", "env.unroll_length = 8"]),
        (make(world_model__batch_size=1), ["world_model.batch_size", "1", "2 tasks"]),
        (
            make(tasks=(TOY[0], "toy/PointReachB?replay_weight=200")),
            ["world_model.batch_size", "64", "give at least 201"],
        ),
        (make(world_model__value_target="lamda"), ["value_target", "'lamda'", "lambda"]),
        (make(policy__objective="pathwize"), ["policy.objective", "pathwise"]),
        (make(policy__trust_region="off"), ["policy.trust_region", "'off'", "none"]),
        (make(policy__data="planner"), ["policy.data", "imagined, real"]),
        (make(policy__minibatches=257), ["policy.minibatches", "257", "256", "more than"]),
        (make(policy__minibatches=5), ["policy.minibatches", "5", "256", "nearest: 4"]),
        (real(policy__minibatches=3), ["3", "128", "nearest: 2"]),
        (make(policy__data="real"), ["policy.data", "'real'", "'likelihood_ratio'"]),
        (make(critic__minibatches=129), ["critic.minibatches", "129", "128"]),
        (make(policy__planner_kl_scale=0.1), ["policy.planner_kl_scale", "0.1", "'real'"]),
        (make(policy__clip_epsilon=1.0), ["policy.clip_epsilon", "1.0"]),
        (make(exploration__scale=-0.1), ["exploration.scale", "-0.1", "at least 0"]),
        (make(exploration__expectile=1.0), ["exploration.expectile", "1.0", "below 1"]),
        (make(exploration__num_explorers=1), ["exploration.num_explorers", "1", "from 2"]),
        (make(planner__collect=False), ["exploration.scale", "planner.collect = True"]),
        (make(replay__capacity=127), ["replay.capacity", "127", "at least 128"]),
        (make(train__warmup_env_steps=191), ["train.warmup_env_steps", "191", "at least 192"]),
        (make(train__total_env_steps=7_500), ["train.total_env_steps", "7500"]),
        (make(train__eval_policy="priors"), ["train.eval_policy", "'priors'", "prior"]),
        (make(train__log_every=0), ["train.log_every", "0", "at least 1"]),
        (make(seed=-1), ["seed", "-1"]),
        (make(seed=2**32), ["seed", "4294967296"]),
        (make(env__agent_step=0.0), ["env.agent_step", "0.0", "above 0"]),
        (make(env__action_repeat=-1), ["env.action_repeat", "-1", "at least 0"]),
        (make(env__num_envs=0), ["env.num_envs", "0", "from 1 to"]),
        (make(env__num_envs=10**14), ["env.num_envs", "from 1 to 16777216"]),
        (make(replay__capacity=2**31), ["replay.capacity", "from 1 to 2147483647"]),
        (make(network__mlp_width=10**12), ["network.mlp_width", "from 0 to 16777216"]),
        (make(train__eval_episodes=10**14), ["train.eval_episodes", "from 1 to 16777216"]),
        (make(train__frozen=("q", "polcy")), ["train.frozen", "'polcy'", "policy?"]),
    ],
)
def test_wrong_values_are_refused_with_name_value_and_remedy(tree, words):
    text = refusal(tree)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "tree",
    [
        make(),
        make(planner__num_elites=32, planner__num_policy_samples=32),
        make(planner__horizon=8, world_model__horizon=8, train__warmup_env_steps=8 * 2 * 8 * 4),
        likelihood_ratio(policy__minibatches=192),
        make(policy__minibatches=256),
        real(policy__minibatches=128),
        real(policy__planner_kl_scale=0.1),
        make(replay__capacity=128),
        make(train__warmup_env_steps=192),
        make(exploration__scale=0.0),
        make(exploration__scale=0.0, planner__collect=False),
        make(planner__num_policy_samples=0),
        make(network__size="317M", network__latent_size=8),
        make(tasks=("dmc/CartpoleBalance", "brax/ant?backend=spring&num_envs=3", *TOY)),
    ],
)
def test_values_at_the_limits_pass(tree):
    validate(config_lib.from_config_dict(tree))


def numeric_keys():
    return [key for key, kind in config_lib.field_types().items() if kind in (int, float)]


def rules():
    """What the type of each setting allows, by its dotted name."""
    groups = {"": Config, **{f"{f.name}.": f.type for f in dataclasses.fields(Config)}}
    return {
        prefix + field.name: config_lib.rule_of(field)
        for prefix, group in groups.items()
        if dataclasses.is_dataclass(group)
        for field in dataclasses.fields(group)
        if not dataclasses.is_dataclass(field.type)
    }


def test_every_setting_has_a_rule():
    free = {
        "tasks",
        "variations",
        *(key for key, kind in config_lib.field_types().items() if kind is bool),
    }
    assert set(rules()) == set(config_lib.field_types())
    assert {key for key, rule in rules().items() if rule is None} == free
    ranges = {key for key, rule in rules().items() if isinstance(rule, config_lib.Range)}
    assert ranges == set(numeric_keys())


def test_every_default_obeys_its_rule():
    config_lib.check(Config())


@pytest.mark.parametrize(
    ("rule", "words", "inside", "outside"),
    [
        (at_least(1), "at least 1", (1, 10**9), (0, math.inf, math.nan)),
        (above(0), "above 0", (1e-9, 1e9), (0, -1)),
        (Range(0, 1), "from 0 to 1", (0, 0.5, 1), (-1e-9, 1 + 1e-9)),
        (Range(0, 1, "[)"), "from 0 to below 1", (0, 0.999), (1, -1)),
        (Range(0, 1, "(]"), "above 0 and at most 1", (1e-9, 1), (0, 2)),
        (Range(0, 1, "()"), "above 0 and below 1", (1e-9, 0.999), (0, 1, math.nan)),
    ],
)
def test_a_range_knows_its_ends(rule, words, inside, outside):
    assert str(rule) == words
    assert all(value in rule for value in inside)
    assert not any(value in rule for value in outside)


def test_sizes_have_the_names_that_a_config_may_give():
    assert tuple(config_lib.SIZES) == rules()["network.size"]


def absurd_numbers():
    for key in numeric_keys():
        if config_lib.field_types()[key] is int:
            yield key, -(10**9)
        else:
            yield from ((key, value) for value in (-1e9, math.nan, math.inf))


@pytest.mark.parametrize(("key", "value"), list(absurd_numbers()))
def test_every_number_is_checked(key, value):
    text = refusal(make(**{key.replace(".", "__", 1): value}))
    assert f"config.{key} = {value!r}" in text


def test_every_choice_passes():
    for key, choices in rules().items():
        if not isinstance(choices, tuple) or key == "train.frozen":
            continue
        if key == "network.encoder":  # 'observation' needs more than itself: tests of the baselines
            continue
        base = likelihood_ratio if key == "policy.data" else make
        for choice in choices:
            validate(config_lib.from_config_dict(base(**{key.replace(".", "__", 1): choice})))


def test_task_options_count_in_the_load():
    tree = make(tasks=("toy/PointReachA?num_envs=2&action_repeat=1", "toy/PointReachB"))
    load = workload.task_load(config_lib.from_config_dict(tree))
    # 8 steps of 2 and 8 environments; 1 and 4 simulator steps each
    assert load == workload.Load((2, 8), (1, 1), 2, 80, 8 * (2 * 1 + 8 * 4))


def test_the_length_of_an_agent_step_counts_in_the_load():
    tree = make(tasks=("dmc/CartpoleSwingup", "dmc/FingerSpin"), env__action_repeat=0)
    load = workload.task_load(config_lib.from_config_dict(tree))
    # 0.04 s are 4 steps of 0.01 s and 2 of 0.02 s
    assert load.env_steps == 8 * 8 * (4 + 2)


@pytest.mark.parametrize("name", presets.names())
def test_presets_are_valid_and_only_differ(name):
    module = importlib.import_module(f"m3po_jax.presets.{name}")
    cfg = module.get_config()
    assert isinstance(cfg, ml_collections.ConfigDict)
    assert cfg.is_locked
    for task in cfg.tasks:
        registered_tasks.skip_if_unavailable(task)
    validate(config_lib.from_config_dict(cfg))
    assert set(cfg.to_dict()) == set(config_lib.default_config().to_dict())


# encoder, layers, mlp, latent, Q heads: those of TD-MPC2 from 1M on
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("tiny", (128, 1, 128, 64, 2)),
        ("1M", (256, 2, 384, 128, 2)),
        ("5M", (256, 2, 512, 512, 5)),
        ("19M", (1024, 3, 1024, 768, 5)),
        ("48M", (1792, 4, 1792, 768, 5)),
        ("317M", (4096, 5, 4096, 1376, 8)),
    ],
)
def test_network_sizes(size, expected):
    network = config_lib.resolve_network(NetworkConfig(size=size), 3)
    assert expected == (
        network.encoder_width,
        network.encoder_layers,
        network.mlp_width,
        network.latent_size,
        network.num_q,
    )
    assert network.latent_size % network.simplex_size == 0


def test_given_sizes_win_over_the_preset():
    network = config_lib.resolve_network(NetworkConfig(mlp_width=33, embedding_size=5), 80)
    assert (network.mlp_width, network.encoder_width, network.embedding_size) == (33, 128, 5)
    assert network.dropout == NetworkConfig().dropout


def test_embedding_grows_at_ten_tasks():
    sizes = [config_lib.resolve_network(NetworkConfig(), n).embedding_size for n in (1, 9, 10, 80)]
    assert sizes == [16, 16, 96, 96]


def test_resolving_is_idempotent():
    network = config_lib.resolve_network(NetworkConfig(size="5M"), 3)
    assert config_lib.resolve_network(network, 80) == network


def test_hints():
    assert config_lib.nearest("Imagind", ("imagined", "real")) == "did you mean imagined?"
    assert config_lib.nearest("zzz", ("imagined", "real")) == "choose one of imagined, real"
    assert "world_model.horizon" in str(config_lib.unknown_key("horizon"))
    assert "group" in str(config_lib.unknown_key("train"))


def test_config_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_presets_for_accelerators_split_over_powers_of_two(name):
    config = config_lib.from_config_dict(
        importlib.import_module(f"m3po_jax.presets.{name}").get_config()
    )
    assert (config.network.size, config.network.precision) == ("5M", "bfloat16")
    for devices in (1, 2, 4, 8, 16, 256):
        assert workload.device_conflict(config, devices) is None
