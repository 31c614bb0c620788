"""Evaluation: whole episodes, no exploration, no bonus."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.envs.batch import MultiTaskState
from m3po_jax.learning import rollout
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.state import AgentState
from m3po_jax.planning import warm_start

POLICIES = ("planner", "prior", "random")


class Episodes(NamedTuple):
    """One episode of each environment of the evaluation."""

    returns: jax.Array  # [B] sum of the task's rewards
    lengths: jax.Array  # [B] int32 agent steps
    success: jax.Array  # [B] 1 where any step met the goal, else 0; NaN where the task has none
    success_last: jax.Array  # [B] 1 where the last step met the goal, as `success`
    faulty: jax.Array  # [B] 1 where a fault cut the episode, of which the rest is no measurement


class _Carry(NamedTuple):
    env: MultiTaskState
    plan_mean: jax.Array  # [B, H, A]
    alive: jax.Array  # [B] 1 while the first episode lasts
    episodes: Episodes
    step: jax.Array  # [] int32


def evaluate(agent: AgentState, key: jax.Array, *, parts: Parts, policy: str) -> Episodes:
    """Plays one whole episode in every environment of the evaluation.

    Args:
        agent: The agent.
        key: Consumed.
        parts: With the environments of the evaluation: their number is the number of episodes.
        policy: `planner` (best elite), `prior` (mean of the policy) or `random`.

    Returns:
        Returns, lengths, success by both rules and faults `[B]`.

    Raises:
        ValueError: `policy` is not one of these.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(POLICIES)}")
    env, networks = parts.env, parts.networks
    init_key, key = jax.random.split(key)

    def choose(observation: jax.Array, plan_mean: jax.Array, keys: jax.Array) -> rollout.Actions:
        if policy == "random":
            return rollout.random_actions(env, plan_mean, keys)
        args = (networks, agent, env, observation, plan_mean, keys)
        if policy == "prior":
            return rollout.prior_actions(*args, explore=False)
        return rollout.planned_actions(*args, explore=False, config=parts.config)

    start = env.init(init_key, stagger=False)
    # Episodes that end early restart from the first states; what follows does not count.
    pool = env.as_pool(start.env_states)

    def step(carry: _Carry) -> _Carry:
        keys = env.env_keys(jax.random.fold_in(key, carry.step))
        actions = choose(carry.env.observation, carry.plan_mean, keys)
        env_state, timestep, success = env.step_judged(carry.env, pool, jnp.tanh(actions.u))
        ended = jnp.maximum(timestep.termination, timestep.truncation)
        return _Carry(
            env=env_state,
            plan_mean=warm_start.reset_where(warm_start.shift(actions.plan_mean), ended),
            alive=carry.alive * (1.0 - ended),
            episodes=Episodes(
                returns=carry.episodes.returns + carry.alive * timestep.reward,
                lengths=carry.episodes.lengths + carry.alive.astype(jnp.int32),
                # The maximum with a NaN is NaN.
                success=jnp.maximum(
                    carry.episodes.success, jnp.where(carry.alive > 0.0, success, 0.0)
                ),
                success_last=jnp.where(carry.alive > 0.0, success, carry.episodes.success_last),
                faulty=carry.episodes.faulty + carry.alive * (1.0 - timestep.valid),
            ),
            step=carry.step + 1,
        )

    batch = (env.batch_size,)
    carry = _Carry(
        env=start,
        plan_mean=jnp.zeros((*batch, parts.config.planner.horizon, env.action_size)),
        alive=jnp.ones(batch),
        episodes=Episodes(
            returns=jnp.zeros(batch),
            lengths=jnp.zeros(batch, jnp.int32),
            success=jnp.zeros(batch),
            success_last=jnp.zeros(batch),
            faulty=jnp.zeros(batch),
        ),
        step=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(lambda c: jnp.any(c.alive > 0.0), step, carry).episodes
