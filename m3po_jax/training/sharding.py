"""One program on many devices: the only module that names mesh axes.

Environments, with their replay, rollouts and batches, are spread over both axes. Parameters, their
averages and the optimizers' moments are kept in parts over the axis `fsdp`, which is 1 unless asked
for; statistics, keys and counters are equal on all devices. Programs gather whole parameters, but
of an optimizer each device sees and updates its part alone. The same program runs on one device and
on many, over any number of processes. (`jax.pmap` is in maintenance mode; `shard_map` is its
successor.)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from m3po_jax.config import Config, ConfigError
from m3po_jax.envs.by_task import ByTaskEnv, step_costs
from m3po_jax.envs.placement import Placement, place_tasks
from m3po_jax.learning.episodes import evaluate
from m3po_jax.learning.model_error import model_errors
from m3po_jax.learning.optimizers import Optimizers
from m3po_jax.learning.parts import Parts
from m3po_jax.learning.state import AgentState, TrainState, init_agent, init_train_state
from m3po_jax.learning.train_step import Collected, collect, learn
from m3po_jax.replay.buffer import ReplayState
from m3po_jax.training.optimizer_parts import in_parts, split_axis
from m3po_jax.workload import device_conflict, most_devices

AXES = ("data", "fsdp")
_FSDP = "fsdp"
Devices = jax.sharding.Mesh

# Specs stand in the place of whole subtrees, hence `Any`.
_EVERYWHERE: Any = P()
_ROWS: Any = P(AXES)  # leading axis: environments
_COLUMNS: Any = P(None, AXES)  # [T, B, ...]
_STATE = TrainState(
    agent=_EVERYWHERE,
    rollout=_ROWS,
    replay=ReplayState(data=_ROWS, cursor=_EVERYWHERE, size=_EVERYWHERE, skip=_ROWS),
    key=_EVERYWHERE,
    iteration=_EVERYWHERE,
    updates=_EVERYWHERE,
    update_debt=_EVERYWHERE,
)
_COLLECTED = Collected(
    rollout=_ROWS, trajectory=_COLUMNS, timesteps=_COLUMNS, return_spread=_COLUMNS
)


def choose_devices(config: Config) -> Devices:
    """The devices of a run.

    `train.num_devices` of them, those of all processes in turn; 0 takes as many as the environments
    and batches of the config split over.

    Raises:
        ConfigError: There are fewer, or a run of several processes would not use all of them.
    """
    available, fsdp = jax.device_count(), config.train.fsdp_devices
    if fsdp > available:
        raise ConfigError(
            f"config.train.fsdp_devices = {fsdp} is more than the {available} "
            f"{jax.default_backend()} device(s) of this run; give at most {available}"
        )
    wanted = config.train.num_devices or most_devices(config, available)
    if wanted > available:
        raise ConfigError(
            f"config.train.num_devices = {wanted} is more than the {available} "
            f"{jax.default_backend()} device(s) of this run; give at most {available}, or 0 for all"
        )
    if jax.process_count() > 1 and wanted < available:
        reason = device_conflict(config, available) or "config.train.num_devices is less"
        raise ConfigError(
            f"{jax.process_count()} processes must use all of their {available} devices: {reason}"
        )
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    shape, devices = (wanted // fsdp, fsdp), jax.devices()[:wanted]
    return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)


def placed(mesh: Devices, shapes: TrainState) -> TrainState:
    """The state's shapes with the place of each leaf, as `jax.ShapeDtypeStruct`s."""
    state: TrainState = _placed(mesh, _STATE.replace(agent=_kept(mesh, shapes.agent)), shapes)
    return state


def _placed(mesh: Devices, specs: Any, shapes: Any) -> Any:
    def place(spec: P, part: Any) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part
        )

    return jax.tree.map(place, specs, shapes, is_leaf=lambda x: isinstance(x, P))


def _kept(mesh: Devices, agent: AgentState) -> AgentState:
    """Specs of the agent between programs."""
    specs: AgentState = jax.tree.map(lambda x: _part_spec(x.shape, mesh.shape[_FSDP]), agent)
    return specs.replace(statistics=_EVERYWHERE)


def _part_spec(shape: tuple[int, ...], num_parts: int) -> P:
    axis = split_axis(shape, num_parts)
    return P() if axis is None else P(*[None] * axis, _FSDP)


def _specs(mesh: Devices, parts: Parts) -> tuple[TrainState, TrainState]:
    """Specs of the state between programs, and inside, where optimizers alone are in parts."""
    if mesh.shape[_FSDP] == 1:
        return _STATE, _STATE
    init = functools.partial(init_agent, parts.networks, parts.optimizers)
    kept = _kept(mesh, jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0))))
    inside = kept.replace(params=_EVERYWHERE, target_q=_EVERYWHERE, target_exploration=_EVERYWHERE)
    return _STATE.replace(agent=kept), _STATE.replace(agent=inside)


def _shardings(mesh: Devices, specs: Any) -> Any:
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P)
    )


