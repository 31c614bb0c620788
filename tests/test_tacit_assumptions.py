"""What we rely on in JAX, Brax, Playground and Orbax without having written it.

An upgrade that breaks one of these says so here, instead of in a wrong result.
"""

import inspect
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import orbax.checkpoint
import pytest
from brax import envs as brax_envs
from brax import fluid
from mujoco_playground import dm_control_suite

from m3po_jax.envs import playground_adapter, registry, task_options
from m3po_jax.envs.catalog import CATALOG


class TestJax:
    def test_typed_and_raw_keys_are_the_same_stream(self):
        # The adapters hand raw keys to libraries that index into them.
        key = jax.random.key(3)
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.PRNGKey(3))
        np.testing.assert_array_equal(
            jax.random.key_data(jax.random.fold_in(key, 5)),
            jax.random.fold_in(jax.random.PRNGKey(3), 5),
        )

    def test_fold_in_takes_all_32_bits(self):
        # Task streams fold in a CRC-32.
        key = jax.random.key(0)
        values = [0, 2**31 - 1, 2**31, 2**32 - 1]
        folded = [jax.random.key_data(jax.random.fold_in(key, np.uint32(v))) for v in values]
        assert len(np.unique(np.stack(folded), axis=0)) == len(values)

    def test_weak_types_change_a_carry_and_a_cast_removes_them(self):
        def weak(x):
            return jnp.where(x > 0, 1.0, 0.0)

        x = jax.ShapeDtypeStruct((), jnp.float32)
        assert jax.eval_shape(weak, x).weak_type
        assert not jax.eval_shape(
            lambda v: jax.lax.convert_element_type(weak(v), jnp.float32), x
        ).weak_type
        assert not jax.eval_shape(lambda v: jnp.asarray(weak(v), jnp.float32), x).weak_type

    def test_names_for_sharding_exist(self):
        assert "check_vma" in inspect.signature(jax.shard_map).parameters
        assert "axis_types" in inspect.signature(jax.make_mesh).parameters
        assert jax.sharding.AxisType.Auto != jax.sharding.AxisType.Explicit
        assert callable(jax.set_mesh)
        assert jax.P is jax.sharding.PartitionSpec

    def test_make_mesh_without_axis_types_is_explicit(self):
        mesh = jax.make_mesh((1,), ("data",))
        assert mesh.axis_types == (jax.sharding.AxisType.Explicit,)

    def test_gradient_must_be_taken_outside_the_mean_over_devices(self):
        code = """
            import jax, jax.numpy as jnp
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", 4)
            mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
            x = jnp.arange(4.0)  # loss mean(w x) has the gradient 1.5 with respect to w
            loss = lambda w, x: jnp.mean(w * x)
            wrong = lambda w, x: jax.lax.pmean(jax.grad(loss)(w, x), "d")
            right = lambda w, x: jax.grad(lambda w: jax.lax.pmean(loss(w, x), "d"))(w)
            specs = {"mesh": mesh, "in_specs": (jax.P(), jax.P("d")), "out_specs": jax.P()}
            for name, gradient in (("wrong", wrong), ("right", right)):
                print(name, float(jax.shard_map(gradient, **specs)(jnp.float32(2.0), x)))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            check=True,
            timeout=120,
            capture_output=True,
            text=True,
        )
        # The wrong form sums over the 4 devices; if that ever changes, the rule can go.
        assert done.stdout.split() == ["wrong", "6.0", "right", "1.5"]


class TestPlayground:
    @pytest.mark.parametrize("name", CATALOG["dmc"])
    def test_defaults_of_every_task(self, name):
        cfg = dm_control_suite.get_default_config(name)
        assert cfg.impl == "warp"  # NVIDIA only, hence our default impl=jax
        assert cfg.episode_length == 1000
        assert cfg.action_repeat == 1
        assert not cfg.vision

    def test_impl_can_be_overridden(self):
        env = dm_control_suite.load("PendulumSwingup", config_overrides={"impl": "jax"})
        assert env.mjx_model.impl.value == "jax"

    @pytest.mark.parametrize("name", ["PendulumSwingup", "CartpoleBalance"])
    def test_done_is_only_a_nan(self, name):
        env = dm_control_suite.load(name, config_overrides={"impl": "jax"})
        source = inspect.getsource(type(env).step)
        assert "done = jp.isnan(data.qpos).any() | jp.isnan(data.qvel).any()" in source

    def test_reacher_compares_versions_as_text(self):
        # Where this fails, Playground has changed and `_comparable_mujoco_version` may go.
        from mujoco_playground._src.dm_control_suite import reacher

        assert 'mujoco.__version__ >= "3.3.0"' in inspect.getsource(reacher)

    def test_reacher_loads_whatever_the_version(self):
        version = mujoco.__version__
        env = playground_adapter.make_dmc("ReacherEasy", impl="jax")
        assert (env.observation_size, env.action_size) == (6, 2)
        assert mujoco.__version__ == version

    def test_importing_playground_downloads_nothing(self):
        from mujoco_playground._src import mjx_env

        # Robot meshes are cloned when such a task loads, not at import.
        assert "ensure_menagerie_exists()" not in inspect.getsource(dm_control_suite)
        assert callable(mjx_env.ensure_menagerie_exists)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", CATALOG["dmc"])
    def test_every_task_has_unit_actions(self, name):
        env = playground_adapter.PlaygroundEnvironment(name, impl="jax")
        limits = env._env.mj_model.actuator_ctrlrange
        np.testing.assert_array_equal(limits, [[-1.0, 1.0]] * env.action_size)

    def test_step_writes_into_the_metrics_that_it_is_given(self):
        # Hence the adapter gives it a dictionary of its own.
        env = dm_control_suite.load("CartpoleBalance", config_overrides={"impl": "jax"})
        seen = []

        def step(state, action):
            before = dict(state.metrics)
            env.step(state, action)
            seen.append(any(state.metrics[k] is not before[k] for k in before))

        state = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
        jax.eval_shape(step, state, jax.ShapeDtypeStruct((1,), jnp.float32))
        assert seen == [True]


class TestBrax:
    def test_state_has_the_fields_that_we_read(self):
        fields = brax_envs.State.__dataclass_fields__
        assert list(fields) == ["pipeline_state", "obs", "reward", "done", "metrics", "info"]

    def test_environments_come_without_wrappers(self):
        environment = brax_envs.get_environment("fast")
        assert type(environment) is brax_envs.fast.Fast
        assert "EpisodeWrapper" not in inspect.getsource(brax_envs.get_environment)

    def test_actions_are_scaled_inside_where_the_actuators_are_not_unit(self):
        scaled = {"humanoid", "humanoidstandup", "inverted_pendulum", "pusher"}
        for name, kind in brax_envs._envs.items():
            assert ("ctrl_range" in inspect.getsource(kind.step)) == (name in scaled)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [n for n in CATALOG["brax"] if n != "fast"])
    def test_other_actuators_are_unit(self, name):
        environment = registry.make_env(registry.parse_task(f"brax/{name}"))._env
        limits = np.asarray(environment.sys.actuator.ctrl_range)
        unit = np.array_equal(limits, [[-1.0, 1.0]] * environment.action_size)
        assert unit != ("ctrl_range" in inspect.getsource(type(environment).step))

    def test_swimmer_has_one_backend(self):
        for backend in task_options.BRAX_BACKENDS:
            if backend != "generalized":
                with pytest.raises(ValueError, match="Unsupported backend"):
                    brax_envs.get_environment("swimmer", backend=backend)

    def test_fluid_forces_use_a_keyword_that_jax_dropped(self):
        # Where this fails, Brax or JAX has changed and `_restore_clip_keyword` may go.
        assert "a_min=1e-12" in inspect.getsource(fluid)
        assert "a_min" not in inspect.signature(jnp.clip).parameters


class TestOrbax:
    def test_names_exist(self):
        for name in ("CheckpointManager", "CheckpointManagerOptions", "args"):
            assert hasattr(orbax.checkpoint, name)
        for name in ("Composite", "StandardSave", "StandardRestore", "JsonSave", "JsonRestore"):
            assert hasattr(orbax.checkpoint.args, name)

    def test_typed_keys_and_metadata_round_trip(self, tmp_path):
        args = orbax.checkpoint.args
        state = {"key": jax.random.key(4), "x": jnp.arange(3.0), "step": jnp.int32(7)}
        with orbax.checkpoint.CheckpointManager(tmp_path / "checkpoints") as manager:
            manager.save(
                7,
                args=args.Composite(
                    state=args.StandardSave(state), meta=args.JsonSave({"seed": 4})
                ),
            )
            manager.wait_until_finished()
            assert manager.latest_step() == 7
            template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
            restored = manager.restore(
                7,
                args=args.Composite(state=args.StandardRestore(template), meta=args.JsonRestore()),
            )
        assert restored["meta"] == {"seed": 4}
        assert restored["state"]["key"].dtype == state["key"].dtype
        for name, read in (("key", jax.random.key_data), ("x", np.asarray), ("step", np.asarray)):
            np.testing.assert_array_equal(read(restored["state"][name]), read(state[name]))
