"""Tests of compiled variations: against XML edited by hand, and rows against each one alone."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx
from mujoco_playground import dm_control_suite

from m3po_jax import config
from m3po_jax.config import ConfigError
from m3po_jax.envs import bodies, model_variations, mujoco_c, playground_adapter, registry
from m3po_jax.envs.families import Variation

TASK_OF = {
    "Acrobot": "AcrobotSwingup",
    "BallInCup": "BallInCup",
    "Cartpole": "CartpoleSwingup",
    "Cheetah": "CheetahRun",
    "Finger": "FingerSpin",
    "Hopper": "HopperHop",
    "Pendulum": "PendulumSwingup",
    "PointMass": "PointMass",
    "Reacher": "ReacherEasy",
    "Walker": "WalkerRun",
}


def load(name):
    with playground_adapter._comparable_mujoco_version():
        return dm_control_suite.load(name, config_overrides={"impl": "jax"})


def compiled(environment, name, **factors):
    variation = Variation(f"{name}#", factors)
    known = bodies.parameters("dmc", name)
    return model_variations.compile_all(environment, [variation], known)[0]


# what is derived among it
NUMBERS = (
    *("body_mass", "body_inertia", "body_ipos", "body_pos", "body_subtreemass", "body_invweight0"),
    *("dof_M0", "dof_invweight0", "dof_damping", "geom_size", "geom_pos", "geom_rbound"),
    *("actuator_gear", "actuator_acc0", "tendon_range", "tendon_invweight0", "qpos0"),
)


@pytest.mark.parametrize(
    ("name", "factors", "edits"),
    [
        (
            "CartpoleSwingup",
            {"pole_length": 0.7, "pole_mass": 1.5, "gear": 1.2, "gravity": 0.5},
            [
                ('fromto="0 0 0 0 0 1" size="0.045"', 'fromto="0 0 0 0 0 0.7" size="0.045"'),
                ('mass=".1"', 'mass=".15"'),
                ('gear="10"', 'gear="12"'),
                ("<option timestep", '<option gravity="0 0 -4.905" timestep'),
            ],
        ),
        (
            "ReacherHard",
            {"arm_length": 0.9, "hand_length": 1.1},
            [
                ('fromto="0 0 0 0.12 0 0"', 'fromto="0 0 0 0.108 0 0"'),
                ('name="hand" pos=".12 0 0"', 'name="hand" pos=".108 0 0"'),
                ('fromto="0 0 0 0.1 0 0"', 'fromto="0 0 0 0.11 0 0"'),
                ('name="finger" pos=".12 0 0"', 'name="finger" pos=".132 0 0"'),
                ('type="sphere" size=".05"', 'type="sphere" size=".015"'),
            ],
        ),
        ("BallInCup", {"string_length": 1.2}, [('range="0 0.3"', 'range="0 0.36"')]),
        ("CheetahRun", {"mass": 1.5}, [('settotalmass="14"', 'settotalmass="21"')]),
    ],
)
def test_what_is_derived_follows_as_in_xml_edited_by_hand(name, factors, edits):
    environment = load(name)
    text = pathlib.Path(environment.xml_path).read_text()
    for before, after in edits:
        assert text.count(before) == 1
        text = text.replace(before, after)
    expected = mujoco.MjModel.from_xml_string(text, environment._model_assets)
    found = compiled(environment, name, **factors)
    for field in NUMBERS:
        np.testing.assert_allclose(
            getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-12, err_msg=field
        )
    np.testing.assert_allclose(found.opt.gravity, expected.opt.gravity)
    np.testing.assert_allclose(found.stat.meaninertia, expected.stat.meaninertia)
    # the library's own step of time, which the file has not
    assert found.opt.timestep == environment.mj_model.opt.timestep
    assert not np.array_equal(found.dof_M0, environment.mj_model.dof_M0) or name == "BallInCup"


@pytest.mark.parametrize("body", bodies.BODIES)
def test_every_parameter_varies_the_body_and_keeps_its_program(body):
    environment, name = load(TASK_OF[body]), TASK_OF[body]
    for parameter, kind in bodies.parameters("dmc", name).items():
        factors = (0.9, 1.1) if kind.at_zero else (0.0, 1.1)
        models = [compiled(environment, name, **{parameter: factor}) for factor in factors]
        varied = model_variations.stack(environment.mjx_model, models, ["low", "high"])
        assert varied.columns, parameter


def test_what_the_library_sets_on_its_own_is_not_varied():
    environment = load("FingerSpin")
    model = compiled(environment, "FingerSpin", finger_damping=2.0)
    # the spinner's, set in Playground's Python
    assert model.dof_damping.tolist() == [5.0, 5.0, 0.03]
    everything = {"damping": bodies.Parameter((("joint", "damping", ()),))}
    variation = Variation("dmc/FingerSpin#damping=2.0", {"damping": 2.0})
    with pytest.raises(ConfigError, match=r"damping=2\.0: the library sets dof_damping on its own"):
        model_variations.compile_all(environment, [variation], everything)


def test_what_mjx_decides_as_it_compiles_is_refused():
    environment = load("FingerSpin")
    model = compiled(environment, "FingerSpin", spinner_friction=0.0)
    with pytest.raises(ConfigError, match="one: its factors cross what MJX decides"):
        model_variations.stack(environment.mjx_model, [model], ["one"])


@pytest.mark.parametrize("impl", ["jax", "c"])
def test_rows_of_a_family_are_steps_of_each_variation_alone(impl):
    size, steps = 2, 4
    name = f"dmc/PendulumSwingup?family=length:0.6..1.4,gear:0.5..1.5&size={size}&impl={impl}"
    (request,) = registry.parse_tasks([name])
    (variations,) = registry.variations_of([request], (), seed=5)
    family = registry.make_env(request, variations)
    index = jnp.array([0, 1, 0], jnp.int32)
    keys = jax.random.split(jax.random.key(1), len(index))
    actions = jax.random.uniform(jax.random.key(2), (steps, len(index), 1), minval=-1.0)

    @functools.partial(jax.jit, static_argnums=0)
    def play(environment, keys, actions, *variations):
        def step(states, action):
            states = jax.vmap(environment.step)(states, action)
            return states, (states.observation, states.reward)

        first = jax.vmap(environment.reset)(keys, *variations)
        return first.observation, *jax.lax.scan(step, first, actions)[1]

    found = play(family, keys, actions, index)
    for variation, factors in enumerate(variations):
        alone = load("PendulumSwingup")
        model = compiled(alone, "PendulumSwingup", **factors.factors)
        alone._mj_model, alone._mjx_model = model, mjx.put_model(model, impl="jax")
        backend = mujoco_c.CPhysics("alone", alone) if impl == "c" else None
        single = playground_adapter.PlaygroundEnvironment(
            alone, name="alone", episode_length=1000, can_terminate=False, backend=backend
        )
        rows = np.flatnonzero(index == variation)
        expected = play(single, keys[rows], actions[:, rows])
        tolerance = (0.0, 0.0) if impl == "c" else (1e-4, 1e-5)
        for ours, theirs in zip(found, expected, strict=True):
            ours = ours[rows] if ours.shape[0] == len(index) else ours[:, rows]
            np.testing.assert_allclose(ours, theirs, *tolerance)
    assert not np.allclose(found[1][-1, 0], found[1][-1, 1])


def test_a_family_is_one_object_and_its_program_does_not_grow():
    def operations(size):
        name = f"dmc/PendulumSwingup?family=gear:0.5..1.5&size={size}"
        env = registry.make([name], config.EnvConfig(num_envs=2, action_repeat=1))
        assert len(env.environments) == 1 and len(env.specs) == size
        assert env.batch_size == 2 * size
        state = jax.eval_shape(lambda key: env.init(key, stagger=True), jax.random.key(0))
        pool = jax.eval_shape(env.draw_resets, jax.random.key(0))
        action = jax.ShapeDtypeStruct((env.batch_size, 1), jnp.float32)
        return str(jax.make_jaxpr(env.step)(state, pool, action)).count(" = ")

    assert operations(2) == operations(7)


def test_the_state_of_a_row_says_its_variation_in_c():
    name = "dmc/PendulumSwingup?family=gear:0.5..1.5&size=2&impl=c"
    (request,) = registry.parse_tasks([name])
    (variations,) = registry.variations_of([request], (), seed=5)
    family = registry.make_env(request, variations)
    state = family.reset(jax.random.key(0), jnp.int32(1))
    control = np.zeros(1, np.uint32)
    row = np.concatenate([np.asarray(state.physics.data), control])
    assert family.backend.call(1).run(row[None]).shape[0] == 1
    row[-2] += 1  # behind the last variation
    with pytest.raises(ValueError, match="the saved state is of another model"):
        family.backend.call(1).run(row[None])
