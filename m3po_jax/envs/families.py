"""Families: many variations of one body, each of which is a task of the agent.

`dmc/CartpoleSwingup?family=pole_length:0.6..1.4,gear:0.5..1.5&size=32` names 32 of them. Numbers
are factors on what the body has in the library. The name of a variation says its numbers, as
`dmc/CartpoleSwingup#pole_length=0.8134&gear=1.207`. Nothing here imports JAX or a simulator.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from m3po_jax.config import ConfigError, nearest
from m3po_jax.envs.bodies import BODIES, Parameter

DEFAULT_SIZE = 32
CONTEXTS = ("hidden", "given")
OPTIONS = ("family", "size", "context")
# How far beyond a range held-out variations lie, as a share of its width.
BEYOND = 0.2
# Draws per variation until ranges count as too narrow.
_TRIES = 1000
# Streams of a family's draws: the variations that training has, and those that it never sees.
TRAINED, INSIDE, OUTSIDE = "trained", "inside", "outside"


class Span(NamedTuple):
    """A parameter with its range of factors."""

    parameter: str
    low: float
    high: float


class Variation(NamedTuple):
    """One variation of a family.

    Attributes:
        name: Its name as a task, which says the factors.
        factors: By the parameter.
    """

    name: str
    factors: dict[str, float]


def split_names(text: str) -> list[str]:
    """Splits `NAME,NAME` at the commas between tasks, not at those within a family's ranges."""
    return re.split(r",(?!\w+:[^,?&:]*\.\.)", text)


def parse_option(task: str, known: Mapping[str, Parameter], key: str, text: str) -> Any:
    """The value of one of `OPTIONS`.

    Args:
        task: Name of the task, for messages.
        known: What its body can vary.
        key: Name of the option.
        text: Its value.

    Raises:
        ValueError: It is none; the text says why.
    """
    if key == "size":
        if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
            raise ValueError(f"{task}: size={text!r} must be a positive whole number of variations")
        return int(text)
    if key == "context":
        if text not in CONTEXTS:
            raise ValueError(f"{task}: context={text!r} is not known; {nearest(text, CONTEXTS)}")
        return text
    if not known:
        raise ValueError(
            f"{task} has no families; tasks of dmc with these bodies have: {', '.join(BODIES)}"
        )
    spans = tuple(_span(task, known, part) for part in text.split(","))
    names = [span.parameter for span in spans]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{task}: family lists {name} more than once")
    return spans


def _span(task: str, known: Mapping[str, Parameter], part: str) -> Span:
    form = re.fullmatch(r"([^:]*):(.+?)\.\.(.+)", part)
    if form is None:
        raise ValueError(
            f"{task}: family={part!r} is not of the form parameter:low..high, as gear:0.5..1.5"
        )
    name = form[1]
    if name not in known:
        raise ValueError(f"{task}: its body has no parameter {name!r}; {nearest(name, known)}")
    try:
        low, high = float(form[2]), float(form[3])
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{task}: family={part!r} must have two numbers, as {name}:0.5..1.5")
    if low >= high:
        what = "is empty" if low == high else "is reversed"
        raise ValueError(f"{task}: the range of family={part!r} {what}; the lower end comes first")
    problem = _problem(known[name], low)
    if problem:
        raise ValueError(f"{task}: family={part!r} begins at {low:g}, and {problem}")
    return Span(name, low, high)


def _problem(parameter: Parameter, factor: float) -> str:
    """Why a factor cannot be, or nothing."""
    if factor < 0.0:
        return "factors on what the body has are not negative"
    return f"{parameter.at_zero}; begin above 0" if factor == 0.0 and parameter.at_zero else ""


def check_options(task: str, options: Mapping[str, Any]) -> None:
    """Refuses options of a family where there is none, and what cannot be together with one.

    Raises:
        ValueError: Names the option.
    """
    if "family" in options and options.get("impl") == "warp":
        raise ValueError(
            f"{task}: a family needs physics whose model differs between rows, and impl=warp has "
            "one for all; choose impl=jax or impl=c"
        )
    for key in OPTIONS[1:]:
        if key in options and "family" not in options:
            raise ValueError(f"{task}: {key} needs a family, as ?family=gear:0.5..1.5&{key}=...")


def size_of(options: Mapping[str, Any]) -> int:
    """How many tasks a task's name stands for: the variations of a family, else one."""
    return int(options.get("size", DEFAULT_SIZE)) if "family" in options else 1


def with_size(name: str, size: int) -> str:
    """A family's name as it is listed, with another size."""
    base, _, query = name.partition("?")
    options = [part for part in query.split("&") if not part.startswith("size=")]
    return f"{base}?{'&'.join([*options, f'size={size}'])}"


