"""What families can vary of the bodies of the DM Control suite, as data; imports no simulator."""

from collections.abc import Mapping
from typing import NamedTuple

# What a factor acts on: kind of element, attribute, names of the elements or all.
Edit = tuple[str, str, tuple[str, ...]]


class Parameter(NamedTuple):
    """What a family can vary of a body.

    Attributes:
        edits: What the factor acts on.
        at_zero: What a factor of 0 would do; empty where 0 is as good as any other.
    """

    edits: tuple[Edit, ...]
    at_zero: str = ""


def _all_of(element: str, attribute: str, at_zero: str = "") -> Parameter:
    return Parameter(((element, attribute, ()),), at_zero)


def _mass_of(*geoms: str) -> Parameter:
    return Parameter((("geom", "mass", geoms),), "a mass of 0 breaks the physics")


def _length(*edits: Edit) -> Parameter:
    return Parameter(edits, "a length of 0 breaks the physics")


_GEAR = _all_of("actuator", "gear", "without gear the agent moves nothing")
_DAMPING = _all_of("joint", "damping")
_GRAVITY = _all_of("option", "gravity")
_FRICTION = _all_of("geom", "friction", "without friction contacts compile to other equations")
_LIMBS = {
    "mass": _mass_of(),
    "gear": _GEAR,
    "damping": _DAMPING,
    "gravity": _GRAVITY,
    "friction": _FRICTION,
}
# By the body's name, with which the names of its tasks begin. What has no effect on a body (as
# contacts, where they are off) or is a constant of a library's reward is not there.
BODIES: dict[str, dict[str, Parameter]] = {
    "Acrobot": {
        "upper_mass": _mass_of("upper_arm"),
        "lower_mass": _mass_of("lower_arm"),
        "gear": _GEAR,
        "damping": _DAMPING,
        "gravity": _GRAVITY,
    },
    "BallInCup": {
        "string_length": _length(("tendon", "range", ("string",))),
        "ball_mass": _mass_of("ball"),
        "gear": _GEAR,
        "damping": _DAMPING,
        "gravity": _GRAVITY,
    },
    "Cartpole": {
        "pole_length": _length(("geom", "fromto", ("pole_1",))),
        "pole_mass": _mass_of("pole_1"),
        "cart_mass": _mass_of("cart"),
        "gear": _GEAR,
        "damping": _DAMPING,
        "gravity": _GRAVITY,
    },
    "Cheetah": _LIMBS,
    "Finger": {
        "gear": _GEAR,
        "finger_damping": Parameter((("joint", "damping", ("proximal", "distal")),)),
        "spinner_mass": _mass_of("cap1", "cap2"),
        "spinner_friction": Parameter(
            (("joint", "frictionloss", ("hinge",)),),
            "without friction loss it compiles to another program",
        ),
    },
    "Hopper": _LIMBS,
    "Pendulum": {
        "length": _length(("geom", "fromto", ("pole",)), ("geom", "pos", ("mass",))),
        "mass": _mass_of("mass"),
        "gear": _GEAR,
        "damping": _DAMPING,
        "gravity": _GRAVITY,
    },
    "PointMass": {"mass": _mass_of("pointmass"), "gear": _GEAR, "damping": _DAMPING},
    "Reacher": {
        "arm_length": _length(("geom", "fromto", ("arm",)), ("body", "pos", ("hand",))),
        "hand_length": _length(("geom", "fromto", ("hand",)), ("body", "pos", ("finger",))),
        "mass": _mass_of("arm", "hand", "finger"),
        "gear": _GEAR,
        "damping": _DAMPING,
    },
    "Walker": _LIMBS,
}


def parameters(suite: str, env_name: str) -> Mapping[str, Parameter]:
    """What a task's body can vary; empty where no families are known."""
    if suite != "dmc":
        return {}
    return next((of for body, of in BODIES.items() if env_name.startswith(body)), {})
