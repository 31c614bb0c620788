"""Acting in the real environments: choosing actions and collecting trajectories."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.export
import jax.numpy as jnp

from m3po_jax.config import Config
from m3po_jax.envs.batch import Timestep
from m3po_jax.envs.by_task import ByTaskEnv
from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.perception import perceive
from m3po_jax.learning.state import AgentState, RolloutState
from m3po_jax.learning.values import novelty_value, online_model
from m3po_jax.networks.factory import Networks
from m3po_jax.ops import checks
from m3po_jax.planning import mppi, warm_start
from m3po_jax.policy import exploration
from m3po_jax.types import Trajectory
from m3po_jax.world_model.latent import TaskContext, two_heads

# Before the first update actions are tanh(N(0, 1)): nearly uniform, with a density.
_RANDOM_STD = 1.0
# A scale below this would turn rounding noise among equal returns into a preference.
_MIN_PLAN_SCALE = 1e-3
# Action sequences that a CPU predicts at once: what more of them leave behind exceeds its cache,
# and planning takes up to twice as long per environment (docs/performance.md).
_CPU_SEQUENCES = 2048


class TaskRows(Protocol):
    """What acting must know of the tasks of a batch; a `MultiTaskEnv` fits."""

    @property
    def task_id(self) -> Any:
        """Index of the task of each row `[B]`."""

    @property
    def discount(self) -> Any:
        """Discount per agent step of each task `[K]`."""


class Actions(NamedTuple):
    """Chosen actions and the Gaussian that drew them."""

    u: jax.Array  # [B, A] pre-tanh
    mean: jax.Array  # [B, A]
    std: jax.Array  # [B, A], 0 where the action was not random
    plan_mean: jax.Array  # [B, H, A] plan for the next warm start
    return_spread: jax.Array  # [B] spread of the predicted returns in a population, 0 unplanned


def random_actions(env: MultiTaskEnv | ByTaskEnv, plan_mean: jax.Array, keys: jax.Array) -> Actions:
    """Actions tanh(N(0, 1)). `keys` `[B]` are consumed."""
    mask = jnp.asarray(env.action_mask)[env.task_id]
    std = _RANDOM_STD * mask
    u = std * jax.vmap(lambda k: jax.random.normal(k, (env.action_size,)))(keys)
    return Actions(u, jnp.zeros_like(u), std, plan_mean, jnp.zeros(env.batch_size))


def prior_actions(
    networks: Networks,
    agent: AgentState,
    rows: TaskRows,
    observation: jax.Array,
    plan_mean: jax.Array,
    keys: jax.Array,
    *,
    explore: bool,
) -> Actions:
    """Actions of the policy alone: drawn, or its mean. `keys` `[B]` are consumed."""
    context, z = perceive(networks, agent, observation, jnp.asarray(rows.task_id))
    mean, std = networks.policy(agent.params.policy, z, context.e, context.action_mask)
    if not explore:
        std = jnp.zeros_like(std)
    noise = jax.vmap(lambda k: jax.random.normal(k, mean.shape[-1:]))(keys)
    return Actions(mean + std * noise, mean, std, plan_mean, jnp.zeros(mean.shape[:1]))


def planned_actions(
    networks: Networks,
    agent: AgentState,
    rows: TaskRows,
    observation: jax.Array,
    plan_mean: jax.Array,
    keys: jax.Array,
    *,
    explore: bool,
    config: Config,
) -> Actions:
    """Actions of the planner.

    Args:
        networks: The bundle.
        agent: Parameters and the scale of returns.
        rows: The tasks of the batch.
        observation: `[B, O]`.
        plan_mean: Shifted last plan `[B, H, A]`.
        keys: One per environment `[B]`, consumed.
        explore: Whether to draw an elite, add noise and, where the run has a bonus, seek novelty.
        config: The run's settings.
    """
    model = online_model(networks, agent)
    context, z = perceive(networks, agent, observation, jnp.asarray(rows.task_id))
    scale = jnp.maximum(agent.statistics.plan_scale.mean, _MIN_PLAN_SCALE)
    # Before its first update the running mean is zero and no scale at all.
    scale = jnp.where(agent.statistics.plan_scale.weight > 0.0, scale, 1.0)
    seeks_novelty = explore and config.has_bonus
    share = jnp.zeros_like(scale)
    if seeks_novelty:
        scale, share = _with_novelty(agent, scale, config)

    def plan(
        z: jax.Array,
        context: TaskContext,
        plan_mean: jax.Array,
        key: jax.Array,
        per_task: tuple[jax.Array, ...],
    ) -> mppi.Plan:
        discount, scale, share, usual = per_task
        novelty = None
        if seeks_novelty:
            novelty = _novelty(networks, agent, context, share, usual, config)
        return mppi.mppi_plan(
            model,
            z,
            context,
            plan_mean,
            key,
            action_mask=context.action_mask,
            discount=discount,
            return_scale=scale,
            config=config.planner,
            explore=explore,
            novelty=novelty,
        )

    per_task = (jnp.asarray(rows.discount), scale, share, agent.statistics.disagreement.mean)
    per_env = jax.tree.map(lambda x: x[rows.task_id], per_task)
    inputs = (z, context, plan_mean, keys, per_env)
    plans = _map_rows(plan, inputs, size=_CPU_SEQUENCES // config.planner.num_samples)
    spread = jnp.std(plans.returns, axis=-1)
    return Actions(plans.u, plans.mean, plans.std, plans.plan_mean, spread)


def _with_novelty(
    agent: AgentState, scale: jax.Array, config: Config
) -> tuple[jax.Array, jax.Array]:
    """Unit of the returns, and what one standard deviation of novelty counts, of each task `[K]`.

    Scores are `(G + w X) / max(s, w)`: where returns differ by less than novelty is worth, that is
    their unit, and where nothing is known to pay, novelty is all that counts.
    """
    statistics = agent.statistics
    weight, known = exploration.novelty_weight(
        statistics.reward, statistics.recent_reward.mean, scale=config.exploration.scale
    )
    unit = jnp.maximum(scale, weight)
    return jnp.where(known, unit, jnp.inf), jnp.where(known, weight / unit, 1.0)


def _novelty(
    networks: Networks,
    agent: AgentState,
    context: TaskContext,
    share: jax.Array,
    usual: jax.Array,
    config: Config,
) -> mppi.Novelty:
    """What the planner seeks; `usual` is the mean disagreement on the task's replayed steps."""
    model, settings = online_model(networks, agent), config.exploration

    def bonus(z: jax.Array, u: jax.Array) -> jax.Array:
        disagreement = exploration.disagreement(model.guesses(z, u, context))
        bonus = exploration.novelty_bonus(disagreement, usual, max_bonus=settings.max_bonus)
        return (1.0 - settings.discount) * bonus

    def ahead(z: jax.Array) -> jax.Array:
        return novelty_value(networks, agent.params.exploration, z, context)

    return mppi.Novelty(bonus, ahead, settings.discount, share)


