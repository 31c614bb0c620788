"""Gymnasium environments as `Environment`: stepped on the host, each state a snapshot."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import base, gym_simulator, host, physics
from m3po_jax.envs.user_tasks import EPISODE_LENGTH

# Of a step in Python with its snapshots.
_MICROSECONDS = 200.0


class GymEnvironment:
    """One Gymnasium environment with a Box of actions, which are scaled to its bounds.

    Steps happen one row after the other, in Python. The time limit that it is registered with is
    the length of its episodes; an end that it calls truncated is none of the task's.
    """

    can_terminate = True

    def __init__(self, env_id: str, *, trial_steps: int = 24):
        """Makes the environment and checks its snapshots.

        Args:
            env_id: Gymnasium's, as `Pendulum-v1` or `my_package:Mine-v0`.
            trial_steps: Length of the episode that they are checked on.

        Raises:
            ConfigError: If it cannot be made, its spaces do not do, or its state cannot be taken
                and put back exactly.
        """
        task = f"gym/{env_id}"
        first = gym_simulator.GymSimulator(task, env_id)
        second = gym_simulator.GymSimulator(task, env_id)
        gym_simulator.check_round_trip(first, second, steps=trial_steps)
        self._task, self._env_id = task, env_id
        # One serves one thread at a time; on several devices there are several.
        self._idle = [first, second]
        self.observation_size = first.observation_size
        self.action_size = first.action_size
        self.episode_length = first.episode_length or EPISODE_LENGTH
        self.body = host.HostBody(host.step_cost(_MICROSECONDS))
        words, seen = first.words, first.observation_size
        self._words = words
        self._reset = host.HostCall(task, words, 1, words + seen, self._run_resets)
        row = words + first.action_size
        self._step = host.HostCall(task, words, row, words + seen + 3, self._run_steps)

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        seed = jax.random.bits(key, (1,), jnp.uint32) >> 1
        words, seen = jnp.split(physics.call(self._reset, None, seed), [self._words])
        zero = jnp.zeros((), jnp.float32)
        return base.EnvState(words, _float(seen), zero, zero, zero)

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        control = jax.lax.bitcast_convert_type(jnp.asarray(action, jnp.float32), jnp.uint32)
        row = jnp.concatenate([state.physics, control])
        words, rest = jnp.split(physics.call(self._step, None, row), [self._words])
        values = _float(rest)
        reward, termination, truncation = values[-3:]
        return base.EnvState(words, values[:-3], reward, termination, truncation)

    def _run_resets(self, rows: np.ndarray) -> np.ndarray:
        simulator = self._take()
        out = [np.concatenate(_words(*simulator.reset(int(seed)))) for seed in rows[:, 0]]
        self._idle.append(simulator)
        return np.stack(out)

    def _run_steps(self, rows: np.ndarray) -> np.ndarray:
        simulator = self._take()
        out = []
        for row in rows:
            snapshot, action = row[: self._words], row[self._words :].view(np.float32)
            if np.isfinite(action).all():
                out.append(np.concatenate(_words(*simulator.step(snapshot, action))))
            else:
                broken = np.full(self._step.words_out - self._words, np.nan, np.float32)
                out.append(np.concatenate(_words(snapshot, broken)))
        self._idle.append(simulator)
        return np.stack(out)

    def _take(self) -> gym_simulator.GymSimulator:
        try:
            return self._idle.pop()
        except IndexError:
            return gym_simulator.GymSimulator(self._task, self._env_id)


def _words(snapshot: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return snapshot, values.view(np.uint32)


def _float(words: jax.Array) -> Any:
    return jax.lax.bitcast_convert_type(words, jnp.float32)
