"""Many tasks, each with many environments, as one flat batch with uniform array sizes.

The batch axis `B` holds `num_envs[k]` environments of each task, in the order of `BatchLayout`.
Inside, every task is vmapped on its own in one traced function (a `lax.switch` under `vmap` would
run every task for every environment), so bodies, sizes and episode lengths differ freely. Tasks of
one body have their physics computed in one batch; see `physics`. A family is one environment object
whose rows carry the index of their variation, and each variation is a task with an id of its own.
Observations and actions are padded with zeros to the largest task.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax import types
from m3po_jax.envs import base, physics, reset_pool, wrappers
from m3po_jax.envs import task as task_lib
from m3po_jax.envs.batch import MultiTaskState, Timestep
from m3po_jax.envs.reset_pool import ResetPool
from m3po_jax.types import BatchLayout


class MultiTaskEnv:
    """All environments of all tasks behind one batched `step`.

    Attributes:
        specs: Facts of each task, in order.
        num_envs: Environments of each task.
        layout: Where they stand in the batch.
        batch_size: `B`, the sum of `num_envs`.
        axis_name: Mesh axes over which each task's environments are spread; this object then is
            the share of one device. Empty for all of them.
        num_shards: Number of such shares.
        observation_size: `O`, the largest observation.
        action_size: `A`, the largest action.
        task_id: `[B]` int32 index into `specs`.
        action_mask: `[K, A]` float32, 1 where the task has that action.
        discount: `[K]` float32 discount per agent step.
        episode_length: `[K]` int32 agent steps until truncation.
        can_terminate: `[K]` bool, whether an episode can end by termination.
        replay_weights: Weight of each task in replay.
        names: Names of the environment objects: of a task, or of a family.
        environments: The objects, not batched.
    """

    def __init__(
        self,
        tasks: Sequence[task_lib.Task],
        *,
        axis_name: tuple[str, ...] = (),
        num_shards: int = 1,
    ):
        """Joins tasks.

        Args:
            tasks: At least one, with different names; their `num_envs` are those of one share.
            axis_name: Mesh axes that the shares lie on; see `shard`.
            num_shards: Devices on those axes.

        Raises:
            ValueError: If there is no task, or a name comes twice, or a task has no environment.
        """
        if not tasks:
            raise ValueError("at least one task is needed")
        names = [task.spec.name for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks must differ, but {', '.join(twice)} is listed more than once")
        for task in tasks:
            if task.num_envs < 1:
                raise ValueError(f"{task.spec.name}: num_envs must be positive")
        self._tasks = tuple(tasks)
        self.names = tuple(names)
        self.specs = tuple(spec for task in tasks for spec in task.specs)
        self.num_envs = tuple(task.num_envs for task in tasks for _ in task.specs)
        self.layout = BatchLayout(self.num_envs, tuple(len(task.specs) for task in tasks))
        self.axis_name = axis_name
        self.num_shards = num_shards
        self.batch_size = sum(self.num_envs)
        self.observation_size = max(spec.observation_size for spec in self.specs)
        self.action_size = max(spec.action_size for spec in self.specs)
        self.task_id = self.layout.task_id
        self.action_mask = types.action_masks(self.specs)
        self.discount = np.array([spec.discount for spec in self.specs], np.float32)
        self.episode_length = np.array([spec.episode_length for spec in self.specs], np.int32)
        self.can_terminate = np.array([spec.can_terminate for spec in self.specs])
        self.replay_weights = tuple(spec.replay_weight for spec in self.specs)
        self.environments = tuple(task.environment for task in tasks)

    def resized(self, num_envs: int) -> "MultiTaskEnv":
        """Returns the same tasks with `num_envs` environments each."""
        return MultiTaskEnv([dataclasses.replace(t, num_envs=num_envs) for t in self._tasks])

    def shard(self, num_shards: int, axis_name: tuple[str, ...]) -> "MultiTaskEnv":
        """Returns the share of one of `num_shards` devices, for use inside a sharded function.

        What an environment draws depends on its place among all environments of its task, not on
        the device that holds it.

        Args:
            num_shards: Devices that share the environments of every task.
            axis_name: Mesh axes that these devices lie on.

        Raises:
            ValueError: `num_shards` does not divide the environments of some task.
        """
        for spec, num_envs in zip(self.specs, self.num_envs, strict=True):
            if num_envs % num_shards:
                raise ValueError(
                    f"the {num_envs} environments of {spec.name} do not divide evenly over "
                    f"{num_shards} "
                    "devices"
                )
        tasks = [dataclasses.replace(t, num_envs=t.num_envs // num_shards) for t in self._tasks]
        return MultiTaskEnv(tasks, axis_name=axis_name, num_shards=num_shards)

    def subset(self, objects: Sequence[int]) -> "MultiTaskEnv":
        """Returns some of the objects, by their index, with observations padded as here."""
        env = MultiTaskEnv([self._tasks[k] for k in objects])
        env.observation_size = self.observation_size
        return env

    def alone(self, name: str) -> "MultiTaskEnv":
        """Returns one environment of a task, of a family one of its first variation."""
        task = self._tasks[self.names.index(name)]
        return MultiTaskEnv([dataclasses.replace(task, num_envs=1, variations=task.variations[:1])])

    @functools.cached_property
    def state_shapes(self) -> tuple[base.EnvState, ...]:
        """Shapes of one environment's state, for each object; traces the resets."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        index = jax.ShapeDtypeStruct((), jnp.int32)
        return tuple(
            jax.eval_shape(task.environment.reset, key, *((index,) if task.variations else ()))
            for task in self._tasks
        )

    def init(self, key: jax.Array, *, stagger: bool) -> MultiTaskState:
        """Resets all environments.

        Args:
            key: Typed key `[]`, consumed.
            stagger: Draw the episode step uniformly over the episode, so that the copies of a
                task do not all reset at the same step. Those first episodes are cut short and
                never count as complete.

        Returns:
            The first state.
        """
        reset_key, stagger_key = jax.random.split(key)
        env_states = self.draw_states(reset_key)
        batch = (self.batch_size,)
        if stagger:
            lengths = [task.spec.episode_length for task in self._tasks]
            steps = [
                jax.vmap(lambda k, length=length: jax.random.randint(k, (), 0, length))(keys)
                for keys, length in zip(self._env_keys(stagger_key), lengths, strict=True)
            ]
            episode_step = self.layout.join(steps).astype(jnp.int32)
        else:
            episode_step = jnp.zeros(batch, jnp.int32)
        return MultiTaskState(
            env_states=env_states,
            observation=self._padded_observation(env_states),
            episode_step=episode_step,
            episode_return=jnp.zeros(batch, jnp.float32),
            from_reset=jnp.full(batch, not stagger),
            resets=jnp.zeros(batch, jnp.int32),
        )

    def draw_resets(self, key: jax.Array) -> ResetPool:
        """Draws fresh first states, to be used by `step` where episodes end.

        Drawn once per unroll, outside the scan over its steps; call `MultiTaskState.with_new_pool`
        then.

        Args:
            key: Typed key `[]`, consumed.

        Returns:
            For each object an `EnvState` with leaves `[N_k + V_k, ...]`, V_k its variations or 1;
            see `as_pool`.
        """
        return self.as_pool(self.draw_states(key))

    def as_pool(self, env_states: tuple[base.EnvState, ...]) -> ResetPool:
        """Returns first states `[N_k, ...]` of each object with those of the next ones behind.

        The environment after the last one of this share is the first of the next device's, and
        after the last of all comes the first. In a family that of the same variation counts.
        """
        strides = [len(task.specs) for task in self._tasks]
        return reset_pool.of(
            env_states, strides, axis_name=self.axis_name, num_shards=self.num_shards
        )

    def step(
        self, state: MultiTaskState, pool: ResetPool, action: jax.Array
    ) -> tuple[MultiTaskState, Timestep]:
        """Takes one agent step in every environment and resets those whose episode ended.

        A reset takes the environment's own state of the pool or, every second time, that of the
        next environment, so two ends in one unroll start differently where a task has several.
        What is not finite is a fault, both in a successor and in a first state, and
        so is a first state that has ended already and a termination of a task that says it has
        none: the step is marked invalid, with reward 0, the previous observation as its successor
        and a truncation, and that environment resets.

        Args:
            state: Present state.
            pool: First states from `draw_resets`.
            action: `[B, A]` in [-1, 1]; dimensions that a task lacks are ignored.

        Returns:
            The state after the resets, and the `Timestep` before them.
        """
        new_state, timestep, _ = self.step_judged(state, pool, action)
        return new_state, timestep

    def step_judged(
        self, state: MultiTaskState, pool: ResetPool, action: jax.Array
    ) -> tuple[MultiTaskState, Timestep, jax.Array]:
        """As `step`; also returns success `[B]` of the step, 0 or 1, NaN where there is none."""
        actions = [
            actions[:, : environment.action_size]
            for environment, actions in zip(
                self.environments, self.layout.split(action), strict=True
            )
        ]
        left = self._steps_left(state)
        stepped = self._by_body(physics.step, state.env_states, actions, left)
        success = self.layout.join(
            [
                s.success if isinstance(s, base.GoalState) else jnp.full(n, jnp.nan, jnp.float32)
                for s, n in zip(stepped, self.layout.object_envs, strict=True)
            ]
        )
        timestep, ended = self._timestep(state, stepped)
        split = self.layout.split
        env_states = tuple(
            reset_pool.where_ended(ended_k, resets, first, last, stride=len(task.specs))
            for task, ended_k, resets, first, last in zip(
                self._tasks, split(ended), split(state.resets), pool, stepped, strict=True
            )
        )
        new_state = MultiTaskState(
            env_states=env_states,
            observation=self._padded_observation(env_states),
            episode_step=jnp.where(ended, 0, timestep.episode_length),
            episode_return=jnp.where(ended, 0.0, timestep.episode_return),
            from_reset=state.from_reset | ended,
            resets=state.resets + ended.astype(jnp.int32),
        )
        return new_state, timestep, success

    def _timestep(
        self, state: MultiTaskState, stepped: tuple[base.EnvState, ...]
    ) -> tuple[Timestep, jax.Array]:
        """Returns the timestep, and `[B]` whether the episode ended."""

        def join(function: Callable[[base.EnvState], jax.Array], of: Any = stepped) -> jax.Array:
            return self.layout.join([function(env_state) for env_state in of])

        terminated = join(lambda s: s.termination > 0.0)
        # In an episode that runs every state can be gone on from, so this finds bad first states.
        valid = join(wrappers.is_finite) & join(wrappers.goes_on, state.env_states)
        valid &= ~terminated | self.can_terminate[self.task_id]
        terminated &= valid
        reward = jnp.where(valid, join(lambda s: s.reward), 0.0)
        length = state.episode_step + 1
        ended = terminated | ~valid | join(wrappers.is_truncated)
        ended |= length >= self.episode_length[self.task_id]
        timestep = Timestep(
            next_observation=jnp.where(
                valid[:, None], self._padded_observation(stepped), state.observation
            ),
            reward=reward,
            termination=terminated.astype(jnp.float32),
            truncation=(ended & ~terminated).astype(jnp.float32),
            valid=valid.astype(jnp.float32),
            episode_return=state.episode_return + reward,
            episode_length=length,
            episode_complete=(ended & valid & state.from_reset).astype(jnp.float32),
        )
        return timestep, ended

    def _steps_left(self, state: MultiTaskState) -> list[jax.Array | None]:
        """Control steps until truncation of each task's environments, where a repeat is cut."""
        return [
            environment.steps_left(steps)
            if isinstance(environment, wrappers.ActionRepeat)
            else None
            for environment, steps in zip(
                self.environments, self.layout.split(state.episode_step), strict=True
            )
        ]

    def _padded_observation(self, env_states: tuple[base.EnvState, ...]) -> jax.Array:
        """Returns the observations of all tasks `[B, O]`, zeros for those that are not finite."""
        joined = self.layout.join(
            [wrappers.pad_last(s.observation, self.observation_size) for s in env_states]
        )
        return jnp.where(jnp.all(jnp.isfinite(joined), axis=-1, keepdims=True), joined, 0.0)

    def env_keys(self, key: jax.Array) -> jax.Array:
        """Returns one key per environment `[B]` that does not depend on the other tasks."""
        return self.layout.join(self._env_keys(key))

    def draw_states(self, key: jax.Array) -> tuple[base.EnvState, ...]:
        """Returns fresh first states, for each object an `EnvState` with leaves `[N_k, ...]`.

        The key is consumed.
        """
        return self._by_body(physics.reset, self._reset_arguments(key))

    def _reset_arguments(self, key: jax.Array) -> tuple[tuple[Any, ...], ...]:
        """What each object's `reset` takes: keys `[N_k]`, of a family its rows' variations too."""
        return tuple(
            (keys, jnp.arange(keys.size, dtype=jnp.int32) % len(task.variations))
            if task.variations
            else (keys,)
            for keys, task in zip(self._env_keys(key), self._tasks, strict=True)
        )

    def _by_body(
        self, run: Callable[..., list[base.EnvState]], *each: Sequence[Any]
    ) -> tuple[base.EnvState, ...]:
        """Runs the objects of each body together, with their entries of `each`; in their order."""
        states: dict[int, base.EnvState] = {}
        for group in self._groups:
            entries = [[values[k] for k in group] for values in (self.environments, *each)]
            states.update(zip(group, run(*entries), strict=True))
        return tuple(states[k] for k in range(len(states)))

    @functools.cached_property
    def _groups(self) -> tuple[tuple[int, ...], ...]:
        return physics.groups(self.environments)

    def _env_keys(self, key: jax.Array) -> tuple[jax.Array, ...]:
        """Returns keys `[N_k]` for each object that do not depend on the other ones."""
        share = jax.lax.axis_index(self.axis_name)

        def keys(name: str, num_envs: int) -> jax.Array:
            task_key = jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))
            index = share * num_envs + jnp.arange(num_envs)
            return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(task_key, index)

        return tuple(
            keys(name, num_envs)
            for name, num_envs in zip(self.names, self.layout.object_envs, strict=True)
        )
