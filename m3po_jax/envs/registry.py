"""Names of all tasks, and how a name with options becomes an environment.

A task is named `suite/Name?key=value&key=value`, for example `dmc/CartpoleSwingup` or
`brax/ant?backend=generalized&num_envs=16`; or `package.module:Name?...`, a class or function of the
user's that makes an environment; or `Name?...`, one that an installed package gave that name. Names
are checked without importing JAX or a simulator.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3po_jax import config
from m3po_jax.envs import bodies, catalog, entry_points, families, task_options
from m3po_jax.envs.catalog import CATALOG, task_names

if TYPE_CHECKING:
    from m3po_jax.envs import base, multitask


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
        own = self.suite in (task_options.PYTHON, task_options.INSTALLED)
        return self.env_name if own else f"{self.suite}/{self.env_name}"


def parse_task(name: str) -> TaskRequest:
    """Parses a task name; imports no simulator.

    Args:
        name: `suite/Name?key=value&key=value`. Options of every task: `num_envs`,
            `action_repeat`, `episode_length` (control steps), `discount`, `distractors` (irrelevant
            observation dims to append), `replay_weight` (windows in a batch for one of a task of
            weight 1); of Brax also `backend`, of DM Control and Playground also `impl`, of
            Playground and a user's own also `observation` (key in a dictionary), of DM Control also
            those of a family, see `families`.

    Returns:
        The request.

    Raises:
        ValueError: If suite, name, option or value is not known; names the nearest choices.
    """
    base_name, _, query = name.partition("?")
    suite, _, env_name = base_name.partition("/")
    if suite == task_options.GYM:
        check_available(TaskRequest(task_options.GYM, env_name))
    elif ":" in base_name:
        suite, env_name = task_options.PYTHON, base_name
        _check_importable(base_name)
    elif env_name not in CATALOG.get(suite, {}):
        suite, env_name = task_options.INSTALLED, base_name
        _check_installed(base_name)
    options: dict[str, Any] = {}
    own_name = TaskRequest(suite, env_name).name
    if "?" in name:
        for part in query.split("&"):
            key, equals, text = part.partition("=")
            if not equals:
                raise ValueError(f"option {part!r} of {name!r} is not of the form key=value")
            if key in options:
                raise ValueError(f"option {key!r} of {name!r} is listed more than once")
            options[key] = task_options.parse(own_name, suite, env_name, key, text)
    families.check_options(own_name, options)
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
        raise ValueError(f"no task is given; {task_options.nearest('', task_names())}")
    requests = tuple(parse_task(name) for name in names)
    base_names = [request.name for request in requests]
    for name in base_names:
        if base_names.count(name) > 1:
            raise ValueError(f"task {name} is listed more than once")
    return requests


def task_index(names: Sequence[str], task: str) -> int:
    """Position of a task among those of a run, a family's being that of its first variation.

    Args:
        names: Task names as for `parse_task`.
        task: A name without options.

    Raises:
        ValueError: It is not one of them.
    """
    requests = parse_tasks(names)
    known = [request.name for request in requests]
    if task not in known:
        raise ValueError(f"the run has no task {task!r}; {task_options.nearest(task, known)}")
    before = requests[: known.index(task)]
    return sum(families.size_of(request.options) for request in before)


def variations_of(
    requests: Sequence[TaskRequest], listed: Sequence[str], *, seed: int
) -> tuple[tuple[families.Variation, ...], ...]:
    """The variations of each task of a run, none of one that is no family.

    Args:
        requests: The parsed tasks.
        listed: Names of variations as in `config.variations`; drawn for a family without any.
        seed: Seed of the draw.

    Raises:
        ConfigError: Those listed do not fit.
    """
    names = {request.name for request in requests if "family" in request.options}
    for name in listed:
        if name.partition("#")[0] not in names:
            raise config.setting_error("variations", name, "is of no family of the run; remove it")
    return tuple(
        families.resolve(
            request.name,
            request.options,
            listed,
            bodies.parameters(request.suite, request.env_name),
            seed=seed,
        )
        for request in requests
    )


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
            "task_options.PYTHONPATH, or install its package"
        )


def _check_installed(name: str) -> None:
    """Refuses a name that no installed package gives to a task, or that of a broken one."""
    tasks = entry_points.entry_point_tasks()
    if name not in tasks:
        known = (*task_names(), *tasks)
        raise ValueError(f"unknown task {name!r}; {task_options.nearest(name, known)}")
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


def make_env(
    request: TaskRequest, variations: Sequence[families.Variation] = ()
) -> "base.Environment":
    """Creates one environment: one control step per `step`, without action repeat.

    Args:
        request: Parsed task name.
        variations: Those of a family.

    Returns:
        The environment.

    Raises:
        ConfigError: If it cannot be made here; says why and what to do.
    """
    check_available(request)
    defaults = {
        key: values[0]
        for key, values in task_options.choices_of(request.suite, request.env_name).items()
    }
    options = {**defaults, **request.options}
    name, key = request.env_name, options.get(task_options.OBSERVATION)
    if request.suite in (task_options.PYTHON, task_options.INSTALLED):
        from m3po_jax.envs import user_tasks

        if request.suite == task_options.INSTALLED:
            task = entry_points.entry_point_tasks()[name]
            return user_tasks.make_installed(task, observation_key=key)
        return user_tasks.make(name, observation_key=key)
    if request.suite in ("dmc", "playground"):
        from m3po_jax.envs import playground_adapter

        if request.suite == "dmc":
            return playground_adapter.make_dmc(name, impl=options["impl"], variations=variations)
        return playground_adapter.make_robot(name, impl=options["impl"], observation_key=key)
    if request.suite == "brax":
        from m3po_jax.envs import brax_adapter

        return brax_adapter.make(name, backend=options.get("backend"))
    if request.suite == "metaworld":
        from m3po_jax.envs.metaworld import environment

        return environment.MetaWorldEnvironment(name)
    if request.suite == task_options.GYM:
        from m3po_jax.envs import gym_adapter

        return gym_adapter.GymEnvironment(name)
    from m3po_jax.envs import toy

    return toy.make(name)


def names_of(cfg: config.Config) -> list[str]:
    """Names of the agent's tasks, a family's variations among them."""
    requests = parse_tasks(cfg.tasks)
    resolved = variations_of(requests, cfg.variations, seed=cfg.seed)
    return [
        name
        for request, variations in zip(requests, resolved, strict=True)
        for name in [v.name for v in variations] or [request.name]
    ]


def settled(cfg: config.Config, begun: config.Config | None) -> config.Config:
    """The settings with the variations of all families.

    Args:
        cfg: The settings.
        begun: Those of the run that is resumed, whose variations it keeps.
    """
    if not cfg.variations and begun is not None and begun.tasks == cfg.tasks:
        return dataclasses.replace(cfg, variations=begun.variations)
    requests = parse_tasks(cfg.tasks)
    resolved = variations_of(requests, cfg.variations, seed=cfg.seed)
    names = tuple(v.name for variations in resolved for v in variations)
    return dataclasses.replace(cfg, variations=names)


def check_available(request: TaskRequest) -> None:
    """Refuses a task whose suite is not there; imports no simulator.

    Raises:
        ConfigError: Says why and what to do.
    """
    reason = catalog.unavailable(request.suite)
    if reason is not None:
        raise config.ConfigError(f"{request.name}: {reason}")


def make(
    tasks: Sequence[str],
    env_cfg: config.EnvConfig,
    *,
    variations: Sequence[str] = (),
    seed: int = 0,
) -> "multitask.MultiTaskEnv":
    """Creates the multi-task environment.

    Args:
        tasks: Task names; their options go before `env_cfg`.
        env_cfg: Settings of the tasks that have no options.
        variations: Names of families' variations; drawn by `seed` if not given.
        seed: See there.

    Returns:
        The environment, tasks in the given order.

    Raises:
        ValueError: If a name is wrong, comes twice (whatever its options) or is not there at all.
    """
    requests = parse_tasks(tasks)
    from m3po_jax.envs import multitask, task

    resolved = variations_of(requests, variations, seed=seed)
    told = {
        request.name: request.options["family"]
        for request in requests
        if request.options.get("context") == "given"
    }
    made = []
    for request, found in zip(requests, resolved, strict=True):
        one = task.as_task(
            name=request.name,
            environment=make_env(request, found),
            num_envs=request.options.get("num_envs", env_cfg.num_envs),
            action_repeat=action_repeat(request, env_cfg),
            episode_length=request.options.get("episode_length"),
            discount=request.options.get("discount"),
            distractors=request.options.get("distractors", 0),
            replay_weight=request.options.get("replay_weight", 1),
        )
        contexts = {v.name: families.told(told, request.name, v) for v in found}
        made.append(task.with_variations(one, contexts))
    return multitask.MultiTaskEnv(made)
