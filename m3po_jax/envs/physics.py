"""Physics that several tasks share: one computation for the environments of all of them.

Walking and running with one body differ in the reward alone, which a library computes in the same
function as the physics. Compiled task by task, the physics would be compiled over and over. Here
the tasks' own functions run until they ask for the physics, with `call`; it is computed for the
environments of all tasks of the body at once, and the functions run again with the answers. What
they compute before they ask is then in the program twice, and the compiler drops one.
"""

import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import base, host, wrappers

# A jitted function of a model and further pytrees, of one environment; or a `HostCall`.
Program = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """What decides whether tasks have the same physics.

    Attributes:
        program: One control step; all others that such tasks ask for belong to it.
        model: Its first argument, a pytree of concrete arrays with static parts.
        inputs: Shapes of its further arguments.
    """

    program: Program
    model: Any
    inputs: tuple[Any, ...]

    def same_as(self, other: Any) -> bool:
        """Whether both are one program, up to the numbers in the arrays of the models."""
        if not isinstance(other, Body) or self.program is not other.program:
            return False
        if self._shapes != other._shapes:
            return False
        if self._structure == other._structure:
            return True
        # Static parts that differ may be of no account, as the size of a marker that is only drawn.
        return self._text == other._text

    @functools.cached_property
    def _structure(self) -> Any:
        return jax.tree.structure(self.model)

    @functools.cached_property
    def _shapes(self) -> list[tuple[tuple[int, ...], Any]]:
        return [(np.shape(x), x.dtype) for x in jax.tree.leaves((self.model, self.inputs))]

    @functools.cached_property
    def _text(self) -> str:
        """The program as the compiler gets it; traces it."""
        return str(self.program.lower(self.model, *self.inputs).as_text())


AnyBody = Body | host.HostBody


class _Question(Exception):
    """Ends a function that asks for physics not answered yet."""

    def __init__(self, program: Program, model: Any, inputs: tuple[Any, ...]):
        super().__init__("physics was asked for outside of the function that is answered")
        self.program, self.model, self.inputs = program, model, inputs


_answers: contextvars.ContextVar[Iterator[Any] | None] = contextvars.ContextVar(
    "answers", default=None
)


def call(program: Program, model: Any, *inputs: Any) -> Any:
    """Computes physics; by this an environment asks for what it can share.

    An environment with a `body` calls it outside of loops and branches.

    Args:
        program: The same object for all tasks of a body.
        model: Arrays, concrete but where the environments of one task differ in them.
        *inputs: Pytrees of arrays of one environment.

    Returns:
        `program(model, *inputs)`.
    """
    answers = _answers.get()
    if answers is None:
        return program(model, *inputs)
    for answer in answers:
        return answer
    raise _Question(program, model, inputs)


def body_of(environment: base.Environment) -> AnyBody | None:
    """The body of an environment that has one to share."""
    body: AnyBody | None = getattr(environment, "body", None)
    return body


def on_host(environments: Sequence[Any]) -> bool:
    """Whether any of these, as `MultiTaskEnv.environments` has them, has physics on the host."""
    return any(
        isinstance(repeated, wrappers.ActionRepeat)
        and isinstance(body_of(repeated.environment), host.HostBody)
        for repeated in environments
    )


def groups(environments: Sequence[base.Environment]) -> tuple[tuple[int, ...], ...]:
    """Which environments are computed together.

    Args:
        environments: One of each task.

    Returns:
        Indices of those with the same body and the same action repeat; each is in one group.
    """
    found: list[list[int]] = []
    for index, environment in enumerate(environments):
        for group in found:
            if _belong_together(environments[group[0]], environment):
                group.append(index)
                break
        else:
            found.append([index])
    return tuple(map(tuple, found))


def _belong_together(one: base.Environment, other: base.Environment) -> bool:
    if not (isinstance(one, wrappers.ActionRepeat) and isinstance(other, wrappers.ActionRepeat)):
        return False
    if one.num_repeats != other.num_repeats:
        return False
    body, other_body = body_of(one.environment), body_of(other.environment)
    return body is not None and other_body is not None and _same(body, other_body)


# Training, evaluation and each device's share of them ask the same.
@functools.lru_cache(maxsize=1024)
def _same(one: AnyBody, other: AnyBody) -> bool:
    return one.same_as(other)


def reset(
    environments: Sequence[Any], arguments: Sequence[tuple[jax.Array, ...]]
) -> list[base.EnvState]:
    """Resets the environments of one group.

    Args:
        environments: One of each task.
        arguments: For each task keys `[N_k]`, consumed, and of a family its rows' variations.

    Returns:
        For each task a state with leaves `[N_k, ...]`.
    """
    if _alone(environments):
        return [jax.vmap(environments[0].reset)(*arguments[0])]
    return _together([e.reset for e in environments], arguments)


