"""The optimizers of an agent: one for each set of its parameters."""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from m3po_jax.config import Config
from m3po_jax.ops import counting
from m3po_jax.types import Params

_ENCODER = ("encoder", "embedding")
# Of the world model's parameters, those that only the bonus reads.
_APART = "explorers"


class Optimizers(NamedTuple):
    """One optimizer per set of parameters."""

    world_model: optax.GradientTransformation
    policy: optax.GradientTransformation
    critic: optax.GradientTransformation
    exploration: optax.GradientTransformation


def make_optimizers(config: Config, *, iterations: int, transitions: int) -> Optimizers:
    """Adam with a global-norm clip for each set of parameters.

    What `train.frozen` names stays as it is. The step sizes of world model and policy fall with the
    gradient steps that they take, as `train.final_learning_rate_scale` says.

    Args:
        config: The run's settings.
        iterations: Training iterations of the whole run.
        transitions: Transitions that an iteration collects, over all devices.
    """
    updates = config.train.updates_per_transition * iterations * transitions
    rounds = iterations if config.learns_from_real else updates
    steps = {
        "world_model": math.ceil(updates),
        "policy": math.ceil(rounds) * config.policy.epochs * config.policy.minibatches,
    }

    def adam(part: str, learning_rate: float, max_norm: float) -> optax.GradientTransformation:
        if part in config.train.frozen:
            return optax.set_to_zero()
        if part not in steps or config.train.final_learning_rate_scale == 1.0:
            return optax.chain(_clip(max_norm), optax.adam(learning_rate))
        last = config.train.final_learning_rate_scale * learning_rate
        falling = _falling_step(learning_rate, last, max(steps[part], 1))
        return optax.chain(_clip(max_norm), optax.scale_by_adam(), falling)

    model = config.world_model
    world_model = adam("world_model", model.learning_rate, model.max_gradient_norm)
    still = _parts_mask(config.train.frozen)
    if config.train.frozen:
        # Before the clip, so that the others' share of the norm is their own.
        world_model = optax.chain(optax.masked(optax.set_to_zero(), still), world_model)
    if model.encoder_learning_rate_scale != 1.0:
        slow = optax.masked(optax.scale(model.encoder_learning_rate_scale), _parts_mask(_ENCODER))
        world_model = optax.chain(world_model, slow)
    return Optimizers(
        world_model=world_model,
        policy=adam("policy", config.policy.learning_rate, config.policy.max_gradient_norm),
        critic=adam("critic", config.critic.learning_rate, config.critic.max_gradient_norm),
        exploration=adam(
            "exploration", config.exploration.learning_rate, config.critic.max_gradient_norm
        ),
    )


def _clip(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm`, for parts of a gradient too, whose norm takes an exchange.

    The explorers have a norm of their own: theirs must not shorten a step of the world model.
    """

    def clip(gradient: Params, norm: jax.Array) -> Params:
        shorter = lambda g: jnp.where(norm < max_norm, g, (g / norm) * max_norm)  # noqa: E731
        return jax.tree.map(shorter, gradient)

    def update(
        gradient: Params,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        global_norm: Callable[[Params], jax.Array] = optax.tree.norm,
    ) -> tuple[Params, optax.EmptyState]:
        if not (isinstance(gradient, Mapping) and _APART in gradient):
            return clip(gradient, global_norm(gradient)), state
        # With zeros in place of the others, the norm is still that of a whole gradient.
        none = jax.tree.map(jnp.zeros_like, gradient)
        apart = {**none, _APART: gradient[_APART]}
        others = {**gradient, _APART: none[_APART]}
        clipped = clip(others, global_norm(others))
        clipped[_APART] = clip(apart, global_norm(apart))[_APART]
        return clipped, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class _Steps(NamedTuple):
    taken: jax.Array  # [2], see `ops.counting`


def _falling_step(first: float, last: float, steps: int) -> optax.GradientTransformation:
    """A descent whose step size falls linearly, and then stays.

    A long run takes more steps than an int32 counts, in which optax's schedules are.
    """

    def update(
        gradient: Params, state: _Steps, params: Params | None = None
    ) -> tuple[Params, _Steps]:
        del params
        to_go = jnp.maximum(1.0 - counting.approximately(state.taken) / float(steps), 0.0)
        size = last + (first - last) * to_go
        return jax.tree.map(lambda g: -size * g, gradient), _Steps(counting.add(state.taken, 1))

    return optax.GradientTransformation(lambda params: _Steps(counting.zero()), update)


def _parts_mask(names: Collection[str]) -> Callable[[Params], Params]:
    """A function of the world model's parameters: true for these parts and their output norms."""

    def mask(params: Params) -> Params:
        return {
            name: jax.tree.map(
                functools.partial(_always, name.removesuffix("_norm") in names), part
            )
            for name, part in params.items()
        }

    return mask


def _always(value: bool, _: Any) -> bool:
    return value
