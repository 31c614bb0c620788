"""Names of all tasks, and how a name with options becomes an environment.

A task is named `suite/Name?key=value&key=value`, for example `dmc/CartpoleSwingup` or
`brax/ant?backend=generalized&num_envs=16`. The tables are static, so that a wrong name is refused
without importing JAX or a simulator; a test holds them against the libraries.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3po_jax import config

if TYPE_CHECKING:
    from m3po_jax.envs import base, multitask

OptionValue = str | int | float

DMC_NAMES = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidRun",
    "HumanoidStand",
    "HumanoidWalk",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)
BRAX_NAMES = (
    "ant",
    "fast",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "swimmer",
    "walker2d",
)
TOY_NAMES = ("LinearQuadratic", "PointReachA", "PointReachB", "TerminatingPole")

BRAX_BACKENDS = ("spring", "generalized", "positional", "mjx")
DMC_IMPLS = ("jax", "warp")
# Brax's test environment has no physics and its swimmer has drag, which one backend models.
_BRAX_BACKENDS_OF = {"fast": (), "swimmer": ("generalized",)}


@dataclasses.dataclass(frozen=True)
class TaskRequest:
    """A parsed task name.

    Attributes:
        suite: `dmc`, `brax` or `toy`.
        env_name: Name in the suite.
        options: Options that the name carries, checked and typed.
    """

    suite: str
    env_name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name without options, for example `dmc/CartpoleSwingup`."""
        return f"{self.suite}/{self.env_name}"


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
}
_NAMES = {"dmc": DMC_NAMES, "brax": BRAX_NAMES, "toy": TOY_NAMES}


def task_names() -> tuple[str, ...]:
    """Returns all task names, without options."""
    return tuple(f"{suite}/{name}" for suite, names in _NAMES.items() for name in names)


def parse_task(name: str) -> TaskRequest:
    """Parses a task name; imports no simulator.

    Args:
        name: `suite/Name?key=value&key=value`. Options of every task: `num_envs`,
            `action_repeat`, `episode_length` (control steps), `discount`, `distractors` (irrelevant
            observation dims to append); of Brax also `backend`, of DM Control also `impl`.

    Returns:
        The request.

    Raises:
        ValueError: If suite, name, option or value is not known; names the nearest choices.
    """
    base_name, _, query = name.partition("?")
    suite, slash, env_name = base_name.partition("/")
    if not slash or suite not in _NAMES or env_name not in _NAMES[suite]:
        raise ValueError(f"unknown task {base_name!r}; {_nearest(base_name, task_names())}")
    options: dict[str, OptionValue] = {}
    if "?" in name:
        for part in query.split("&"):
            key, equals, text = part.partition("=")
            if not equals:
                raise ValueError(f"option {part!r} of {name!r} is not of the form key=value")
            if key in options:
                raise ValueError(f"option {key!r} of {name!r} comes more than once")
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
            raise ValueError(f"task {name} comes more than once")
    return requests


def _option_value(suite: str, env_name: str, key: str, text: str) -> OptionValue:
    """Returns the checked value of one option."""
    name = f"{suite}/{env_name}"
    choices = _choices(suite, env_name)
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
    if suite == "dmc":
        return {"impl": DMC_IMPLS}
    backends = _BRAX_BACKENDS_OF.get(env_name, BRAX_BACKENDS) if suite == "brax" else ()
    return {"backend": backends} if backends else {}


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
        ImportError: If the simulator is not installed.
    """
    defaults = {key: values[0] for key, values in _choices(request.suite, request.env_name).items()}
    if request.suite == "dmc":
        from m3po_jax.envs import playground_adapter

        impl = request.options.get("impl", defaults["impl"])
        return playground_adapter.PlaygroundEnvironment(request.env_name, impl=impl)
    if request.suite == "brax":
        from m3po_jax.envs import brax_adapter

        backend = request.options.get("backend", defaults.get("backend"))
        return brax_adapter.BraxEnvironment(request.env_name, backend=backend)
    from m3po_jax.envs import toy

    return toy.make(request.env_name)


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
                action_repeat=request.options.get("action_repeat", env_cfg.action_repeat),
                episode_length=request.options.get("episode_length"),
                discount=request.options.get("discount"),
                distractors=request.options.get("distractors", 0),
            )
            for request in requests
        ]
    )
