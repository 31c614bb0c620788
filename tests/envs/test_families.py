"""Tests of families: what their names may say, what is drawn, and how their rows stand."""

import dataclasses

import numpy as np
import pytest

from m3po_jax import config as config_lib
from m3po_jax import presets
from m3po_jax.cli import config_argument
from m3po_jax.config import Config, ConfigError
from m3po_jax.config_validation import validate
from m3po_jax.envs import bodies, families, held_out, registry
from m3po_jax.types import BatchLayout

NAME = "dmc/CartpoleSwingup"
FAMILY = f"{NAME}?family=pole_length:0.6..1.4,gear:0.5..1.5&size=5"


def test_a_family_is_parsed():
    request = registry.parse_task(f"{FAMILY}&context=given&impl=c")
    assert request.options["family"] == (("pole_length", 0.6, 1.4), ("gear", 0.5, 1.5))
    assert (request.options["size"], request.options["context"]) == (5, "given")
    assert families.size_of(request.options) == 5
    assert families.size_of(registry.parse_task(f"{NAME}?family=gear:0.5..2").options) == 32
    assert families.size_of(registry.parse_task(NAME).options) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("family=pole_lenght:0.6..1.4", "no parameter 'pole_lenght'; did you mean pole_length?"),
        ("family=hand_length:0.6..1.4", "its body has no parameter 'hand_length'"),
        ("family=gear:1..1", "the range of family='gear:1..1' is empty"),
        ("family=gear:1.5..0.5", "is reversed; the lower end comes first"),
        ("family=gear:0.5..inf", "must have two numbers, as gear:0.5..1.5"),
        ("family=gear:a..b", "must have two numbers, as gear:0.5..1.5"),
        ("family=gear", "is not of the form parameter:low..high"),
        ("family=gear:0.5..1,gear:1..2", "lists gear more than once"),
        ("family=pole_mass:0..1", "begins at 0, and a mass of 0 breaks the physics"),
        ("family=damping:-1..1", "begins at -1, and factors on what the body has are not negative"),
        ("family=gear:0.5..1&size=0", "size='0' must be a positive whole number of variations"),
        ("family=gear:0.5..1&context=inferred", "choose one of hidden, given"),
        ("family=gear:0.5..1&impl=warp", "impl=warp has one for all; choose impl=jax or impl=c"),
        ("size=3", "size needs a family"),
        ("context=given", "context needs a family"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match="dmc/CartpoleSwingup") as refused:
        registry.parse_task(f"{NAME}?{options}")
    assert message in str(refused.value)


def test_a_range_that_crosses_a_static_flag_is_refused():
    with pytest.raises(ValueError, match="without friction loss it compiles to another program"):
        registry.parse_task("dmc/FingerSpin?family=spinner_friction:0..1")
    with pytest.raises(ValueError, match="brax/ant has no families; tasks of dmc"):
        registry.parse_task("brax/ant?family=gear:0.5..1")
    with pytest.raises(ValueError, match="toy/PointReachA has no option 'famly'; known are"):
        registry.parse_task("toy/PointReachA?famly=gear:0.5..1")
    with pytest.raises(ConfigError, match="is listed twice"):
        validate(Config(tasks=(FAMILY, f"{NAME}?family=pole_mass:0.5..1")))


def test_no_family_without_a_model_is_told_its_context():
    cfg = Config(tasks=(f"{FAMILY}&context=given",))
    network = dataclasses.replace(cfg.network, encoder="observation")
    cfg = dataclasses.replace(
        cfg,
        network=network,
        planner=dataclasses.replace(cfg.planner, collect=False),
        policy=dataclasses.replace(cfg.policy, objective="likelihood_ratio", data="real"),
        exploration=dataclasses.replace(cfg.exploration, scale=0.0),
        train=dataclasses.replace(cfg.train, updates_per_transition=0.0, eval_policy="prior"),
    )
    with pytest.raises(ConfigError, match="write context=hidden"):
        validate(cfg)
    validate(dataclasses.replace(cfg, tasks=(FAMILY,)))


def test_variations_are_drawn_by_seed_in_their_ranges():
    spans = registry.parse_task(FAMILY).options["family"]
    drawn = families.sample(NAME, spans, size=200, seed=3)
    assert drawn == families.sample(NAME, spans, size=200, seed=3)
    assert drawn[:5] == families.sample(NAME, spans, size=5, seed=3)
    assert drawn[0].name == families.name_of(NAME, drawn[0].factors)
    for index, (parameter, low, high) in enumerate(spans):
        values = np.array([v.factors[parameter] for v in drawn])
        assert low <= values.min() < low + 0.05 and high - 0.05 < values.max() <= high
        assert families.told({NAME: spans}, NAME, drawn[7])[1 + index] == pytest.approx(
            2.0 * (values[7] - low) / (high - low) - 1.0
        )
    other = {v.name for v in families.sample(NAME, spans, size=200, seed=4)}
    assert not other & {v.name for v in drawn}


def test_what_is_told_says_the_family_and_is_as_long_for_all():
    one = families.Span("gear", 0.5, 1.5)
    two = families.Span("pole_mass", 1.0, 3.0)
    told = {"a": (one,), "b": (one, two)}
    a, b = families.Variation("a#", {"gear": 1.5}), families.Variation("b#", {"gear": 1.0})
    b.factors["pole_mass"] = 1.5
    assert families.told(told, "a", a) == (1.0, 0.0, 1.0, 0.0)
    assert families.told(told, "b", b) == (0.0, 1.0, 0.0, -0.5)
    assert families.told(told, "c", a) == ()


