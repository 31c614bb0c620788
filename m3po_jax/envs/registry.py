"""Names of all tasks, and how a name with options becomes an environment.

A task is named `suite/Name?key=value&key=value`, for example `dmc/CartpoleSwingup` or
`brax/ant?backend=generalized&num_envs=16`; or `package.module:Name?...`, a class or function of the
user's that makes an environment; or `Name?...`, one that an installed package gave that name. Names
are checked without importing JAX or a simulator.
"""

import dataclasses
import difflib
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3po_jax import config
from m3po_jax.envs import catalog, entry_points
from m3po_jax.envs.catalog import CATALOG, task_names

if TYPE_CHECKING:
    from m3po_jax.envs import base, multitask

OptionValue = str | int | float

BRAX_BACKENDS = ("spring", "generalized", "positional", "mjx")
PLAYGROUND_IMPLS = ("jax", "warp")
DMC_IMPLS = (*PLAYGROUND_IMPLS, "c")
# Suite of tasks named by a dotted path.
PYTHON = "python"
# Suite of all that Gymnasium knows.
GYM = "gym"
# Suite of tasks that installed packages name.
INSTALLED = "installed"
# Brax's test environment has no physics and its swimmer has drag, which one backend models.
_BRAX_BACKENDS_OF = {"fast": (), "swimmer": ("generalized",)}


@dataclasses.dataclass(frozen=True)
class TaskRequest:
    """A parsed task name.

    Attributes:
        suite: A suite of the catalog, `gym`, `python` for a user's own task, or `installed` for one
            of an installed package.
        env_name: Name in the suite, or `package.module:Name`.
        options: Options that the name carries, checked and typed.
    """

    suite: str
    env_name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name without options, for example `dmc/CartpoleSwingup`."""
        own = self.suite in (PYTHON, INSTALLED)
        return self.env_name if own else f"{self.suite}/{self.env_name}"


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _discount(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise ValueError
    return value


_COMMON_OPTIONS: dict[str, tuple[Callable[[str], OptionValue], str]] = {
    "num_envs": (_positive_int, "a positive whole number"),
    "action_repeat": (_positive_int, "a positive whole number"),
    "episode_length": (_positive_int, "a positive whole number (control steps)"),
    "discount": (_discount, "a number between 0 and 1, both excluded"),
    "distractors": (_positive_int, "a positive whole number (observation dims)"),
    "replay_weight": (_positive_int, "a positive whole number"),
}
# Of tasks whose observation can be a dictionary.
_OBSERVATION = "observation"


def parse_task(name: str) -> TaskRequest:
    """Parses a task name; imports no simulator.

    Args:
        name: `suite/Name?key=value&key=value`. Options of every task: `num_envs`,
            `action_repeat`, `episode_length` (control steps), `discount`, `distractors` (irrelevant
            observation dims to append), `replay_weight` (windows in a batch for one of a task of
            weight 1); of Brax also `backend`, of DM Control and Playground also `impl`, of
            Playground and a user's own also `observation` (key in a dictionary).

    Returns:
        The request.

    Raises:
        ValueError: If suite, name, option or value is not known; names the nearest choices.
    """
    base_name, _, query = name.partition("?")
    suite, _, env_name = base_name.partition("/")
    if suite == GYM:
        check_available(TaskRequest(GYM, env_name))
    elif ":" in base_name:
        suite, env_name = PYTHON, base_name
        _check_importable(base_name)
    elif env_name not in CATALOG.get(suite, {}):
        suite, env_name = INSTALLED, base_name
        _check_installed(base_name)
    options: dict[str, OptionValue] = {}
    if "?" in name:
        for part in query.split("&"):
            key, equals, text = part.partition("=")
            if not equals:
                raise ValueError(f"option {part!r} of {name!r} is not of the form key=value")
            if key in options:
                raise ValueError(f"option {key!r} of {name!r} is listed more than once")
            options[key] = _option_value(suite, env_name, key, text)
    return TaskRequest(suite, env_name, options)


def parse_tasks(names: Sequence[str]) -> tuple[TaskRequest, ...]:
    """Parses the task names of one run; imports no simulator.

    Args:
        names: Task names as for `parse_task`.

    Returns:
        The requests, in order.

    Raises:
        ValueError: If a name is wrong, if there is none, or if a task comes twice, whatever its
            options: the name seeds the task's random streams.
    """
    if isinstance(names, str):
        raise ValueError(f"tasks must be a sequence of names, not the string {names!r}")
    if not names:
        raise ValueError(f"no task is given; {_nearest('', task_names())}")
    requests = tuple(parse_task(name) for name in names)
    base_names = [request.name for request in requests]
    for name in base_names:
        if base_names.count(name) > 1:
            raise ValueError(f"task {name} is listed more than once")
    return requests


def task_index(names: Sequence[str], task: str) -> int:
    """Position of a task among the tasks of a run.

    Args:
        names: Task names as for `parse_task`.
        task: A name without options.

    Raises:
        ValueError: It is not one of them.
    """
    known = [request.name for request in parse_tasks(names)]
    if task not in known:
        raise ValueError(f"the run has no task {task!r}; {_nearest(task, known)}")
    return known.index(task)


def _option_value(suite: str, env_name: str, key: str, text: str) -> OptionValue:
    """Returns the checked value of one option."""
    name = TaskRequest(suite, env_name).name
    choices = _choices(suite, env_name)
    if key == _OBSERVATION and suite in (PYTHON, INSTALLED, "playground"):
        return text
    if key in choices:
        if text not in choices[key]:
            raise ValueError(f"{name}: {key}={text!r} is not known; {_nearest(text, choices[key])}")
        return text
    if key not in _COMMON_OPTIONS:
        known = (*_COMMON_OPTIONS, *choices)
        raise ValueError(f"{name} has no option {key!r}; {_nearest(key, known)}")
    parse, meaning = _COMMON_OPTIONS[key]
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"{name}: {key}={text!r} must be {meaning}") from None


def _choices(suite: str, env_name: str) -> dict[str, tuple[str, ...]]:
    """Returns the choices of the options that only this task has; the first one is the default."""
    if suite in ("dmc", "playground"):
        return {"impl": DMC_IMPLS if suite == "dmc" else PLAYGROUND_IMPLS}
    backends = _BRAX_BACKENDS_OF.get(env_name, BRAX_BACKENDS) if suite == "brax" else ()
    return {"backend": backends} if backends else {}


def physics_of(suite: str, env_name: str) -> tuple[str, ...]:
    """Returns the choices of a task's physics, the default first; empty where there is one only."""
    return next(iter(_choices(suite, env_name).values()), ())


