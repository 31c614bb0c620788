"""How far ahead the world model sees: its open-loop errors by horizon, against persistence."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from m3po_jax.learning.parts import Parts
from m3po_jax.learning.perception import perceive
from m3po_jax.learning.state import AgentState
from m3po_jax.learning.values import target_model
from m3po_jax.ops import statistics
from m3po_jax.replay import buffer

# Farther than any planner here looks, so that the picture shows where the model ends to be good.
MAX_HORIZON = 16
WINDOWS_PER_TASK = 256


class ModelErrors(NamedTuple):
    """Root mean squared errors `[H, K]` at 1 to H steps ahead; NaN where no window was so long.

    Persistence holds what was last seen before the prediction began.
    """

    reward: jax.Array  # of the predicted reward, in the task's units per agent step
    reward_persistence: jax.Array
    latent: jax.Array  # of the predicted latent, per dimension, against the encoded observation
    latent_persistence: jax.Array


def model_errors(
    agent: AgentState, replay: buffer.ReplayState, key: jax.Array, *, parts: Parts
) -> ModelErrors:
    """Rolls the model forward from one encoded observation with the actions that were taken.

    The windows come from replay, so the model was trained on such data: it measures how prediction
    decays with the horizon where the agent has been, not how it generalises.

    Args:
        agent: The agent, with a world model.
        replay: What the agent collected.
        key: Consumed; draws the windows.
        parts: What the iteration is made of.

    Returns:
        The errors; H is `MAX_HORIZON`, less where the replay cannot hold so long windows.
    """
    networks, num_tasks = parts.networks, parts.num_tasks
    horizon = min(MAX_HORIZON, replay.data["reward"].shape[1] - 1)
    window = buffer.sample(
        replay,
        key,
        batch_size=WINDOWS_PER_TASK * num_tasks,
        window=horizon + 1,
        layout=parts.env.layout,
        axis_name=parts.axis_name,
    )
    model = target_model(networks, agent)
    # The step before the prediction gives the reward that persistence holds.
    context, first = perceive(networks, agent, window.observation[1], window.task_id)

    def rms(square: jax.Array, mask: jax.Array) -> jax.Array:
        mean, _, count = statistics.per_task_moments(
            square, window.task_id, mask, num_tasks=num_tasks, axis_name=parts.axis_name
        )
        return jnp.where(count > 0.0, jnp.sqrt(mean), jnp.nan)

    def step(z: jax.Array, real: tuple[jax.Array, ...]) -> tuple[jax.Array, ModelErrors]:
        u, reward, next_observation, mask = real
        z, predicted, _ = model.next(z, u, context)
        _, seen = perceive(networks, agent, next_observation, window.task_id)
        return z, ModelErrors(
            reward=rms((predicted - reward) ** 2, mask),
            reward_persistence=rms((window.reward[0] - reward) ** 2, mask),
            latent=rms(jnp.mean((z - seen) ** 2, axis=-1), mask),
            latent_persistence=rms(jnp.mean((first - seen) ** 2, axis=-1), mask),
        )

    real = (window.pre_tanh_action, window.reward, window.next_observation, window.mask)
    _, errors = jax.lax.scan(step, first, jax.tree.map(lambda x: x[1:], real))
    return errors


def as_record(errors: ModelErrors, names: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Returns the errors `{task: {name: [at 1 step, at 2, ...]}}`, None for NaN, as JSON has it."""

    def listed(column: Any) -> list[float | None]:
        return [None if math.isnan(x) else float(x) for x in column]

    return {
        task: {name: listed(values[:, index]) for name, values in errors._asdict().items()}
        for index, task in enumerate(names)
    }
