"""The agent of a run on variations of its families that training never saw."""

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import families, registry
from m3po_jax.learning.state import AgentState
from m3po_jax.training.experiment import Experiment
from m3po_jax.types import TaskSpec

# How lines end that show the variations within the ranges, and those beyond.
_LINES = {families.INSIDE: "held out, inside", families.OUTSIDE: "held out, beyond"}


def line_of(experiment: Experiment) -> dict[str, str]:
    """The name of the line that shows each of these variations, by the variation's name."""
    found = {}
    for task in experiment.config.tasks:
        request = registry.parse_task(task)
        of = [spec.name for spec in experiment.env.specs if spec.family == request.name]
        half = len(of) // 2
        for index, name in enumerate(of):
            where = families.INSIDE if index < half else families.OUTSIDE
            found[name] = f"{request.name} ({_LINES[where]})"
    return found


def agent_for(
    agent: AgentState, trained: tuple[TaskSpec, ...], unseen: tuple[TaskSpec, ...]
) -> AgentState:
    """The agent for tasks that it never saw.

    Its statistics are the means over each one's family. So is the embedding, where the agent is not
    told which variation it is; where it is, the encoder of what it is told gives it. Tasks of their
    own stay as they are.

    Args:
        agent: The agent of the run.
        trained: The tasks of the run.
        unseen: Other variations of its families, and its other tasks.
    """
    same = np.array([[t.shown_as == u.shown_as for t in trained] for u in unseen], np.float32)
    weight = jnp.asarray(same / same.sum(axis=1, keepdims=True))

    def means(x: jax.Array) -> jax.Array:
        return jnp.tensordot(weight, x, axes=1, precision=jax.lax.Precision.HIGHEST)

    model = agent.params.world_model
    table = model["embedding"]["table"]
    norm = jnp.linalg.norm(table, axis=-1, keepdims=True)
    embedding = {**model["embedding"], "table": means(table / jnp.maximum(norm, 1.0))}
    return agent.replace(
        params=agent.params.replace(world_model={**model, "embedding": embedding}),
        statistics=jax.tree.map(means, agent.statistics),
    )