def _check_importable(target: str) -> None:
    """Refuses `package.module:Name` where there is no such module; imports its packages only."""
    module, _, attribute = target.partition(":")
    if not (all(part.isidentifier() for part in module.split(".")) and attribute.isidentifier()):
        raise ValueError(f"task {target!r} is not of the form package.module:Name")
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ValueError(
            f"task {target!r}: there is no module {module!r}; put the folder that holds it on "
            "PYTHONPATH, or install its package"
        )


def _check_installed(name: str) -> None:
    """Refuses a name that no installed package gives to a task, or that of a broken one."""
    tasks = entry_points.entry_point_tasks()
    if name not in tasks:
        known = (*task_names(), *tasks)
        raise ValueError(f"unknown task {name!r}; {_nearest(name, known)}")
    if tasks[name].problem is not None:
        raise ValueError(f"{tasks[name].origin}: {tasks[name].problem}")


def action_repeat(request: TaskRequest, env_cfg: config.EnvConfig) -> int:
    """Control steps per agent step; imports no simulator.

    The task's own option goes before `env.action_repeat`, and that, unless it is 0, before the
    whole number of control steps that is nearest to `env.agent_step` seconds. A task whose control
    step is not known beforehand then has one.
    """
    given = int(request.options.get("action_repeat", env_cfg.action_repeat))
    if given:
        return given
    backend = request.options.get("backend")
    seconds = catalog.control_step(request.suite, request.env_name, backend)
    return 1 if seconds is None else max(1, math.floor(env_cfg.agent_step / seconds + 0.5))


def _nearest(text: str, choices: Iterable[str]) -> str:
    """Returns the end of an error message that names the nearest choices."""
    known = tuple(choices)
    folded = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(text.lower(), folded, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(folded[match] for match in close)}?"
    shown = known if len(known) <= 8 else (*known[:3], "...", *known[-3:])
    return f"known are {', '.join(shown)}"


def make_env(request: TaskRequest) -> "base.Environment":
    """Creates one environment: one control step per `step`, without action repeat.

    Args:
        request: Parsed task name.

    Returns:
        The environment.

    Raises:
        ConfigError: If it cannot be made here; says why and what to do.
    """
    check_available(request)
    defaults = {key: values[0] for key, values in _choices(request.suite, request.env_name).items()}
    options = {**defaults, **request.options}
    name, key = request.env_name, options.get(_OBSERVATION)
    if request.suite in (PYTHON, INSTALLED):
        from m3po_jax.envs import user_tasks

        if request.suite == INSTALLED:
            task = entry_points.entry_point_tasks()[name]
            return user_tasks.make_installed(task, observation_key=key)
        return user_tasks.make(name, observation_key=key)
    if request.suite in ("dmc", "playground"):
        from m3po_jax.envs import playground_adapter

        if request.suite == "dmc":
            return playground_adapter.make_dmc(name, impl=options["impl"])
        return playground_adapter.make_robot(name, impl=options["impl"], observation_key=key)
    if request.suite == "brax":
        from m3po_jax.envs import brax_adapter

        return brax_adapter.make(name, backend=options.get("backend"))
    if request.suite == "metaworld":
        from m3po_jax.envs.metaworld import environment

        return environment.MetaWorldEnvironment(name)
    if request.suite == GYM:
        from m3po_jax.envs import gym_adapter

        return gym_adapter.GymEnvironment(name)
    from m3po_jax.envs import toy

    return toy.make(name)


def check_available(request: TaskRequest) -> None:
    """Refuses a task whose suite is not there; imports no simulator.

    Raises:
        ConfigError: Says why and what to do.
    """
    reason = catalog.unavailable(request.suite)
    if reason is not None:
        raise config.ConfigError(f"{request.name}: {reason}")


def make(tasks: Sequence[str], env_cfg: config.EnvConfig) -> "multitask.MultiTaskEnv":
    """Creates the multi-task environment.

    Args:
        tasks: Task names; their options go before `env_cfg`.
        env_cfg: Settings of the tasks that have no options.

    Returns:
        The environment, tasks in the given order.

    Raises:
        ValueError: If a name is wrong, comes twice (whatever its options) or is not there at all.
    """
    requests = parse_tasks(tasks)
    from m3po_jax.envs import multitask, task

    return multitask.MultiTaskEnv(
        [
            task.as_task(
                name=request.name,
                environment=make_env(request),
                num_envs=request.options.get("num_envs", env_cfg.num_envs),
                action_repeat=action_repeat(request, env_cfg),
                episode_length=request.options.get("episode_length"),
                discount=request.options.get("discount"),
                distractors=request.options.get("distractors", 0),
                replay_weight=request.options.get("replay_weight", 1),
            )
            for request in requests
        ]
    )
