"""Variations of a run's families that its training never saw; imports no JAX."""

import dataclasses

from m3po_jax.config import Config, ConfigError, resolve_network
from m3po_jax.envs import families, registry


def config_of(config: Config) -> Config:
    """The settings of a run with other variations of its families.

    As many within the ranges as training has, and as many beyond; the same ones for every call.
    Its other tasks stay, so that observations and actions are padded as they were.

    Raises:
        ConfigError: The run has no family.
    """
    if not config.has_model:
        raise ConfigError(
            "--held_out needs a world model, whose embedding says of a task what is known; with "
            "network.encoder = 'observation' an agent knows tasks by their number"
        )
    requests = registry.parse_tasks(config.tasks)
    trained = registry.variations_of(requests, config.variations, seed=config.seed)
    tasks, names = [], []
    for task, request, seen in zip(config.tasks, requests, trained, strict=True):
        if not seen:
            tasks.append(task)
            continue
        tasks.append(families.with_size(task, 2 * len(seen)))
        for stream in (families.INSIDE, families.OUTSIDE):
            drawn = families.sample(
                request.name,
                request.options["family"],
                size=len(seen),
                seed=config.seed,
                stream=stream,
                without=[variation.name for variation in seen],
            )
            names += [variation.name for variation in drawn]
    if not names:
        raise ConfigError(
            "--held_out needs a run with a family, as m3po-train --config=cartpole64 makes, and "
            f"this one has {', '.join(request.name for request in requests)}"
        )
    return dataclasses.replace(
        config,
        tasks=tuple(tasks),
        variations=tuple(names),
        network=resolve_network(config.network, len(registry.names_of(config))),
    )
