"""A multi-task agent as the start of another run: other tasks, observation and action sizes.

What both runs have is kept. New rows of first layers start at zero, so at first a larger
observation or action changes nothing for the tasks that the agent knows; new columns of last layers
keep their fresh start. New tasks begin with an embedding made of known ones.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.config import ConfigError
from m3po_jax.finetuning.compatibility import EmbeddingSources
from m3po_jax.learning.state import AgentState, Statistics
from m3po_jax.networks.factory import AgentParams, Networks
from m3po_jax.replay import buffer
from m3po_jax.types import BatchLayout, Params, TaskSpec


@dataclasses.dataclass(frozen=True)
class Ends:
    """One end of a transfer.

    Attributes:
        specs: Facts of the run's tasks, in order.
        networks: Its networks.
        layout: Where its environments stand in the batch.
    """

    specs: tuple[TaskSpec, ...]
    networks: Networks
    layout: BatchLayout

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, without options."""
        return [spec.name for spec in self.specs]

    def segments(self) -> dict[str, tuple[int, ...]]:
        """What the input of each module's first layer is made of, by the sizes of the pieces."""
        model = self.networks.world_model
        z, e = model.latent_size, model.embedding_size
        outcome = (z, self.networks.action_size, e)
        return {
            "encoder": (self.networks.observation_size, e),
            **dict.fromkeys(("dynamics", "reward", "termination", "q", "explorers"), outcome),
            **dict.fromkeys(("decoder", "policy", "critic", "exploration"), (z, e)),
        }


def transfer_agent(
    old: AgentState,
    new: AgentState,
    source: Ends,
    target: Ends,
    *,
    embedding_sources: EmbeddingSources,
) -> AgentState:
    """The agent of a new run with what an old one has learned; optimizers start afresh.

    Args:
        old: The agent to start from, on the host.
        new: A fresh agent of the new run, on the host.
        source: The old run.
        target: The new run.
        embedding_sources: The known tasks whose mean embedding each new task starts from.
    """
    was, now = source.segments(), target.segments()

    def moved(name: str, old_part: Params, new_part: Params) -> Params:
        return _moved(old_part, new_part, was[name], now[name])

    model = dict(new.params.world_model)
    same_observation = source.networks.observation_size == target.networks.observation_size
    for name in model.keys() & old.params.world_model.keys():
        if name == "decoder" and not same_observation:
            continue
        if name in was:
            model[name] = moved(name, old.params.world_model[name], model[name])
        elif name != "embedding":
            model[name] = old.params.world_model[name]
    known = old.params.world_model["embedding"]
    table = known["table"]
    model["embedding"] = {
        **_same_shaped(known, model["embedding"]),
        "table": jnp.stack(
            [
                jnp.mean(jnp.stack([table[source.tasks.index(name)] for name in names]), axis=0)
                for names in (embedding_sources[task] for task in target.tasks)
            ]
        ),
    }
    params = AgentParams(
        world_model=model,
        policy=_moved_actor(old.params.policy, new.params.policy, source, target),
        critic=moved("critic", old.params.critic, new.params.critic),
        exploration=moved("exploration", old.params.exploration, new.params.exploration),
    )
    return new.replace(
        params=params,
        target_q=moved("q", old.target_q, new.target_q),
        target_exploration=moved("exploration", old.target_exploration, new.target_exploration),
        statistics=_moved_statistics(old.statistics, new.statistics, source, target),
    )


def transfer_replay(
    old: buffer.ReplayState,
    new: buffer.ReplayState,
    source: Ends,
    target: Ends,
    *,
    unroll_length: int,
) -> buffer.ReplayState:
    """The old run's steps of the tasks that both have, as many as fit; new tasks have none.

    Args:
        old: Replay to take steps from, on the host.
        new: The empty replay of the new run, on the host.
        source: The old run.
        target: The new run.
        unroll_length: Steps that the new run writes at once.

    Returns:
        The new replay, on the host.

    Raises:
        ConfigError: A task has another number of environments, or other sizes.
    """
    capacity_old, capacity = old.data["reward"].shape[1], new.data["reward"].shape[1]
    # Whole unrolls, or a later write would wrap around.
    size = min(int(old.size), capacity) // unroll_length * unroll_length
    # The newest steps, oldest first.
    steps = (int(old.cursor) - size + np.arange(size)) % capacity_old
    data = {name: np.array(leaf) for name, leaf in new.data.items()}
    dropped = int(old.size) - size
    skip = np.full(sum(target.layout.num_envs), size, np.int32)
    for index, spec in enumerate(target.specs):
        if spec.name not in source.tasks:
            continue
        known = source.tasks.index(spec.name)
        _check_same_steps(source, known, target, index)
        to = np.flatnonzero(target.layout.task_id == index)
        from_ = np.flatnonzero(source.layout.task_id == known)
        # The old run may itself have begun with steps that only its other tasks had.
        skip[to] = np.maximum(old.skip[from_] - dropped, 0)
        for name, leaf in old.data.items():
            rows = np.asarray(leaf)[from_][:, steps]
            width = data[name].shape[2:]
            if width:
                rows = rows[..., : width[0]]
                rows = np.pad(rows, [(0, 0), (0, 0), (0, width[0] - rows.shape[-1])])
            data[name][to, :size] = rows
        if size:
            # Environments start afresh: no window may run on from the last old step.
            data["truncation"][to, size - 1] = 1.0 - data["termination"][to, size - 1]
    return new.replace(data=data, cursor=np.int32(size % capacity), size=np.int32(size), skip=skip)


