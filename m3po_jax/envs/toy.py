"""Toy tasks in a few lines of jnp, with known optima, for tests and quick checks.

`LinearQuadratic` has its optimum from the Riccati recursion. `PointReachA` and `PointReachB` differ
in the goal alone, which the observation does not show: an agent must tell them apart by the task.
`TerminatingPole` ends by termination unless it is held upright.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import base


def _state(x: jax.Array, reward: jax.Array, termination: jax.Array) -> base.EnvState:
    """Returns a state whose physics is its observation `x`."""
    return base.EnvState(physics=x, observation=x, reward=reward, termination=termination)


def _start(x: jax.Array) -> base.EnvState:
    """Returns the first state of an episode."""
    return _state(x, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


class LinearQuadratic:
    """Drives three coupled linear states to zero with two forces; the cost is quadratic.

    `x' = A x + B a`, reward `-(x^T Q x + a^T R a)` of the state before the step. Starts are
    uniform in [-0.5, 0.5]^3, where the optimal action stays inside [-1, 1].
    """

    observation_size = 3
    action_size = 2
    episode_length = 50
    can_terminate = False

    transition = np.array([[0.95, 0.2, 0.0], [0.0, 0.9, 0.0], [0.05, 0.0, 0.95]], np.float32)
    control = np.array([[0.0, 0.0], [0.2, 0.0], [0.0, 0.2]], np.float32)
    state_cost = np.diag([0.2, 0.0, 0.2]).astype(np.float32)
    action_cost = np.diag([0.2, 0.2]).astype(np.float32)
    start_range = 0.5

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        limit = self.start_range
        return _start(jax.random.uniform(key, (3,), jnp.float32, minval=-limit, maxval=limit))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        x, a = state.physics, jnp.clip(action, -1.0, 1.0)
        reward = -(x @ self.state_cost @ x + a @ self.action_cost @ a)
        return _state(self.transition @ x + self.control @ a, reward, jnp.zeros_like(reward))

    def riccati(self, num_steps: int, discount: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Solves the Riccati recursion backwards, in float64.

        Args:
            num_steps: Steps to go.
            discount: Discount per step.

        Returns:
            The cost matrix `P [3, 3]` with `num_steps` to go (the optimal return is `-x^T P x`)
            and the gain `K [2, 3]` of the first of them (the optimal action is `-K x`).
        """
        a, b, q, r = (
            m.astype(np.float64)
            for m in (self.transition, self.control, self.state_cost, self.action_cost)
        )
        cost: np.ndarray = np.zeros_like(q)
        gain: np.ndarray = np.zeros_like(b.T)
        for _ in range(num_steps):
            gain = np.linalg.solve(r + discount * b.T @ cost @ b, discount * b.T @ cost @ a)
            cost = q + discount * a.T @ cost @ (a - b @ gain)
        return cost, gain

    def optimal_return(
        self, observation: jax.Array, *, num_steps: int = 50, discount: float = 1.0
    ) -> np.ndarray:
        """Returns the optimal (discounted) return over `num_steps` from `observation [..., 3]`."""
        x = np.asarray(observation, np.float64)
        cost, _ = self.riccati(num_steps, discount)
        return -np.einsum("...i,ij,...j->...", x, cost, x)

    def optimal_action(self, observation: jax.Array, *, discount: float = 1.0) -> jax.Array:
        """Returns the optimal action `[..., 2]` with no end in sight for `observation [..., 3]`."""
        _, gain = self.riccati(1000, discount)
        return -observation @ jnp.asarray(gain.T, jnp.float32)


class PointReach:
    """A point in [-1, 1]^2 with velocity control; the reward is 1 at a goal that is not observed.

    Reward of a step: `exp(-|p' - goal|^2 / (2 * width^2))` at the position after the step.
    """

    observation_size = 2
    action_size = 2
    episode_length = 50
    can_terminate = False

    speed = 0.1
    width = 0.4

    def __init__(self, goal: tuple[float, float]):
        """Creates the task.

        Args:
            goal: Goal position in [-1, 1]^2.
        """
        self.goal = np.array(goal, np.float32)

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return _start(jax.random.uniform(key, (2,), jnp.float32, minval=-1.0, maxval=1.0))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        velocity = self.speed * jnp.clip(action, -1.0, 1.0)
        position = jnp.clip(state.physics + velocity, -1.0, 1.0)
        reward = jnp.exp(-jnp.sum((position - self.goal) ** 2) / (2.0 * self.width**2))
        return _state(position, reward, jnp.zeros_like(reward))

    def optimal_action(self, observation: jax.Array) -> jax.Array:
        """Returns the optimal action `[..., 2]` for positions `[..., 2]`.

        The reward falls in both coordinate distances and the coordinates move independently, so
        going straight at the goal in each of them as fast as possible is optimal.
        """
        return jnp.clip((self.goal - observation) / self.speed, -1.0, 1.0)

    def optimal_return(self, observation: jax.Array, *, num_steps: int = 50) -> np.ndarray:
        """Returns the optimal return over `num_steps` from positions `[..., 2]`, in closed form.

        With an action repeat it is an upper bound, which a repeat of up to 5 nearly reaches.
        """
        distance = np.abs(np.asarray(observation, np.float64) - self.goal)[..., None, :]
        moved = self.speed * np.arange(1, num_steps + 1)[:, None]
        square = np.sum(np.maximum(distance - moved, 0.0) ** 2, axis=-1)
        return np.sum(np.exp(-square / (2.0 * self.width**2)), axis=-1)


class TerminatingPole:
    """An unstable angle that must be held within [-1, 1]; leaving it terminates the episode.

    Reward 1 for each step that does not terminate, so the optimal return is the episode length.
    """

    observation_size = 2
    action_size = 1
    episode_length = 50
    can_terminate = True

    dt = 0.1
    gravity = 4.0
    force = 4.0

    def reset(self, key: jax.Array) -> base.EnvState:
        """Starts an episode; see `Environment.reset`. The key is consumed."""
        return _start(jax.random.uniform(key, (2,), jnp.float32, minval=-0.2, maxval=0.2))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        """Advances by one control step; see `Environment.step`."""
        angle, velocity = state.physics
        force = self.force * jnp.clip(action[0], -1.0, 1.0)
        velocity = velocity + self.dt * (self.gravity * angle + force)
        angle = angle + self.dt * velocity
        termination = (jnp.abs(angle) > 1.0).astype(jnp.float32)
        return _state(jnp.stack([angle, velocity]), 1.0 - termination, termination)

    def stabilizing_action(self, observation: jax.Array) -> jax.Array:
        """Returns an action `[..., 1]` that keeps the pole up from any start `[..., 2]`."""
        return jnp.clip(-2.0 * observation[..., :1] - 1.0 * observation[..., 1:], -1.0, 1.0)

    def optimal_return(self) -> float:
        """Returns the optimal return, the episode length."""
        return float(self.episode_length)


def make(name: str) -> base.Environment:
    """Creates a toy task.

    Args:
        name: One of the names in `catalog.CATALOG["toy"]`.

    Raises:
        KeyError: If there is no such task.
    """
    factories: dict[str, Callable[[], base.Environment]] = {
        "LinearQuadratic": LinearQuadratic,
        "PointReachA": lambda: PointReach((0.6, 0.4)),
        "PointReachB": lambda: PointReach((-0.6, -0.4)),
        "TerminatingPole": TerminatingPole,
    }
    return factories[name]()