def _map_rows(function: Any, inputs: tuple[Any, ...], *, size: int) -> Any:
    """`jax.vmap(function)(*inputs)`; on a CPU in chunks of about `size` rows."""
    num_rows = jax.tree.leaves(inputs)[0].shape[0]
    # An exported program takes any number of rows.
    if jax.export.is_symbolic_dim(num_rows) or num_rows <= size:
        return jax.vmap(function)(*inputs)
    num_chunks = -(-num_rows // max(size, 1))
    chunk = -(-num_rows // num_chunks)
    return jax.lax.platform_dependent(
        *inputs,
        cpu=lambda *rows: jax.lax.map(lambda row: function(*row), rows, batch_size=chunk),
        default=jax.vmap(function),
    )


def plan_with_two_heads(agent: AgentState, key: jax.Array) -> AgentState:
    """The agent for `planned_actions` with two of its Q heads; collecting plans with these."""
    params = agent.params
    world_model = {**params.world_model, "q": two_heads(params.world_model["q"], key)}
    return agent.replace(params=params.replace(world_model=world_model))


def collect(
    env: MultiTaskEnv | ByTaskEnv,
    agent: AgentState,
    rollout: RolloutState,
    key: jax.Array,
    *,
    parts: Parts,
    random: jax.Array,
) -> tuple[RolloutState, Trajectory, Timestep, jax.Array]:
    """Collects one unroll in all environments.

    Args:
        env: What steps the environments: those of `parts`, or the same by task.
        agent: The agent, which stays the same during the unroll.
        rollout: Where collecting stands.
        key: Consumed.
        parts: What the iteration is made of.
        random: `[]` bool, whether actions are random.

    Returns:
        The new rollout state, the trajectory `[T, B, ...]`, the raw timesteps `[T, B, ...]` and the
        spread of predicted returns `[T, B]`.
    """
    networks, config = parts.networks, parts.config
    pool_key, action_key, head_key = jax.random.split(key, 3)
    if config.planner.collect:
        agent = plan_with_two_heads(agent, head_key)
    pool: Any = env.draw_resets(pool_key)
    task_id = jnp.asarray(env.task_id)

    def choose(observation: jax.Array, plan_mean: jax.Array, keys: jax.Array) -> Actions:
        args = (networks, agent, env, observation, plan_mean, keys)
        if config.planner.collect:
            return planned_actions(*args, explore=True, config=config)
        return prior_actions(*args, explore=True)

    def step(
        carry: RolloutState, key: jax.Array
    ) -> tuple[RolloutState, tuple[Trajectory, Timestep, jax.Array]]:
        observation = carry.env.observation
        actions = jax.lax.cond(
            random,
            lambda o, p, k: random_actions(env, p, k),
            choose,
            observation,
            carry.plan_mean,
            env.env_keys(key),
        )
        checks.check_finite("collecting, action and its distribution", actions)
        env_state, timestep = env.step(carry.env, pool, jnp.tanh(actions.u))
        ended = jnp.maximum(timestep.termination, timestep.truncation)
        plan_mean = warm_start.reset_where(warm_start.shift(actions.plan_mean), ended)
        transition = Trajectory(
            observation=observation,
            pre_tanh_action=actions.u,
            reward=timestep.reward,
            termination=timestep.termination,
            truncation=timestep.truncation,
            valid=timestep.valid,
            next_observation=timestep.next_observation,
            task_id=task_id,
            behaviour_mean=actions.mean,
            behaviour_std=actions.std,
        )
        return RolloutState(env_state, plan_mean), (transition, timestep, actions.return_spread)

    start = rollout.replace(env=rollout.env.with_new_pool())
    keys = jax.random.split(action_key, config.env.unroll_length)
    end, (trajectory, timesteps, spread) = jax.lax.scan(step, start, keys)
    return end, trajectory, timesteps, spread
