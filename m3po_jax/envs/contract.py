"""One check of a task that others wrote: what it gives against what it declares.

It traces the task, so that a mistake is found before anything compiles, and under its own name.
"""

import pathlib
import sysconfig
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from m3po_jax.config import ConfigError
from m3po_jax.envs import adapting, base

_SIZES = ("observation_size", "action_size", "episode_length")
_SCALARS = ("reward", "termination", "truncation", "success")


def checked(name: str, environment: base.Environment) -> base.Environment:
    """Checks a user's task by its shapes alone.

    Args:
        name: Name of the task.
        environment: One control step per `step`.

    Returns:
        The environment, or one around it that casts observation, reward and ends to float32 and
        keeps the dtypes of the physics, where it does not do so itself.

    Raises:
        ConfigError: Sizes, shapes, kinds or structures are not what `Environment` says, or the
            task raises something itself.
    """
    _check_facts(name, environment)
    key = jax.eval_shape(lambda: jax.random.key(0))
    first = traced(name, "reset", environment.reset, key)
    _check_state(name, "reset", first, environment.observation_size)
    template = _template(first)
    action = jax.ShapeDtypeStruct((environment.action_size,), jnp.float32)
    after = traced(name, "step", environment.step, template, action)
    _check_state(name, "step", after, environment.observation_size)
    if type(first) is not type(after):
        raise ConfigError(
            f"task {name}: reset returns {type(first).__name__} and step {type(after).__name__}; "
            "return the same kind of state from both"
        )
    cast = _Cast(environment, template)
    traced(name, "step", cast.step, template, action)
    if not environment.can_terminate:
        _check_never_terminates(name, cast, key, template, action)
    return environment if _same_kinds(first, template, after) else cast


class _Cast:
    """An environment whose states have one set of dtypes."""

    def __init__(self, environment: base.Environment, template: base.EnvState):
        self._environment, self._template = environment, template
        self.observation_size = environment.observation_size
        self.action_size = environment.action_size
        self.episode_length = environment.episode_length
        self.can_terminate = environment.can_terminate
        self.body = getattr(environment, "body", None)

    def reset(self, key: jax.Array) -> base.EnvState:
        return self._like_template(self._environment.reset(key))

    def step(self, state: base.EnvState, action: jax.Array) -> base.EnvState:
        return self._like_template(self._environment.step(state, action))

    def _like_template(self, state: base.EnvState) -> base.EnvState:
        # What the agent reads is float32 whatever comes; the task's own numbers lose nothing.
        read = {k: jnp.asarray(v, jnp.float32) for k, v in _read_fields(state).items()}
        cast: base.EnvState = adapting.like(state.replace(**read), self._template)
        return cast


def _check_facts(name: str, environment: Any) -> None:
    for fact in _SIZES:
        value = getattr(environment, fact)
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
            hint = "; a task without actions cannot be learned" if fact == "action_size" else ""
            raise ConfigError(
                f"task {name}: {fact} must be a whole number from 1, got {value!r}{hint}"
            )
    if not isinstance(environment.can_terminate, bool):
        raise ConfigError(
            f"task {name}: can_terminate must be True or False, got {environment.can_terminate!r}"
        )


def traced(name: str, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the shapes of what a function of a task gives.

    Args:
        name: Name of the task.
        what: Name of the function.
        function: The function.
        *arguments: Its arguments, or their shapes.

    Raises:
        ConfigError: The function raised something; says what and where.
    """
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:  # a user's program can raise anything
        text = str(error).strip().splitlines() or [""]
        raise ConfigError(
            f"task {name}: {what} raised {type(error).__name__}{_place(error)}: {text[0]}"
        ) from error


def _place(error: Exception) -> str:
    """' at FILE:LINE' of the user's line that an error came from, or nothing."""
    libraries = sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"]
    package = str(pathlib.Path(__file__).parent.parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*libraries, package, "<"))
    ]
    return f" at {pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _check_state(name: str, what: str, state: Any, observation_size: int) -> None:
    if not isinstance(state, base.EnvState):
        raise ConfigError(
            f"task {name}: {what} returns {type(state).__name__}; return m3po_jax.envs.base."
            "EnvState or GoalState"
        )
    shapes = {field: () for field in _SCALARS} | {"observation": (int(observation_size),)}
    for field, value in _read_fields(state).items():
        if not hasattr(value, "shape"):
            raise ConfigError(
                f"task {name}: {field} from {what} is a {type(value).__name__}; give one array "
                "(join several with jnp.concatenate)"
            )
        if value.shape != shapes[field]:
            declared = f" and observation_size is {observation_size}" if shapes[field] else ""
            expected = f"of shape {list(shapes[field])}" if shapes[field] else "a scalar"
            raise ConfigError(
                f"task {name}: {field} from {what} has shape {list(value.shape)}{declared}; it "
                f"must be {expected}"
            )
        if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool) or (
            jnp.issubdtype(value.dtype, jnp.complexfloating)
        ):
            raise ConfigError(
                f"task {name}: {field} from {what} has dtype {value.dtype}; give float32"
            )


def _read_fields(state: base.EnvState) -> dict[str, Any]:
    """The fields that callers read, those without a value left out."""
    fields = vars(state)
    return {k: v for k, v in fields.items() if k != "physics" and v is not None}


def _template(first: base.EnvState) -> base.EnvState:
    """Shapes of all states of the task, without weak types."""
    strong = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), first)
    read = {k: jax.ShapeDtypeStruct(v.shape, jnp.float32) for k, v in _read_fields(strong).items()}
    template: base.EnvState = strong.replace(**read)
    return template


def _same_kinds(*states: base.EnvState) -> bool:
    kinds = [
        [(x.dtype, getattr(x, "weak_type", False)) for x in jax.tree.leaves(state)]
        for state in states
    ]
    return all(kind == kinds[0] for kind in kinds)


def _check_never_terminates(
    name: str, environment: base.Environment, key: Any, state: Any, action: Any
) -> None:
    """Refuses `can_terminate = False` beside a termination that depends on anything."""
    functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "reset": (lambda k: environment.reset(k).termination, (key,)),
        "step": (lambda s, a: environment.step(s, a).termination, (state, action)),
    }
    for what, (function, arguments) in functions.items():
        if not _is_zero(function, arguments):
            raise ConfigError(
                f"task {name} says can_terminate = False, but the termination from {what} is not "
                "the constant 0; say can_terminate = True, or return jnp.zeros(())"
            )


def _is_zero(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether the value is 0 whatever the arguments, a termination among them being 0."""
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True])
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(arguments)]
    handed_on = [str(path[-1]) == ".termination" and len(path) == 2 for path in paths]
    if any(is_used and not on for is_used, on in zip(used, handed_on, strict=True)):
        return False
    inputs = [jnp.zeros(()) for _ in jaxpr.invars]
    (value,) = jax.core.eval_jaxpr(jaxpr, closed.consts, *inputs)
    return bool(value == 0.0)
