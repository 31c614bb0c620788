"""The parts of a training iteration as programs of their own, on the state of a run."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.learning import replay_updates, rollout, train_step
from m3po_jax.learning.exploration_update import exploration_update
from m3po_jax.learning.perception import perceive
from m3po_jax.learning.state import TrainState
from m3po_jax.learning.world_model_update import world_model_update
from m3po_jax.replay import buffer
from m3po_jax.training.compiling import compile_program
from m3po_jax.training.experiment import Experiment
from m3po_jax.types import Trajectory


@dataclasses.dataclass(frozen=True)
class Part:
    """What a training iteration does `calls` times, each time from the result of the time before.

    Attributes:
        name: What it does.
        calls: How often an iteration does it.
        once: `(carry, inputs, key) -> carry`.
        start: The first carry, from the state of a run.
        inputs: What stays the same, from the state of a run.
    """

    name: str
    calls: int
    once: Callable[[Any, Any, jax.Array], Any]
    start: Callable[[TrainState], Any]
    inputs: Callable[[TrainState], Any]

    def run(self, carry: Any, inputs: Any, key: jax.Array) -> Any:
        """All calls of an iteration: a loop inside of one program, as in training."""

        def body(index: jax.Array, carry: Any) -> Any:
            return self.once(carry, inputs, jax.random.fold_in(key, index))

        return jax.lax.fori_loop(0, self.calls, body, carry)


def compile_part(part: Part, state: TrainState) -> tuple[jax.stages.Compiled, Callable[[], Any]]:
    """Compiles a part; the second result starts it, each time from where the last time ended."""
    # Copies, because a training iteration takes (donates) the state from which they come.
    carry, inputs = jax.tree.map(jnp.copy, (part.start(state), part.inputs(state)))
    key = jnp.copy(state.key)
    compiled = compile_program(jax.jit(part.run, donate_argnums=0).lower(carry, inputs, key))
    kept = [carry]

    def run() -> Any:
        kept[0] = compiled(kept[0], inputs, key)
        return kept[0]

    return compiled, run


def updates_per_iteration(experiment: Experiment) -> int:
    """Updates from replay of an iteration that owes none, rounded up."""
    per_iteration = experiment.env.batch_size * experiment.config.env.unroll_length
    return math.ceil(experiment.config.train.updates_per_transition * per_iteration)


def make_parts(experiment: Experiment) -> list[Part]:
    """The parts of one iteration, those without a model where the agent has none."""
    config = experiment.config
    parts = [_environments(experiment), _acting(experiment)]
    if config.learns_from_real:
        parts.append(_fresh_update(experiment))
    if config.has_model:
        parts += [_replay_write(experiment), _replay_sample(experiment), _model_update(experiment)]
        if config.has_bonus:
            parts.append(_exploration_update(experiment))
        if not config.learns_from_real:
            parts.append(_policy_update(experiment))
    return parts


def _environments(experiment: Experiment) -> Part:
    """An unroll of all simulators with random actions."""
    env, steps = experiment.env, experiment.config.env.unroll_length

    def once(env_state: Any, _: None, key: jax.Array) -> Any:
        pool_key, action_key = jax.random.split(key)
        pool = env.draw_resets(pool_key)

        def step(env_state: Any, key: jax.Array) -> tuple[Any, Any]:
            shape = (env.batch_size, env.action_size)
            return env.step(env_state, pool, jax.random.uniform(key, shape, minval=-1.0))

        keys = jax.random.split(action_key, steps)
        return jax.lax.scan(step, env_state.with_new_pool(), keys)[0]

    return Part("environments", 1, once, lambda state: state.rollout.env, lambda state: None)


def _acting(experiment: Experiment) -> Part:
    """One choice of actions in all environments."""
    networks, env, config = experiment.networks, experiment.env, experiment.config

    def once(carry: Any, inputs: Any, key: jax.Array) -> Any:
        plan_mean, u = carry
        agent, observation = inputs
        if config.planner.collect:
            agent = rollout.plan_with_two_heads(agent, key)
        # The sum, which changes no digit, keeps the compiler from encoding once for all calls.
        args = (
            networks,
            agent,
            env,
            observation + 1e-30 * u[..., :1],
            plan_mean,
            env.env_keys(key),
        )
        if config.planner.collect:
            actions = rollout.planned_actions(*args, explore=True, config=config)
        else:
            actions = rollout.prior_actions(*args, explore=True)
        return actions.plan_mean, actions.u

    def inputs(state: TrainState) -> Any:
        return state.agent, state.rollout.env.observation

    def start(state: TrainState) -> Any:
        return state.rollout.plan_mean, jnp.zeros((env.batch_size, env.action_size))

    name = "planning" if config.planner.collect else "policy"
    return Part(name, config.env.unroll_length, once, start, inputs)


def _fresh_update(experiment: Experiment) -> Part:
    """Learning from the newest unroll: the model-free critic and the policy."""

    def once(agent: Any, trajectory: Any, key: jax.Array) -> Any:
        return train_step.learn_from_rollout(agent, trajectory, key, parts=experiment)[0]

    unroll = functools.partial(_unroll, experiment)
    return Part("fresh_update", 1, once, lambda state: state.agent, unroll)


def _replay_write(experiment: Experiment) -> Part:
    return Part(
        "replay_write",
        1,
        lambda replay, unroll, _: buffer.add(replay, unroll),
        lambda state: state.replay,
        lambda state: _unroll(experiment, state),
    )


def _replay_sample(experiment: Experiment) -> Part:
    sample = functools.partial(replay_updates.sample_windows, parts=experiment)
    return Part(
        "replay_sample",
        updates_per_iteration(experiment),
        lambda _, replay, key: sample(replay, key),
        lambda state: jax.jit(sample)(state.replay, state.key),
        lambda state: state.replay,
    )


def _model_update(experiment: Experiment) -> Part:
    def once(agent: Any, window: Any, key: jax.Array) -> Any:
        return world_model_update(agent, window, key, parts=experiment)[0]

    windows = _replay_sample(experiment).start
    calls = updates_per_iteration(experiment)
    return Part("world_model_update", calls, once, lambda state: state.agent, windows)


def _exploration_update(experiment: Experiment) -> Part:
    def once(agent: Any, inputs: Any, _: jax.Array) -> Any:
        return exploration_update(agent, *inputs, parts=experiment)[0]

    sample = _replay_sample(experiment).start

    def inputs(state: TrainState) -> Any:
        window = sample(state)
        observation = jnp.concatenate([window.observation[:1], window.next_observation])
        tasks = jnp.broadcast_to(window.task_id, observation.shape[:-1])
        see = jax.jit(lambda *args: perceive(experiment.networks, *args)[1])
        return window, see(state.agent, observation, tasks)

    calls = updates_per_iteration(experiment)
    return Part("exploration_update", calls, once, lambda state: state.agent, inputs)


def _policy_update(experiment: Experiment) -> Part:
    env, networks, config = experiment.env, experiment.networks, experiment.config
    size, horizon = config.world_model.batch_size, config.world_model.horizon

    def once(agent: Any, inputs: Any, key: jax.Array) -> Any:
        z, task_id = inputs
        keys = jax.random.split(key)
        return replay_updates.policy_from_replay(agent, z, task_id, keys, parts=experiment)[0]

    def inputs(state: TrainState) -> Any:
        task_id = jnp.arange(size, dtype=jnp.int32) % len(env.specs)
        observation = jax.random.normal(state.key, (horizon + 1, size, env.observation_size))
        tasks = jnp.broadcast_to(task_id, observation.shape[:-1])
        z = jax.jit(lambda *args: perceive(networks, *args)[1])(state.agent, observation, tasks)
        return z, task_id

    calls = updates_per_iteration(experiment)
    return Part("policy_update", calls, once, lambda state: state.agent, inputs)


def _unroll(experiment: Experiment, state: TrainState) -> Trajectory:
    """The first unroll of the replay, as if just collected."""
    env, steps = experiment.env, experiment.config.env.unroll_length
    data = {name: jnp.swapaxes(x[:, :steps], 0, 1) for name, x in state.replay.data.items()}
    u = data["pre_tanh_action"]
    task_id = jnp.broadcast_to(jnp.asarray(env.task_id), u.shape[:2])
    mask = jnp.asarray(env.action_mask)[task_id]
    return Trajectory(**data, task_id=task_id, behaviour_mean=jnp.zeros_like(u), behaviour_std=mask)