def test_too_narrow_ranges_are_refused():
    narrow = (families.Span("gear", 1.0, 1.000002),)
    assert len(families.sample(NAME, narrow, size=2, seed=0)) == 2
    with pytest.raises(ConfigError, match="too narrow for 9 variations"):
        families.sample(NAME, narrow, size=9, seed=0)


def test_a_run_writes_its_variations_and_a_resumed_one_keeps_them():
    cfg = Config(seed=1, tasks=("toy/PointReachA", FAMILY))
    settled = registry.settled(cfg, None)
    assert len(settled.variations) == 5 and settled == registry.settled(settled, None)
    assert registry.names_of(cfg) == ["toy/PointReachA", *settled.variations]
    validate(settled)
    # a run whose variations are not those that the seed gives now
    begun = dataclasses.replace(settled, variations=settled.variations[::-1])
    assert registry.settled(cfg, begun) == begun
    assert config_lib.from_config_dict(dataclasses.asdict(settled)) == settled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names[1:], "4 different ones are listed and size=5"),
        (lambda names: (*names[:4], names[0]), "4 different ones are listed and size=5"),
        (lambda names: (*names[:4], f"{NAME}#gear=1.0"), "does not vary gear and pole_length"),
        (lambda names: (*names[:4], f"{NAME}#gear=x"), "'gear=x' is not of the form"),
        (lambda names: (*names[:4], f"{NAME}#gear=0&pole_length=1"), "'gear=0' is not possible"),
        (lambda names: (*names[:4], f"{NAME}#bar=1"), "no parameter 'bar'"),
        (lambda names: (*names, "dmc/PointMass#gear=1"), "is of no family of the run"),
    ],
)
def test_variations_that_do_not_fit_are_refused(change, message):
    cfg = registry.settled(Config(tasks=(FAMILY,)), None)
    with pytest.raises(ConfigError, match=r"config\.variations") as refused:
        validate(dataclasses.replace(cfg, variations=change(cfg.variations)))
    assert message in str(refused.value)


def test_held_out_variations_are_new_and_lie_inside_and_up_to_a_fifth_beyond():
    cfg = registry.settled(Config(tasks=("toy/PointReachA", FAMILY)), None)
    other = held_out.config_of(cfg)
    assert other == held_out.config_of(cfg)
    assert not set(other.variations) & set(cfg.variations)
    # 10 variations have embeddings of another size than 6 tasks would get by themselves
    assert other.network.embedding_size == 16
    known = bodies.parameters("dmc", "CartpoleSwingup")
    factors = [families.parse_variation(name, known).factors for name in other.variations]
    spans = registry.parse_task(FAMILY).options["family"]
    inside = [all(low <= of[name] <= high for name, low, high in spans) for of in factors]
    assert inside == [True] * 5 + [False] * 5
    for of in factors:
        assert 0.6 - 0.16 <= of["pole_length"] <= 1.4 + 0.16
        assert 0.5 - 0.2 <= of["gear"] <= 1.5 + 0.2
    registry.variations_of(registry.parse_tasks(other.tasks), other.variations, seed=0)


def test_held_out_needs_a_family():
    with pytest.raises(ConfigError, match="--held_out needs a run with a family"):
        held_out.config_of(Config(tasks=("toy/PointReachA",)))


def test_names_with_commas_in_their_ranges_are_split_between_tasks():
    both = f"{FAMILY},toy/PointReachA,my.tasks:Hover,gym/Pendulum-v1"
    assert families.split_names(both) == [
        *(FAMILY, "toy/PointReachA", "my.tasks:Hover", "gym/Pendulum-v1")
    ]
    argv, _ = config_argument.resolve(["train", "--config=toy", f"--config.tasks={both}"])
    assert argv[2:4] == [f"--config.tasks={FAMILY!r}", "--config.tasks=toy/PointReachA"]
    assert "cartpole64" in presets.names()


def test_the_variations_of_a_family_take_turns_in_the_batch():
    # a task of its own with 4 environments, and a family of 3 with 2 of each
    layout = BatchLayout((4, 2, 2, 2), (1, 3))
    assert layout.task_id.tolist() == [0, 0, 1, 2, 3] * 2
    assert layout.object_envs == (4, 6)
    assert [tasks.tolist() for tasks in layout.tasks_of] == [[0], [1, 2, 3]]
    batch = np.arange(10)
    own, family = layout.split(batch)
    assert own.tolist() == [0, 1, 5, 6] and family.tolist() == [2, 3, 4, 7, 8, 9]
    np.testing.assert_array_equal(layout.join([own, family]), batch)
    # the second environment of each task
    assert layout.row(np.arange(4), np.ones(4, np.int32)).tolist() == [1, 7, 8, 9]
    assert layout.of([1]).task_id.tolist() == [0, 1, 2] * 2
    # several of each in one block
    assert BatchLayout((3, 2, 2), (1, 2)).task_id.tolist() == [0, 0, 0, 1, 2, 1, 2]
    assert BatchLayout((3, 2, 2), (1, 2)).row(np.array([2]), np.array([1])).tolist() == [6]
