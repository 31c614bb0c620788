"""Whether a run can start from the agent of another, told from their settings alone.

Imports no JAX, so that a mistake is refused at once.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from m3po_jax.config import Config, ConfigError, NetworkConfig, resolve_network
from m3po_jax.envs import registry
from m3po_jax.workdir import folder

MEAN = "mean"
# The known tasks whose mean embedding each task of a run starts from.
EmbeddingSources = dict[str, tuple[str, ...]]
# Options of a task without which its steps are not those of the same task.
_STEP_OPTIONS = ("num_envs", "action_repeat", "observation", "distractors", "backend", "impl")


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a run starts from.

    Attributes:
        source: Folder of the old run, absolute.
        embedding: See `embedding_sources`.
        replay: Whether to take over the old run's steps of the tasks that both have.
    """

    source: pathlib.Path
    embedding: str = MEAN
    replay: bool = False

    def as_record(self) -> dict[str, str]:
        """By the flags of the command, for config.json."""
        replay = "old" if self.replay else "fresh"
        return {"from": str(self.source), "embedding": self.embedding, "replay": replay}


def startable_config(
    config: Config, workdir: str | os.PathLike[str], origin: Origin, *, overwrite: bool
) -> Config:
    """Checks that a run can start from another, unless it has begun already.

    Args:
        config: Settings of the new run.
        workdir: Its workdir, which need not exist.
        origin: What it starts from.
        overwrite: Whether it starts a new run in any case.

    Returns:
        The new settings, the size of the task embedding that of the old run unless given.

    Raises:
        ConfigError: See `adapted_config`, or both runs have the same folder.
        WorkdirError: There is no old run, or nothing to start from.
    """
    source = origin.source
    if pathlib.Path(workdir).resolve() == source.resolve():
        raise ConfigError(
            f"--workdir={workdir} is the run to start from, which is not modified; give the new "
            f"run its own folder"
        )
    if folder.has_begun(workdir) and not overwrite:
        # Nothing of the old run is needed any more.
        begun = folder.read_config(workdir).network.embedding_size
        return _with_embedding_size(config, begun)
    config = adapted_config(config, folder.read_config(source), origin)
    folder.require_checkpoint(source)
    return config


def adapted_config(config: Config, source: Config, origin: Origin) -> Config:
    """Checks that settings can start from the agent of others.

    Args:
        config: Settings of the new run.
        source: Settings of the old one.
        origin: What it is to take over.

    Returns:
        The new settings, the size of the task embedding that of the old run unless given.

    Raises:
        ConfigError: The networks differ in a size, a run has no world model, the choice of
            embedding is none, or steps to take over are not those of the same task.
    """
    names, known = _names(config), _names(source)
    embedding_sources(names, known, origin.embedding)
    if not (config.has_model and source.has_model):
        raise ConfigError("only an agent with a world model (network.encoder = 'latent') transfers")
    if origin.replay:
        _check_same_steps(config, source)
    old = resolve_network(source.network, len(known))
    config = _with_embedding_size(config, old.embedding_size)
    new = resolve_network(config.network, len(names))
    for field in dataclasses.fields(NetworkConfig):
        ours, theirs = getattr(new, field.name), getattr(old, field.name)
        if field.name not in ("size", "dropout") and ours != theirs:
            raise ConfigError(
                f"config.network.{field.name} = {ours!r} differs from that of the agent to start "
                "from, "
                f"{theirs!r}; give --config.network.{field.name}={theirs}"
            )
    return config


def _names(config: Config) -> list[str]:
    """Names of the agent's tasks, the variations of families among them."""
    if any("family=" in task for task in config.tasks):
        return registry.names_of(config)
    return [task.partition("?")[0] for task in config.tasks]


def _with_embedding_size(config: Config, size: int) -> Config:
    if config.network.embedding_size:
        return config
    network = dataclasses.replace(config.network, embedding_size=size)
    return dataclasses.replace(config, network=network)


def _check_same_steps(config: Config, source: Config) -> None:
    """Refuses to mix steps of tasks that have a name in common and are not the same."""
    tasks = {task.partition("?")[0] for task in config.tasks}
    common = tuple(task for task in source.tasks if task.partition("?")[0] in tasks)
    before = _step_options(dataclasses.replace(source, tasks=common))
    for task, options in _step_options(config).items():
        for name, value in options.items():
            was = before.get(task, options)[name]
            if value == was:
                continue
            remedy = f"name the task without {name}" if was is None else f"give it ?{name}={was}"
            raise ConfigError(
                f"--replay=old: {task} has {name} = {value} and had {was}; {remedy}, or use "
                f"--replay=fresh"
            )


def _step_options(config: Config) -> dict[str, dict[str, Any]]:
    def options(request: registry.TaskRequest) -> dict[str, Any]:
        common = {
            "num_envs": config.env.num_envs,
            "action_repeat": registry.action_repeat(request, config.env),
        }
        return {name: request.options.get(name, common.get(name)) for name in _STEP_OPTIONS}

    requests = map(registry.parse_task, config.tasks)
    return {request.name: options(request) for request in requests}


def embedding_sources(tasks: Sequence[str], known: Sequence[str], choice: str) -> EmbeddingSources:
    """The known tasks whose mean embedding each task starts from.

    Args:
        tasks: Tasks of the new run, without options.
        known: Tasks of the old one.
        choice: For tasks that the old run lacks: a known task's name, or `mean` of all known ones.

    Raises:
        ConfigError: `choice` is not one of these.
    """
    if choice not in (MEAN, *known):
        raise ConfigError(
            f"--embedding={choice} is neither {MEAN} nor a task of the agent: {', '.join(known)}"
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
