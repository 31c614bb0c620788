"""Environments whose tasks are placed on devices: each device steps all environments of some tasks.

Learning, and what is saved, has a share of every task on every device. Stepping can be spread
otherwise: before an unroll the rows go to the devices of their tasks, and after it they go back
with what they gave. In between a device branches on its number, with no exchange in the branches.
All devices run one program, so their arrays have one shape: states of different simulators are
packed into rows of words, as long as the longest.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import base, host, physics, wrappers
from m3po_jax.envs.batch import MultiTaskState, Timestep
from m3po_jax.envs.multitask import MultiTaskEnv
from m3po_jax.envs.placement import Placement
from m3po_jax.types import BatchLayout

Tree = TypeVar("Tree")
# Devices that a text names one by one.
_LISTED = 16


class ByTaskEnv:
    """One device's environments while collecting; acting and `rollout.collect` take it as an env.

    Attributes:
        batch_size: Environments here, equally many on every device.
        action_size: `A`, the largest action of all tasks.
        action_mask: `[K, A]`, see `MultiTaskEnv`.
        discount: `[K]`, see `MultiTaskEnv`.
    """

    def __init__(self, env: MultiTaskEnv, placement: Placement, axis_name: tuple[str, ...]):
        """Prepares the branches.

        Args:
            env: All environments, of which every device can hold an equal share of every task.
            placement: The objects of each device, tasks or families, as `place_tasks` gives them.
            axis_name: Mesh axes that the devices lie on.
        """
        devices = len(placement)
        self._placement = placement
        self._axis_name = axis_name
        self._parts = tuple(env.subset(tasks) for tasks in placement)
        shares = tuple(n // devices for n in env.num_envs)
        self._layout = BatchLayout(shares, env.layout.objects)
        self._task_id = np.stack(
            [
                np.concatenate([env.layout.tasks_of[k] for k in objects])[part.task_id]
                for objects, part in zip(placement, self._parts, strict=True)
            ]
        )
        self._states = env.state_shapes
        self._width = max(sum(map(_num_words, jax.tree.leaves(shapes))) for shapes in self._states)
        self.batch_size = env.batch_size // devices
        self.action_size = env.action_size
        self.action_mask = env.action_mask
        self.discount = env.discount

    @property
    def task_id(self) -> jax.Array:
        """The task of each row here, `[b]` int32."""
        return jnp.asarray(self._task_id)[jax.lax.axis_index(self._axis_name)]

    def env_keys(self, key: jax.Array) -> jax.Array:
        """One key per environment here `[b]`, those of `MultiTaskEnv.env_keys`."""
        return self._branch(lambda part, _: part.env_keys(key))

    def draw_resets(self, key: jax.Array) -> jax.Array:
        """Fresh first states, packed `[b, P]`; see `MultiTaskEnv.draw_resets`."""
        return self._branch(lambda part, tasks: self._pack(part.layout, part.draw_states(key)))

    def step(
        self, state: MultiTaskState, pool: jax.Array, action: jax.Array
    ) -> tuple[MultiTaskState, Timestep]:
        """One agent step of the tasks of this device; see `MultiTaskEnv.step`."""

        def step(part: MultiTaskEnv, tasks: Sequence[int]) -> tuple[MultiTaskState, Timestep]:
            unpacked = state.replace(env_states=self._unpack(part.layout, tasks, state.env_states))
            first = part.as_pool(self._unpack(part.layout, tasks, pool))
            stepped, timestep = part.step(unpacked, first, action)
            packed = self._pack(part.layout, stepped.env_states)
            return stepped.replace(env_states=packed), timestep

        return self._branch(step)

    def enter(
        self, state: MultiTaskState, plan_mean: jax.Array
    ) -> tuple[MultiTaskState, jax.Array]:
        """Brings rows to the devices of their tasks, with the simulators' states packed `[b, P]`.

        Args:
            state: Share of every task, as `MultiTaskEnv.shard` has it.
            plan_mean: `[b, H, A]` in the same order.
        """
        packed = self._pack(self._layout, state.env_states)
        return self._exchange((state.replace(env_states=packed), plan_mean), self._to_tasks)

    def leave(
        self, state: MultiTaskState, plan_mean: jax.Array, unroll: Tree
    ) -> tuple[MultiTaskState, jax.Array, Tree]:
        """Undoes `enter`; `unroll`, what an unroll gave, has leaves `[T, b, ...]`."""
        turned = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), unroll)
        state, plan_mean, turned = self._exchange((state, plan_mean, turned), self._to_batch)
        tasks = range(len(self._states))
        unpacked = state.replace(env_states=self._unpack(self._layout, tasks, state.env_states))
        return unpacked, plan_mean, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), turned)

    def _branch(self, function: Callable[[MultiTaskEnv, Sequence[int]], Tree]) -> Tree:
        """`function` of the environments and tasks of this device."""
        branches = [
            lambda part=part, tasks=tasks: function(part, tasks)
            for part, tasks in zip(self._parts, self._placement, strict=True)
        ]
        here: Tree = jax.lax.switch(jax.lax.axis_index(self._axis_name), branches)
        return here

    def _pack(self, layout: BatchLayout, states: Sequence[Any]) -> jax.Array:
        """Rows of words `[B, P]` of the tasks' states, leaves `[N_k, ...]`."""
        return layout.join([wrappers.pad_last(_to_words(s), self._width) for s in states])

    def _unpack(self, layout: BatchLayout, tasks: Sequence[int], words: jax.Array) -> tuple:
        """Undoes `_pack` for these tasks."""
        parts = zip(tasks, layout.split(words), strict=True)
        return tuple(_from_words(part, self._states[k]) for k, part in parts)

    def _exchange(self, rows: Tree, move: Callable[[jax.Array], jax.Array]) -> Tree:
        """All leaves `[b, ...]` moved in one exchange."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
        moved: Tree = _from_words(move(_to_words(rows)), shapes)
        return moved

    def _to_tasks(self, words: jax.Array) -> jax.Array:
        """Rows of a share of every task to rows of all environments of the tasks here."""
        parts = self._layout.split(words)
        # A contiguous share of a layout is a share of each of its tasks.
        groups = [
            self._layout.of(tasks).join([parts[k] for k in tasks]) for tasks in self._placement
        ]
        return self._all_to_all(jnp.stack(groups)).reshape(words.shape)

    def _to_batch(self, words: jax.Array) -> jax.Array:
        """Undoes `_to_tasks`."""
        devices = len(self._placement)
        groups = self._all_to_all(words.reshape(devices, -1, words.shape[-1]))
        parts: dict[int, jax.Array] = {}
        for tasks, group in zip(self._placement, groups, strict=True):
            parts.update(zip(tasks, self._layout.of(tasks).split(group), strict=True))
        return self._layout.join([parts[k] for k in range(len(parts))])

    def _all_to_all(self, groups: jax.Array) -> jax.Array:
        return jax.lax.all_to_all(groups, self._axis_name, split_axis=0, concat_axis=0)


def placement_text(env: MultiTaskEnv, placement: Placement | None, num_devices: int) -> str:
    """Which tasks which device steps, and how even that is."""
    if placement is None:
        return (
            f"task placement sharded: each of {num_devices} devices steps 1/{num_devices} of the"
            " environments of every task, so all have the same cost"
        )
    costs = step_costs(env)
    shares = [sum(costs[k] for k in tasks) / sum(costs) for tasks in placement]
    listed = [
        f"  device {index}, {share:.0%} of the cost: {', '.join(env.names[k] for k in tasks)}"
        for index, (tasks, share) in enumerate(zip(placement, shares, strict=True))
    ]
    more = [f"  and {len(listed) - _LISTED} more devices"] if len(listed) > _LISTED else []
    return "\n".join(
        [
            f"task placement by_task: the most expensive device has "
            f"{max(shares) * num_devices:.2f} "
            "times the mean estimated cost (numbers that a step computes, as traced)",
            *listed[:_LISTED],
            *more,
        ]
    )


@functools.lru_cache(maxsize=4)
def step_costs(env: MultiTaskEnv) -> tuple[float, ...]:
    """Estimated cost of one agent step of all environments of each task; traces the steps.

    It is the count of numbers that the step computes, before a compiler sees it. Loops count with
    their length, and as one round where that shows only as they run.
    """

    def cost(environment: base.Environment, state: base.EnvState) -> float:
        action = jax.ShapeDtypeStruct((environment.action_size,), jnp.float32)
        return _numbers_computed(jax.make_jaxpr(environment.step)(state, action).jaxpr)

    each = map(cost, env.environments, env.state_shapes)
    hidden = map(_cost_on_host, env.environments)
    numbers = env.layout.object_envs
    return tuple(n * (c + h) for n, c, h in zip(numbers, each, hidden, strict=True))


def _cost_on_host(environment: base.Environment) -> float:
    """What the callbacks of one agent step cost, which a trace does not show."""
    if not isinstance(environment, wrappers.ActionRepeat):
        return 0.0
    body = physics.body_of(environment.environment)
    return environment.num_repeats * body.cost if isinstance(body, host.HostBody) else 0.0


def _numbers_computed(jaxpr: Any) -> float:
    """Array entries that the equations of a program produce, with the most expensive branches."""
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [
            _numbers_computed(getattr(program, "jaxpr", program))
            for value in equation.params.values()
            for program in (value if isinstance(value, tuple | list) else (value,))
            if hasattr(getattr(program, "jaxpr", program), "eqns")
        ]
        if not inner:
            total += sum(x.aval.size for x in equation.outvars)
        elif equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += equation.params.get("length", 1) * sum(inner)
    return total


def _to_words(rows: Any) -> jax.Array:
    """All bits of leaves `[n, ...]` as uint32 `[n, W]`."""
    return jnp.concatenate([_leaf_to_words(x) for x in jax.tree.leaves(rows)], axis=1)


def _from_words(words: jax.Array, shapes: Tree) -> Tree:
    """Undoes `_to_words`; `shapes` are those of one row, and words behind the last are ignored."""
    leaves, structure = jax.tree.flatten(shapes)
    parts = jnp.split(words, np.cumsum([_num_words(leaf) for leaf in leaves]).tolist(), axis=1)
    found = [_leaf_from_words(part, leaf) for part, leaf in zip(parts, leaves, strict=False)]
    tree: Tree = jax.tree.unflatten(structure, found)
    return tree


def _num_words(shape: jax.ShapeDtypeStruct) -> int:
    return math.prod(_without_keys(shape).shape)


def _without_keys(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape, or that of the words of typed keys."""
    is_key = jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
    return jax.eval_shape(jax.random.key_data, shape) if is_key else shape


def _leaf_to_words(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == bool:
        x = x.astype(jnp.uint32)
    if x.dtype.itemsize < 4:
        x = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _leaf_from_words(words: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
    raw = _without_keys(shape)
    words = words.reshape(words.shape[0], *raw.shape)
    if raw.dtype == bool:
        return words.astype(bool)
    if raw.dtype.itemsize < 4:
        words = words.astype(f"uint{8 * raw.dtype.itemsize}")
    x: jax.Array = jax.lax.bitcast_convert_type(words, raw.dtype)
    if raw is shape:
        return x
    return jax.random.wrap_key_data(x, impl=shape.dtype._impl.name)