def _check_same_steps(source: Ends, known: int, target: Ends, index: int) -> None:
    """What options say is refused before (`finetune_config`); an environment can differ still."""
    old, new = source.specs[known], target.specs[index]
    facts = {
        "num_envs": (source.layout.num_envs[known], target.layout.num_envs[index]),
        "observation_size": (old.observation_size, new.observation_size),
        "action_size": (old.action_size, new.action_size),
    }
    for name, (was, now) in facts.items():
        if was != now:
            raise ConfigError(
                f"--replay=old: {new.name} has {name} = {now} and had {was}, so its old steps are "
                "not those of the same task; give --replay=fresh"
            )


def frozen_lines(frozen: Sequence[str], source: Ends, target: Ends) -> list[str]:
    """What never learns because it is frozen and the old agent did not have it.

    Args:
        frozen: Parts that are kept unchanged, as in `train.frozen`.
        source: The old run.
        target: The new run.

    Returns:
        A line for each module that ignores new inputs.

    Raises:
        ConfigError: A module would stay at its random start.
    """
    terminates = any(spec.can_terminate for spec in source.specs)
    more_actions = target.networks.action_size > source.networks.action_size
    random = {
        "policy": more_actions and "the new action dimensions",
        "termination": not terminates and "a head that the agent does not have",
    }
    for module in frozen:
        if random.get(module):
            raise ConfigError(
                f"config.train.frozen = {tuple(frozen)} would keep {random[module]} of the "
                f"{module} at its random start; leave {module} out"
            )
    was, now = source.segments(), target.segments()
    return [
        f"{module} is frozen: it ignores the new inputs"
        for module in frozen
        if any(n > w for w, n in zip(was.get(module, ()), now.get(module, ()), strict=True))
    ]


def _moved(old: Params, new: Params, was: tuple[int, ...], now: tuple[int, ...]) -> Params:
    """The old parameters, the first layer's kernel cut to the new pieces of the input."""
    if was == now:
        return old
    first = _first_layer(old)
    kernel = _leaf(old, first)
    # A Q ensemble has an axis before.
    pieces = jnp.split(kernel, np.cumsum(was)[:-1].tolist(), axis=-2)
    fitted = [_fitted(piece, size) for piece, size in zip(pieces, now, strict=True)]
    return _with_leaf(old, first, jnp.concatenate(fitted, axis=-2))


def _same_shaped(old: Params, new: Params) -> Params:
    """The new parts, or the old ones where they are of the same sizes."""
    return {
        name: old[name] if jax.tree.map(np.shape, old.get(name)) == jax.tree.map(np.shape, x) else x
        for name, x in new.items()
    }


def _moved_actor(old: Params, new: Params, source: Ends, target: Ends) -> Params:
    """The old policy; mean and raw std of new action dims start as in a fresh one."""
    size, target_size = source.networks.action_size, target.networks.action_size
    if size == target_size:
        return old
    last = _last_layer(old)
    kept = min(size, target_size)
    for leaf in ("kernel", "bias"):
        path = (*last[:-1], leaf)
        halves = zip(
            jnp.split(_leaf(old, path), 2, axis=-1),
            jnp.split(_leaf(new, path), 2, axis=-1),
            strict=True,
        )
        joined = [fresh.at[..., :kept].set(known[..., :kept]) for known, fresh in halves]
        old = _with_leaf(old, path, jnp.concatenate(joined, axis=-1))
    return old


def _moved_statistics(old: Statistics, new: Statistics, source: Ends, target: Ends) -> Statistics:
    """Running statistics of the tasks that both runs have."""
    pairs = [
        (index, source.tasks.index(task))
        for index, task in enumerate(target.tasks)
        if task in source.tasks
    ]
    if not pairs:
        return new
    to, from_ = (jnp.array(column) for column in zip(*pairs, strict=True))
    moved = {
        name: jax.tree.map(
            lambda a, b: jnp.asarray(b).at[to].set(a[from_]), getattr(old, name), getattr(new, name)
        )
        for name in ("plan_scale", "value_scale", "disagreement", "reward", "recent_reward")
    }
    known, fresh = jax.tree.map(jnp.asarray, (old.observation, new.observation))
    kept = min(known.mean.shape[-1], fresh.mean.shape[-1])
    moved["observation"] = fresh.replace(
        mean=fresh.mean.at[to, :kept].set(known.mean[from_, :kept]),
        variance=fresh.variance.at[to, :kept].set(known.variance[from_, :kept]),
        count=fresh.count.at[to].set(known.count[from_]),
    )
    result: Statistics = new.replace(**moved)
    return result


def _fitted(piece: jax.Array, size: int) -> jax.Array:
    """The piece with `size` rows: the first ones, zeros behind them."""
    piece = piece[..., :size, :]
    missing = size - piece.shape[-2]
    return jnp.pad(piece, [(0, 0)] * (piece.ndim - 2) + [(0, missing), (0, 0)])


def _first_layer(module: Params) -> tuple[str, ...]:
    """Path of the first kernel of an MLP, which may lie in a module of its own."""
    kernels = _kernels(module)
    return next((path for path in kernels if "NormedDense_0" in path), kernels[0])


def _last_layer(module: Params) -> tuple[str, ...]:
    """Path of the kernel of an MLP's plain output layer."""
    return next(path for path in _kernels(module) if not any("NormedDense" in p for p in path))


def _kernels(module: Params, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all kernels."""
    found = []
    for name, value in module.items():
        if isinstance(value, Mapping):
            found += _kernels(value, (*path, name))
        elif name == "kernel":
            found.append((*path, name))
    return found


def _leaf(module: Params, path: tuple[str, ...]) -> Any:
    for name in path:
        module = module[name]
    return module


def _with_leaf(module: Params, path: tuple[str, ...], value: Any) -> Params:
    name, *rest = path
    inner = _with_leaf(module[name], tuple(rest), value) if rest else value
    return {**module, name: inner}