def sample(
    task: str,
    spans: Sequence[Span],
    *,
    size: int,
    seed: int,
    stream: str = TRAINED,
    without: Sequence[str] = (),
) -> tuple[Variation, ...]:
    """Draws variations, each factor uniformly and on its own.

    Args:
        task: Name of the task without options.
        spans: The ranges.
        size: Variations to draw.
        seed: Seed of the run; the same seed, task and stream give the same.
        stream: `TRAINED` and `INSIDE` draw within the ranges; `OUTSIDE` within ranges that are
            wider by `BEYOND` at both ends, with a factor or more outside of its own range.
        without: Names that are not drawn again.

    Raises:
        ConfigError: The ranges are too narrow for so many that differ.
    """
    rng = random.Random(f"{seed} {task} {stream}")
    found: list[Variation] = []
    names = set(without)
    for _ in range(_TRIES * size):
        if len(found) == size:
            return tuple(found)
        ends = map(_wider, spans) if stream == OUTSIDE else spans
        drawn = {s.parameter: round(rng.uniform(s.low, s.high), 6) for s in ends}
        outside = any(not s.low <= drawn[s.parameter] <= s.high for s in spans)
        variation = Variation(name_of(task, drawn), drawn)
        if outside == (stream == OUTSIDE) and variation.name not in names:
            found.append(variation)
            names.add(variation.name)
    raise ConfigError(
        f"{task}: the ranges of its family are too narrow for {size} variations that differ in six "
        "decimals; widen one, or lower size"
    )


def _wider(span: Span) -> Span:
    """The range with what lies beyond it; what is positive stays so."""
    margin = BEYOND * (span.high - span.low)
    return Span(span.parameter, max(span.low - margin, span.low / 2), span.high + margin)


def name_of(task: str, factors: Mapping[str, float]) -> str:
    """The name of a variation."""
    return f"{task}#" + "&".join(f"{name}={factor!r}" for name, factor in factors.items())


def parse_variation(name: str, known: Mapping[str, Parameter]) -> Variation:
    """A variation by its name.

    Raises:
        ValueError: It is not a name as `name_of` gives it, or not possible.
    """
    factors: dict[str, float] = {}
    for part in name.partition("#")[2].split("&"):
        parameter, _, text = part.partition("=")
        try:
            factors[parameter] = float(text)
        except ValueError:
            raise ValueError(f"{part!r} is not of the form parameter=factor") from None
        if parameter not in known:
            raise ValueError(f"the body has no parameter {parameter!r}")
        if not math.isfinite(factors[parameter]) or _problem(known[parameter], factors[parameter]):
            raise ValueError(f"{part!r} is not possible")
    return Variation(name, factors)


def told(
    families: Mapping[str, Sequence[Span]], task: str, variation: Variation
) -> tuple[float, ...]:
    """What the agent is told of a variation.

    Args:
        families: The ranges of all families of the run whose context is given, by their tasks.
        task: Name of one of these tasks, or of a family whose context is not given.
        variation: One of its variations.

    Returns:
        Which of the families it is, one-hot, and each factor with its range as [-1, 1]; as long for
        all. Empty where the context is not given.
    """
    if task not in families:
        return ()
    spans = families[task]
    factors = [
        (2.0 * variation.factors[s.parameter] - s.low - s.high) / (s.high - s.low) for s in spans
    ]
    padding = max(map(len, families.values())) - len(factors)
    return (*(float(name == task) for name in families), *factors, *(0.0,) * padding)


def resolve(
    task: str,
    options: Mapping[str, Any],
    listed: Iterable[str],
    known: Mapping[str, Parameter],
    *,
    seed: int,
) -> tuple[Variation, ...]:
    """The variations of a task; none where it is no family.

    Args:
        task: Its name without options.
        options: Its options.
        listed: Names of variations, of this family and of others; drawn if it has none there.
        known: What its body can vary.
        seed: Seed of the draw.

    Raises:
        ConfigError: Those listed are not what the family says.
    """
    if "family" not in options:
        return ()
    spans, size = options["family"], size_of(options)
    own = [name for name in listed if name.partition("#")[0] == task]
    if not own:
        return sample(task, spans, size=size, seed=seed)
    try:
        found = tuple(parse_variation(name, known) for name in own)
        asked = {span.parameter for span in spans}
        wrong = next((v.name for v in found if set(v.factors) != asked), None)
        if wrong is not None:
            raise ValueError(f"{wrong} does not vary {' and '.join(sorted(asked))}")
        if len(set(own)) != len(own) or len(own) != size:
            raise ValueError(f"{len(set(own))} different ones are listed and size={size}")
    except ValueError as error:
        raise ConfigError(
            f"config.variations of {task}: {error}; leave it empty, and they are drawn"
        ) from error
    return found
