"""MPPI with policy samples and elites (docs/concepts.md; TD-MPC2, arXiv 2310.16828).

The planner knows no model: it takes any `LatentModel`. It plans *pre-tanh* actions, so that the
action that it executes has an exact Gaussian density. It is written for one state; batch it with
`jax.vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.config import PlannerConfig, check_planner
from m3po_jax.types import LatentModel

# Spread below which the novelty of a population counts as equal.
_NOVELTY_FLOOR = 0.005
# What a score that is not finite counts as: below any other, and still a number to calculate with.
_WORST_SCORE = -1e30


class Plan(NamedTuple):
    """The planner's answer for one state."""

    u: jax.Array  # [A] pre-tanh action to execute
    mean: jax.Array  # [A] mean of the Gaussian that drew u; equals u if not exploring
    std: jax.Array  # [A] its standard deviation; zero if not exploring
    plan_mean: jax.Array  # [H, A] mean of the final plan, for the next warm start
    plan_std: jax.Array  # [H, A]
    returns: jax.Array  # [N] predicted returns of the last population, unscaled
    value: jax.Array  # [] predicted return of the elite whose first action was taken


class Novelty(NamedTuple):
    """What the collecting planner seeks besides return."""

    bonus: Callable[[jax.Array, jax.Array], jax.Array]  # of steps: z [N, Z], u [N, A] to [N]
    ahead: Callable[[jax.Array], jax.Array]  # of what may follow after z [N, Z], [N]
    discount: float  # per step
    share: jax.Array | float  # [] score of one standard deviation of novelty in a population


class _Path(NamedTuple):
    z: jax.Array  # [N, Z]
    weight: jax.Array  # [N] discount times the probability to get here
    reached: jax.Array  # [N] that probability
    returns: jax.Array  # [N] discounted rewards so far
    novelty: jax.Array  # [N] discounted bonuses so far
    novelty_weight: jax.Array  # [] discount of the next one


class _Population(NamedTuple):
    u: jax.Array  # [N, H, A]
    returns: jax.Array  # [N]
    novelty: jax.Array  # [N]
    scores: jax.Array  # [N] scaled returns plus novelty, finite


def mppi_plan(
    model: LatentModel,
    z: jax.Array,
    context: Any,
    plan_mean: jax.Array,
    key: jax.Array,
    *,
    action_mask: jax.Array,
    discount: jax.Array | float,
    return_scale: jax.Array | float,
    config: PlannerConfig,
    explore: bool,
    novelty: Novelty | None = None,
) -> Plan:
    """Plans from one latent state.

    A sequence whose score is not finite (NaN, or infinite of either sign: both are faults of the
    model) is worse than any other. If the model predicts nothing finite at all, the sequences
    count equally: the plan is finite and worth nothing, and `value` is the prediction that is not.

    Args:
        model: The latent model.
        z: The state's latent `[Z]`.
        context: What the model needs of the task, unbatched.
        plan_mean: Mean `[H, A]` to start from (see `warm_start.shift`).
        key: Consumed.
        action_mask: 1 for active action dims `[A]`; the others stay zero.
        discount: Discount per step `[]`.
        return_scale: Unit of the returns `[]`: `config.temperature` is measured in it. With an
            infinite one returns count for nothing.
        config: Sizes of the search.
        explore: True: execute an elite drawn by score, plus noise. False: the best elite.
        novelty: Added to the scaled score: within each population the novelty of a sequence,
            `sum_h gamma_x^h c_h bonus_h + gamma_x^H c_H ahead(z_H)`, less its mean and in units of
            its standard deviation, times `novelty.share`. `None` adds nothing.

    Returns:
        The plan.

    Raises:
        ConfigError: A value of `config` is not one that it may have.
        ValueError: `plan_mean` is not `[config.horizon, A]`.
    """
    _check(config, jnp.shape(plan_mean), jnp.shape(action_mask))
    keys = jax.random.split(key, config.iterations + 2)
    score = _scorer(model, z, context, discount, novelty)
    # A policy sample's return is the same in every iteration, so it is predicted once.
    prior_key, value_key = jax.random.split(keys[0])
    prior = score(_policy_samples(model, z, context, prior_key, action_mask, config), value_key)
    num_new = config.num_samples - config.num_policy_samples

    def iterate(
        carry: tuple[jax.Array, jax.Array], key: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[_Population, jax.Array]]:
        mean, std = carry
        noise_key, value_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (num_new, *mean.shape))
        new = score((mean + std * noise) * action_mask, value_key)
        population = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), prior, new)
        population = population._replace(scores=_scores(population, return_scale, novelty))
        elites = _elites(population, config.num_elites)
        weights = jax.nn.softmax(elites.scores / config.temperature)
        mean = jnp.einsum("n,nha->ha", weights, elites.u)
        variance = jnp.einsum("n,nha->ha", weights, (elites.u - mean) ** 2)
        std = jnp.clip(jnp.sqrt(variance), config.min_std, config.max_std) * action_mask
        return (mean, std), (elites, population.returns)

    # A loop, not unrolled code: the compiled program stays small whatever the iterations.
    start = (plan_mean, jnp.full_like(plan_mean, config.max_std))
    (mean, std), history = jax.lax.scan(iterate, start, keys[1:-1])
    elites, returns = jax.tree.map(lambda x: x[-1], history)

    pick_key, noise_key = jax.random.split(keys[-1])
    if explore:
        index = jax.random.categorical(pick_key, elites.scores / config.temperature)
        first_std = std[0]
    else:
        index = jnp.argmax(elites.scores)
        first_std = jnp.zeros_like(std[0])
    first_mean = elites.u[index, 0]
    u = first_mean + first_std * jax.random.normal(noise_key, first_mean.shape)
    return Plan(u, first_mean, first_std, mean, std, returns, elites.returns[index])