def step(
    environments: Sequence[Any],
    states: Sequence[base.EnvState],
    actions: Sequence[jax.Array],
    steps_left: Sequence[jax.Array | None],
) -> list[base.EnvState]:
    """Takes one agent step in the environments of one group.

    Args:
        environments: One of each task.
        states: For each task with leaves `[N_k, ...]`.
        actions: For each task `[N_k, A]`.
        steps_left: For each task `[N_k]` or None, see `wrappers.ActionRepeat.step`.

    Returns:
        The successors, as `states`.
    """
    if _alone(environments):
        cut = () if steps_left[0] is None else (steps_left[0],)
        return [jax.vmap(environments[0].step)(states[0], actions[0], *cut)]
    steps = [e.environment.step for e in environments]

    def advance(last: list[base.EnvState]) -> list[base.EnvState]:
        return _together(steps, list(zip(last, actions, strict=True)))

    return wrappers.repeat(advance, list(states), environments[0].num_repeats, steps_left)


def _alone(environments: Sequence[Any]) -> bool:
    """Whether nothing is to be joined; the rows of a host's task are, into one callback."""
    return len(environments) == 1 and not on_host(environments)


def _together(functions: Sequence[Callable], arguments: Sequence[tuple]) -> list[Any]:
    """Each function over its batch of arguments, with the physics of all computed at once."""
    answers: list[list[Any]] = [[] for _ in functions]
    values: list[Any] = [None for _ in functions]
    left = list(range(len(functions)))
    while True:
        ran = {k: _run(functions[k], answers[k], arguments[k]) for k in left}
        values = [ran[k][1] if k in ran else value for k, value in enumerate(values)]
        asked = {k: question for k, (question, _) in ran.items() if question is not None}
        if not asked:
            return values
        programs = [program for program, _ in asked.values()]
        inputs = [values[k] for k in asked]
        if all(isinstance(program, host.HostCall) for program in programs):
            computed = host.call_together(programs, [words for _, (words,) in inputs])
        elif len(asked) < len(left) or len(set(programs)) > 1:
            raise ValueError("tasks with one body must ask for the same physics in the same order")
        else:
            computed = _compute(programs[0], [model for _, model in asked.values()], inputs)
        left = list(asked)
        for k, answer in zip(left, computed, strict=True):
            answers[k].append(answer)


def _run(
    function: Callable, answers: list[Any], arguments: tuple
) -> tuple[tuple[Program, Any] | None, Any]:
    """Maps a function over a batch of arguments, with the answers to its first questions.

    Returns:
        Program and model that it asks for next, and the batches of the model's leaves that differ
        between rows, by their place, and of further inputs; or None, and what it gave.
    """
    asked: list[tuple[Program, Any]] = []

    def one(answers: list[Any], arguments: tuple) -> Any:
        token = _answers.set(iter(answers))
        try:
            return function(*arguments)
        except _Question as question:
            asked.append((question.program, question.model))
            leaves = enumerate(jax.tree.leaves(question.model))
            return {k: x for k, x in leaves if isinstance(x, jax.core.Tracer)}, question.inputs
        finally:
            _answers.reset(token)

    value = jax.vmap(one)(answers, arguments)
    return (asked[0] if asked else None), value


def _compute(
    program: Program, models: Sequence[Any], rows: Sequence[tuple[dict[int, jax.Array], Any]]
) -> list[Any]:
    """The program for all batches; only what differs between the models gets a batch axis."""
    batches = [inputs for _, inputs in rows]
    sizes = [jax.tree.leaves(batch)[0].shape[0] for batch in batches]
    leaves, structure = jax.tree.flatten(models[0])
    columns = list(zip(*map(jax.tree.leaves, models), strict=True))
    differ = [
        any(k in own for own, _ in rows)
        or any(not np.array_equal(x, c[0], equal_nan=True) for x in c[1:])
        for k, c in enumerate(columns)
    ]

    def column(k: int) -> jax.Array:
        parts = [
            own[k] if k in own else jnp.broadcast_to(x, (n, *x.shape))
            for (own, _), x, n in zip(rows, columns[k], sizes, strict=True)
        ]
        return jnp.concatenate(parts)

    def one(own: list[jax.Array], inputs: Any) -> Any:
        left = iter(own)
        mixed = [next(left) if d else x for x, d in zip(leaves, differ, strict=True)]
        return program(jax.tree.unflatten(structure, mixed), *inputs)

    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *batches)
    result = jax.vmap(one)([column(k) for k, d in enumerate(differ) if d], joined)
    ends = np.cumsum(sizes).tolist()
    return [
        jax.tree.map(lambda x, i=end - size, j=end: x[i:j], result)
        for size, end in zip(sizes, ends, strict=True)
    ]
