"""Tasks with physics on the host for tests of whole runs; named as tests.integration.host_tasks."""

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import base, host, physics


class Falling:
    """A point that falls from a height, pushed by the action, until it lands.

    With `fastest`, a simulator that raises where it falls faster.
    """

    observation_size = 2
    action_size = 1
    episode_length = 40
    can_terminate = True

    def __init__(self, fastest: float = float("inf")):
        self.body = host.HostBody(cost=1.0)
        self._fastest = fastest
        self._step = host.HostCall("tests/Falling", 4, 5, 6, self._run)

    def _run(self, rows: np.ndarray) -> np.ndarray:
        # Float64 beside each other: height and speed, of which JAX knows the words alone.
        state = np.ascontiguousarray(rows[:, :4]).view(np.float64).copy()
        force = rows[:, 4].view(np.float32).astype(np.float64)
        if np.any(state[:, 1] < -self._fastest):
            raise ValueError(f"falls faster than {self._fastest}")
        state[:, 1] += 0.01 * (force - 1.0) / 3.0
        state[:, 0] += 0.1 * state[:, 1]
        out = np.empty((len(rows), 6), np.uint32)
        out[:, :4] = state.view(np.uint32)
        out[:, 4:].view(np.float32)[:] = state
        return out

    def reset(self, key: jax.Array) -> base.EnvState:
        high = 1.0 + jax.random.bits(key, (), jnp.uint32) % 4
        # 1, 2, 3 or 4 as float64, at rest.
        words = jnp.array([0x3FF00000, 0x40000000, 0x40080000, 0x40100000], jnp.uint32)
        first = words[jnp.asarray(high - 1.0, jnp.int32)]
        zero = jnp.zeros((), jnp.uint32)
        observation = jnp.stack([jnp.asarray(high, jnp.float32), jnp.zeros(())])
        return base.EnvState(
            jnp.stack([zero, first, zero, zero]), observation, jnp.zeros(()), jnp.zeros(())
        )

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        row = jnp.concatenate([state.physics, jax.lax.bitcast_convert_type(action, jnp.uint32)])
        words, values = jnp.split(physics.call(self._step, None, row), [4])
        observation = jax.lax.bitcast_convert_type(values, jnp.float32)
        landed = (observation[0] < 0.0).astype(jnp.float32)
        return base.EnvState(words, observation, -jnp.abs(observation[0]), landed)


class Raising(Falling):
    """Raises some steps into an episode."""

    def __init__(self):
        super().__init__(fastest=0.05)
