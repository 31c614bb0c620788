"""Whether a run can start from the agent of another, told from their settings alone.

Imports no JAX, so that a mistake is refused at once.
"""

import dataclasses
from collections.abc import Sequence

from m3po_jax.config import Config, ConfigError, NetworkConfig, resolve_network

MEAN = "mean"
NEAREST = "nearest"
# The known tasks whose mean embedding each task of a run starts from.
EmbeddingSources = dict[str, tuple[str, ...]]


def adapted_config(config: Config, source: Config, *, embedding: str) -> Config:
    """Checks that a run can start from the agent of another.

    Args:
        config: Settings of the new run.
        source: Settings of the old one.
        embedding: See `embedding_sources`.

    Returns:
        The new settings, the size of the task embedding that of the old run unless given.

    Raises:
        ConfigError: The networks differ in a size, a run has no world model, or `embedding` is no
            choice.
    """
    names = [[task.partition("?")[0] for task in tasks] for tasks in (config.tasks, source.tasks)]
    embedding_sources(names[0], names[1], embedding)
    if not (config.has_model and source.has_model):
        raise ConfigError("only an agent with a world model (network.encoder = 'latent') transfers")
    old = resolve_network(source.network, len(source.tasks))
    network = config.network
    if network.embedding_size == 0:
        network = dataclasses.replace(network, embedding_size=old.embedding_size)
    new = resolve_network(network, len(config.tasks))
    for field in dataclasses.fields(NetworkConfig):
        ours, theirs = getattr(new, field.name), getattr(old, field.name)
        if field.name not in ("size", "dropout") and ours != theirs:
            raise ConfigError(
                f"config.network.{field.name} = {ours!r} is not that of the agent to start from, "
                f"{theirs!r}; give --config.network.{field.name}={theirs}"
            )
    return dataclasses.replace(config, network=network)


def embedding_sources(tasks: Sequence[str], known: Sequence[str], choice: str) -> EmbeddingSources:
    """The known tasks whose mean embedding each task starts from.

    Args:
        tasks: Tasks of the new run, without options.
        known: Tasks of the old one.
        choice: For tasks that the old run lacks: a known task's name, or `mean` of all known ones.
            `nearest` is told by steps of the new tasks (`nearest_task`), and until then the mean.

    Raises:
        ConfigError: `choice` is none of these.
    """
    if choice not in (MEAN, NEAREST, *known):
        raise ConfigError(
            f"--embedding={choice} is no task of the agent: {MEAN}, {NEAREST}, {', '.join(known)}"
        )
    others = (choice,) if choice in known else tuple(known)
    return {task: (task,) if task in known else others for task in tasks}


def start_lines(sources: EmbeddingSources) -> list[str]:
    """What the tasks that the agent does not know start from."""
    return [
        f"{task} starts from the {'mean ' if len(names) > 1 else ''}embedding of {', '.join(names)}"
        for task, names in sources.items()
        if task not in names
    ]
