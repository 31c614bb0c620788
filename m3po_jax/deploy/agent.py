"""A trained agent in other code: `load(workdir).act(observation, task)`."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from m3po_jax.config import Config, UserError, nearest
from m3po_jax.learning import rollout
from m3po_jax.learning.state import AgentState
from m3po_jax.networks.factory import Networks
from m3po_jax.planning import warm_start
from m3po_jax.training.stored_agent import ACTING, restore_agent
from m3po_jax.types import TaskSpec
from m3po_jax.workdir import best
from m3po_jax.workdir.folder import read_config
from m3po_jax.workload import task_load

POLICIES = ("planner", "prior")


class AgentError(UserError, ValueError):
    """The agent cannot act on this; the text says what it takes."""


class _Rows(NamedTuple):
    """What `rollout` must know of the tasks of a batch."""

    task_id: jax.Array  # [B]
    discount: jax.Array  # [K]


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
    """A trained agent. It acts without exploration, the same for the same arguments.

    `act` and `plan` take arrays of the host and check them; `decide` is what they compile, for
    programs of your own.

    Attributes:
        config: Settings of the run.
        specs: The tasks it was trained on, in the order of their ids.
        networks: The modules.
        state: Parameters and running statistics; what only learning needs is empty.
        env_steps: Simulator steps of training behind it.
    """

    config: Config = dataclasses.field(repr=False)
    specs: tuple[TaskSpec, ...]
    networks: Networks = dataclasses.field(repr=False)
    state: AgentState = dataclasses.field(repr=False)
    env_steps: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of their ids."""
        return tuple(spec.name for spec in self.specs)

    @property
    def policies(self) -> tuple[str, ...]:
        """What can act, the default first; without a world model there is no `planner`."""
        return POLICIES if self.config.has_model else POLICIES[1:]

    def spec(self, task: str) -> TaskSpec:
        """Facts of a task: sizes, action repeat, episode length.

        Raises:
            AgentError: The agent was not trained on it.
        """
        if not isinstance(task, str):
            raise AgentError(f"a task is named by a text, got {task!r}; {nearest('', self.tasks)}")
        if task not in self.tasks:
            raise AgentError(
                f"the agent was not trained on task {task!r}; {nearest(task, self.tasks)}"
            )
        return self.specs[self.tasks.index(task)]

    def act(
        self,
        observation: npt.ArrayLike,
        task: str | Sequence[str],
        *,
        key: jax.Array | None = None,
        policy: str | None = None,
    ) -> np.ndarray:
        """Chooses actions, each as if its episode began here (see `plan` for a warm start).

        Args:
            observation: One `[o]` or a batch `[N, o]`; `o` is the task's size or the padded O.
            task: Name of the task, or one name per row.
            key: Typed key; `None` is `jax.random.key(0)`. Row i uses `fold_in(key, i)`.
            policy: `planner` or `prior`; `None` plans where the agent has a model.

        Returns:
            Actions in [-1, 1], float32: `[a]` or `[N, a]` of the task's size; padded to A where
            the rows are of several tasks.

        Raises:
            AgentError: A task, shape or number that the agent cannot act on.
        """
        return self.plan(observation, task, key=key, policy=policy)[0]

    def plan(
        self,
        observation: npt.ArrayLike,
        task: str | Sequence[str],
        plan_mean: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        policy: str | None = None,
    ) -> tuple[np.ndarray, jax.Array]:
        """Like `act`, warm-started from the last plan.

        Args:
            observation: See `act`.
            task: See `act`.
            plan_mean: What the last call returned, `[N, H, A]`, with zeros in the rows whose
                episode began; `None` begins all of them.
            key: See `act`.
            policy: See `act`.

        Returns:
            Actions as `act`, and the plan to pass on `[N, H, A]` (N is 1 for one observation).
        """
        rows, task_id, single = self._rows(observation, task)
        policy = self._policy(policy)
        shape = (len(rows), *self.plan_shape)
        plan_mean = jnp.zeros(shape) if plan_mean is None else jnp.asarray(_numbers(plan_mean))
        if plan_mean.shape != shape:
            raise AgentError(f"plan_mean is {list(plan_mean.shape)}, not {list(shape)} ([N, H, A])")
        key = jax.random.key(0) if key is None else _checked_key(key)
        action, plan_mean = self._jitted(self.state, rows, task_id, plan_mean, key, policy=policy)
        size = self.spec(task).action_size if isinstance(task, str) else self.networks.action_size
        host = np.asarray(action)[:, :size]
        return (host[0] if single else host), plan_mean

    @property
    def plan_shape(self) -> tuple[int, int]:
        """Shape (H, A) of one plan."""
        return self.config.planner.horizon, self.networks.action_size

    def decide(
        self,
        state: AgentState,
        observation: jax.Array,
        task_id: jax.Array,
        plan_mean: jax.Array,
        key: jax.Array,
        *,
        policy: str,
    ) -> tuple[jax.Array, jax.Array]:
        """Pure and traceable: what `act` and `plan` compile.

        Args:
            state: `Agent.state`; an argument, so that it is not a constant of the program.
            observation: Padded observations `[B, O]`.
            task_id: Index into `specs` `[B]` int32.
            plan_mean: Where planning starts `[B, H, A]`; untouched by the `prior`.
            key: Typed key, consumed.
            policy: `planner` or `prior`.

        Returns:
            Actions `[B, A]` in [-1, 1] and the plans for the next call `[B, H, A]`.
        """
        discount = jnp.asarray([spec.discount for spec in self.specs], jnp.float32)
        rows = _Rows(task_id, discount)
        index = jnp.arange(observation.shape[0])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
        args = (self.networks, state, rows, observation, plan_mean, keys)
        if policy == "prior":
            actions = rollout.prior_actions(*args, explore=False)
            return jnp.tanh(actions.u), plan_mean
        actions = rollout.planned_actions(*args, explore=False, config=self.config)
        return jnp.tanh(actions.u), warm_start.shift(actions.plan_mean)

    @functools.cached_property
    def _jitted(self) -> Any:
        return jax.jit(self.decide, static_argnames="policy")

    def _policy(self, policy: str | None) -> str:
        policy = self.policies[0] if policy is None else policy
        if policy not in self.policies:
            hint = nearest(str(policy), self.policies)
            raise AgentError(f"this agent has no policy {policy!r}; {hint}")
        return policy

    def _rows(
        self, observation: npt.ArrayLike, task: str | Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Checked rows: padded observations `[N, O]`, task ids `[N]`, whether it was one."""
        given = _numbers(observation)
        single = given.ndim == 1
        rows = given[None] if single else given
        if rows.ndim != 2 or not len(rows):
            raise AgentError(f"observations are {list(given.shape)}; give [o] or [N, o]")
        if not isinstance(task, Iterable):
            raise AgentError(
                f"a task is named by a text, or each row's by one of several, got {task!r}; "
                f"{nearest('', self.tasks)}"
            )
        names = [task] * len(rows) if isinstance(task, str) else list(task)
        if len(names) != len(rows):
            raise AgentError(f"{len(names)} task names for {len(rows)} observations")
        padded = self.networks.observation_size
        for spec in {self.spec(name) for name in names}:
            if rows.shape[1] not in (spec.observation_size, padded):
                raise AgentError(
                    f"{spec.name} has observations of size {spec.observation_size} (padded: "
                    f"{padded}), got {rows.shape[1]}"
                )
        if not np.isfinite(rows).all():
            raise AgentError("an observation is not finite")
        rows = np.pad(rows, ((0, 0), (0, padded - rows.shape[1])))
        task_id = np.array([self.tasks.index(name) for name in names], np.int32)
        return rows, task_id, single


def _numbers(given: Any) -> np.ndarray:
    """Numbers of any kind as float32."""
    try:
        if given is None:
            raise TypeError("it is None")
        return np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise AgentError(
            f"a {type(given).__name__} is no array of numbers ({error}); give [o] or [N, o], of "
            "several parts joined with np.concatenate"
        ) from error


def _checked_key(key: Any) -> jax.Array:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if typed and key.shape == ():
        return key
    raise AgentError(
        f"key is {key!r}, and must be one typed key, as jax.random.key(0) (of a raw one "
        "jax.random.wrap_key_data makes it)"
    )


def load(workdir: str | os.PathLike[str], *, checkpoint: str = best.NEWEST) -> Agent:
    """Loads the agent of a run's checkpoint, without its replay and its simulators.

    Args:
        workdir: Folder of the run.
        checkpoint: `newest`, or `best`: the one that scored best in the evaluations of training.

    Returns:
        The agent, ready to act.

    Raises:
        WorkdirError: There is no run, or one of another version.
        CheckpointError: There is no checkpoint or it cannot be read.
    """
    iteration = task_load(read_config(workdir)).env_steps
    step, _ = best.chosen_step(workdir, checkpoint, iteration)
    stored = restore_agent(workdir, fields=ACTING, step=step)
    return Agent(stored.config, stored.specs, stored.networks, stored.state, stored.env_steps)