def choose_placement(mesh: Devices, parts: Parts) -> Placement | None:
    """The tasks that each device steps, or None where every device steps a share of each."""
    if parts.config.train.task_placement == "sharded" or mesh.size == 1:
        return None
    found = place_tasks(parts.env.layout.object_envs, step_costs(parts.env), mesh.size)
    if found is None:
        raise ValueError(f"the tasks do not divide evenly over {mesh.size} devices")
    return found


def _share(mesh: Devices, parts: Parts) -> Parts:
    """The parts as one device has them, with its share of the environments."""
    return dataclasses.replace(parts, env=parts.env.shard(mesh.size, AXES))


def shard_init(mesh: Devices, parts: Parts) -> jax.stages.Wrapped:
    """A compiled function from a key to the state before the first step, spread over the mesh."""
    init = functools.partial(init_train_state, _share(mesh, parts))
    kept, _ = _specs(mesh, parts)
    # Simulators begin loops with constants, which the types of varying values do not allow.
    return jax.jit(
        jax.shard_map(init, mesh=mesh, in_specs=_EVERYWHERE, out_specs=_STATE, check_vma=False),
        out_shardings=_shardings(mesh, kept),
    )


def shard_collect(mesh: Devices, parts: Parts) -> Callable[[TrainState], Collected]:
    """The collecting part of an iteration over all devices, not compiled.

    It needs no gradient and exchanges nothing but the pool of first states or, by task, the rows
    before and after.
    """
    placement = choose_placement(mesh, parts)
    by_task = None if placement is None else ByTaskEnv(parts.env, placement, AXES)
    collect_here: Callable[[TrainState], Collected] = jax.shard_map(
        functools.partial(collect, parts=_share(mesh, parts), by_task=by_task),
        mesh=mesh,
        in_specs=(_STATE,),
        out_specs=_COLLECTED,
        check_vma=False,  # see shard_init
    )
    return collect_here


def shard_collect_alone(mesh: Devices, parts: Parts) -> jax.stages.Wrapped:
    """A compiled `TrainState -> Collected` over all devices; the state is kept."""
    return jax.jit(shard_collect(mesh, parts), out_shardings=_shardings(mesh, _COLLECTED))


def placed_collected(mesh: Devices, shapes: Collected) -> Collected:
    """Shapes of what was collected with the place of each leaf."""
    collected: Collected = _placed(mesh, _COLLECTED, shapes)
    return collected


def shard_learn_alone(mesh: Devices, parts: Parts) -> jax.stages.Wrapped:
    """A compiled `(TrainState, Collected) -> (TrainState, Metrics)` over all devices.

    The state is donated.
    """
    return jax.jit(
        _shard_learn(mesh, parts),
        donate_argnums=0,
        out_shardings=_shardings(mesh, (_specs(mesh, parts)[0], _EVERYWHERE)),
    )


def _shard_learn(mesh: Devices, parts: Parts) -> Callable[..., Any]:
    """The learning part of an iteration, not compiled.

    It is checked by JAX's types: what must be equal on all devices provably is.
    """
    _, inside = _specs(mesh, parts)
    num_parts = mesh.shape[_FSDP]
    optimizers = Optimizers(*(in_parts(one, num_parts, _FSDP) for one in parts.optimizers))
    share = dataclasses.replace(_share(mesh, parts), optimizers=optimizers)
    learn_here: Callable[..., Any] = jax.shard_map(
        functools.partial(learn, parts=share),
        mesh=mesh,
        in_specs=(inside, _COLLECTED),
        out_specs=(inside, _EVERYWHERE),
    )
    return learn_here


def shard_train_step(mesh: Devices, parts: Parts) -> jax.stages.Wrapped:
    """One compiled training iteration `state -> (state, metrics)` over all devices of the mesh.

    The state is donated.
    """
    collect_here, learn_here = shard_collect(mesh, parts), _shard_learn(mesh, parts)
    return jax.jit(
        lambda state: learn_here(state, collect_here(state)),
        donate_argnums=0,
        out_shardings=_shardings(mesh, (_specs(mesh, parts)[0], _EVERYWHERE)),
    )


def shard_model_errors(mesh: Devices, parts: Parts) -> jax.stages.Wrapped:
    """A compiled function `(agent, replay, key) -> ModelErrors`, equal on all devices."""
    return jax.jit(
        jax.shard_map(
            functools.partial(model_errors, parts=_share(mesh, parts)),
            mesh=mesh,
            in_specs=(_EVERYWHERE, _STATE.replay, _EVERYWHERE),
            out_specs=_EVERYWHERE,
        )
    )


def shard_evaluate(mesh: Devices, parts: Parts, *, policy: str) -> jax.stages.Wrapped:
    """A compiled evaluation `(agent, key) -> Episodes`; the result `[B]` is on every device.

    Args:
        mesh: The devices.
        parts: With the environments of the evaluation, which split over the mesh.
        policy: See `evaluate`.
    """
    play = functools.partial(evaluate, parts=_share(mesh, parts), policy=policy)
    sharded = jax.shard_map(
        play, mesh=mesh, in_specs=(_EVERYWHERE, _EVERYWHERE), out_specs=_ROWS, check_vma=False
    )
    return jax.jit(sharded, out_shardings=NamedSharding(mesh, _EVERYWHERE))