def predicted_return(
    model: LatentModel,
    z: jax.Array,
    context: Any,
    u: jax.Array,
    key: jax.Array,
    *,
    discount: jax.Array | float,
    novelty: Novelty | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Scores action sequences from one state.

    `G = sum_h gamma^h c_h r_h + gamma^H c_H Q(z_H, pi(z_H))`, with c_h the predicted probability
    that step h is reached.

    Args:
        model: The latent model.
        z: The state's latent `[Z]`.
        context: What the model needs of the task.
        u: Pre-tanh action sequences `[N, H, A]`.
        key: Consumed; draws the action of the final value.
        discount: Discount per step.
        novelty: See `mppi_plan`.

    Returns:
        Returns `[N]` and novelty `[N]`, zero without one.
    """
    num_samples = u.shape[0]
    z = jnp.broadcast_to(z, (num_samples, *z.shape))

    def step(path: _Path, u: jax.Array) -> tuple[_Path, None]:
        new, weight = path.novelty, path.novelty_weight
        if novelty is not None:
            new += weight * path.reached * novelty.bonus(path.z, u)
            weight = weight * novelty.discount
        z, reward, continuation = model.next(path.z, u, context)
        return _Path(
            z=z,
            weight=path.weight * discount * continuation,
            reached=path.reached * continuation,
            returns=path.returns + path.weight * reward,
            novelty=new,
            novelty_weight=weight,
        ), None

    ones, zeros = jnp.ones(num_samples), jnp.zeros(num_samples)
    start = _Path(z, ones, ones, zeros, zeros, jnp.ones(()))
    path, _ = jax.lax.scan(step, start, jnp.swapaxes(u, 0, 1))
    mean, std = model.policy(path.z, context)
    last = mean + std * jax.random.normal(key, mean.shape)
    new = path.novelty
    if novelty is not None:
        new += path.novelty_weight * path.reached * novelty.ahead(path.z)
    return path.returns + path.weight * model.value(path.z, last, context), new


def _scorer(
    model: LatentModel,
    z: jax.Array,
    context: Any,
    discount: jax.Array | float,
    novelty: Novelty | None,
) -> Callable[[jax.Array, jax.Array], _Population]:
    def score(u: jax.Array, key: jax.Array) -> _Population:
        returns, new = predicted_return(
            model, z, context, u, key, discount=discount, novelty=novelty
        )
        return _Population(u, returns, new, jnp.zeros_like(returns))

    return score


def _scores(
    population: _Population, return_scale: jax.Array | float, novelty: Novelty | None
) -> jax.Array:
    scores = population.returns / return_scale
    if novelty is not None:
        # One that is not finite must not decide what the others count.
        new = jnp.where(jnp.isfinite(population.novelty), population.novelty, jnp.nan)
        spread = jnp.nanstd(new) + _NOVELTY_FLOOR
        scores += novelty.share * (new - jnp.nanmean(new)) / spread
    # Sorting puts NaN first, and a softmax over nothing but -inf is NaN.
    return jnp.where(jnp.isfinite(scores), scores, _WORST_SCORE)


def _policy_samples(
    model: LatentModel,
    z: jax.Array,
    context: Any,
    key: jax.Array,
    action_mask: jax.Array,
    config: PlannerConfig,
) -> jax.Array:
    """Follows the stochastic policy: pre-tanh actions `[num_policy_samples, H, A]`."""
    z = jnp.broadcast_to(z, (config.num_policy_samples, *z.shape))

    def step(z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, std = model.policy(z, context)
        u = (mean + std * jax.random.normal(key, mean.shape)) * action_mask
        z, _, _ = model.next(z, u, context)
        return z, u

    _, u = jax.lax.scan(step, z, jax.random.split(key, config.horizon))
    # A policy may not be finite where the model's states are not; as an elite of weight zero its
    # actions would still make the plan NaN.
    return jnp.swapaxes(jnp.where(jnp.isfinite(u), u, 0.0), 0, 1)


def _elites(population: _Population, num_elites: int) -> _Population:
    _, index = jax.lax.top_k(population.scores, num_elites)
    return jax.tree.map(lambda x: x[index], population)


def _check(config: PlannerConfig, plan_shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> None:
    """Refuses sizes that do not fit together, by name."""
    check_planner(config)
    expected = (config.horizon, *mask_shape)
    if plan_shape != expected:
        raise ValueError(
            f"plan_mean is {list(plan_shape)} and must be {list(expected)}: [planner.horizon, "
            "actions]; begin with zeros of that shape"
        )
