"""A trained agent in environments of Gymnasium (`gymnasium.vector`).

Gymnasium is optional: `pip install 'm3po_jax[gymnasium]'`.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.deploy.agent import Agent, AgentError
from m3po_jax.planning import warm_start

if TYPE_CHECKING:
    import gymnasium


class Driver:
    """The agent as a controller of vectorised environments: observations in, actions out.

    It keeps the plans that warm-start the planner, and resets them with each episode. One
    step of the environment is one *agent* step: repeat the action inside of it as often as the
    task's `action_repeat`.
    """

    def __init__(
        self,
        agent: Agent,
        task: str,
        envs: "gymnasium.vector.VectorEnv",
        *,
        policy: str | None = None,
        seed: int = 0,
    ):
        """Checks that the task fits the spaces of `envs`.

        Args:
            agent: The agent.
            task: The task of the agent that `envs` are copies of.
            envs: Environments with flat `Box` spaces; actions are scaled to their bounds.
            policy: See `Agent.act`.
            seed: Seed of the planner's samples.

        Raises:
            AgentError: Spaces of another kind or size than the task's.
        """
        import gymnasium

        spec = agent.spec(task)
        sizes = {"observation": spec.observation_size, "action": spec.action_size}
        spaces: dict[str, Any] = {
            "observation": envs.single_observation_space,
            "action": envs.single_action_space,
        }
        for name, space in spaces.items():
            if not isinstance(space, gymnasium.spaces.Box) or space.shape != (sizes[name],):
                raise AgentError(
                    f"{task} needs {name}s in a Box of shape ({sizes[name]},), but the environment "
                    f"has {space}; wrap it, as with gymnasium.wrappers.vector.FlattenObservation"
                )
        low, high = spaces["action"].low, spaces["action"].high
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise AgentError(f"the actions of the environment have no bounds: {low} to {high}")
        self._agent, self._task, self._policy = agent, task, policy
        self._low, self._high = low, high
        self._key, self._calls = jax.random.key(seed), 0
        self._plans = jnp.zeros((envs.num_envs, *agent.plan_shape))
        self._begins = np.ones(envs.num_envs, bool)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Returns actions `[N, a]` within the bounds of the environment for `[N, o]`."""
        key = jax.random.fold_in(self._key, self._calls)
        plans = warm_start.reset_where(self._plans, jnp.asarray(self._begins, jnp.float32))
        action, self._plans = self._agent.plan(
            observation, self._task, plans, key=key, policy=self._policy
        )
        self._calls += 1
        self._begins = np.zeros_like(self._begins)
        scaled = self._low + 0.5 * (action + 1.0) * (self._high - self._low)
        return np.clip(scaled, self._low, self._high).astype(self._low.dtype)

    def begin(self, where: np.ndarray) -> None:
        """Tells that the next observation begins a new episode in the environments `where [N]`.

        With the autoreset mode `NEXT_STEP` of Gymnasium that is one step after the end: the
        observation that `step` returns with it is still the last of the old episode.
        """
        self._begins = self._begins | np.asarray(where, bool)


def play(
    agent: Agent,
    task: str,
    envs: "gymnasium.vector.VectorEnv",
    *,
    episodes: int,
    policy: str | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Plays whole episodes and returns their undiscounted returns.

    Each environment plays the same number of episodes, so that short ones do not count more often.

    Args:
        agent: The agent.
        task: The task that `envs` are copies of.
        envs: Vectorised environments, of any autoreset mode but `DISABLED`.
        episodes: Episodes, a multiple of `envs.num_envs`.
        policy: See `Agent.act`.
        seed: Seed of `envs` and of the planner's samples.

    Returns:
        Returns `[episodes]`, environment after environment.

    Raises:
        AgentError: Spaces or numbers that do not fit.
    """
    from gymnasium.vector import AutoresetMode

    mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    each, rest = divmod(episodes, envs.num_envs)
    if rest or each < 1:
        raise AgentError(f"{episodes} episodes are not a multiple of {envs.num_envs} environments")
    if mode == AutoresetMode.DISABLED:
        raise AgentError("play needs environments that reset themselves (autoreset_mode)")
    driver = Driver(agent, task, envs, policy=policy, seed=seed)
    observation, _ = envs.reset(seed=seed)
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    running = np.zeros(envs.num_envs)
    resetting = np.zeros(envs.num_envs, bool)
    while min(len(done) for done in returns) < each:
        observation, reward, terminated, truncated, _ = envs.step(driver(observation))
        ended = (terminated | truncated) & ~resetting
        running += np.where(resetting, 0.0, reward)
        for row in np.flatnonzero(ended):
            returns[row].append(float(running[row]))
        running[ended] = 0.0
        # In `NEXT_STEP` mode the step after the last one only resets, and its action is ignored.
        begins = resetting if mode == AutoresetMode.NEXT_STEP else ended
        driver.begin(begins)
        resetting = ended if mode == AutoresetMode.NEXT_STEP else resetting
    return np.array([done[:each] for done in returns]).ravel()
