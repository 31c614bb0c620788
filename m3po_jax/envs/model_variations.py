"""Variations of a MuJoCo model: edited as a specification and compiled, so that all else follows.

Inertias, centres of mass, bounding sizes and the constants of the solver are derived by MuJoCo's
compiler from what a factor acts on.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx

from m3po_jax.config import ConfigError
from m3po_jax.envs.bodies import Edit, Parameter
from m3po_jax.envs.families import Variation

# Pictures on surfaces, which take most of the time to compile and which no physics reads.
_TEXTURE_SIZE = 2
# Relative difference of what is computed in another order.
_ROUNDING = 1e-9
_MASS_OF_ALL: Edit = ("geom", "mass", ())


def compile_all(
    environment: Any,
    variations: Sequence[Variation],
    known: Mapping[str, Parameter],
) -> list[mujoco.MjModel]:
    """The models of a family.

    Args:
        environment: Playground's, whose model they vary.
        variations: At least one.
        known: What the body can vary.

    Returns:
        One model for each, with the same sizes. What the library changes in its compiled model
        stays as it is there.

    Raises:
        ConfigError: A factor changes nothing, or what the library sets on its own.
    """
    assets, own = environment._model_assets, environment.mj_model
    with open(environment.xml_path, encoding="utf-8") as file:
        text = file.read()

    def compiled(factors: Mapping[str, float], sizes: Mapping[str, np.ndarray]) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_string(text, assets)
        for texture in spec.textures:
            texture.width = texture.height = _TEXTURE_SIZE
        for name, size in sizes.items():
            spec.geom(name).size = size
        # Set here and not by the compiler, which warns of that at every call.
        total, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
        for name, factor in factors.items():
            if total > 0.0 and _MASS_OF_ALL in known[name].edits:
                total *= factor
            else:
                _scale(spec, known[name], factor)
        model = spec.compile()
        if total > 0.0:
            mujoco.mj_setTotalmass(model, total)
            mujoco.mj_setConst(model, mujoco.MjData(model))
            # The one statistic that mj_setConst leaves as it was.
            model.stat.meaninertia = model.dof_M0.mean()
        return model

    # A target that the library resizes, before it compiles, has part in sums over all bodies.
    sizes = _other_sizes(own, compiled({}, {}))
    base = compiled({}, sizes)
    return [_merged(own, base, compiled(v.factors, sizes), v.name) for v in variations]


def _other_sizes(own: mujoco.MjModel, file: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Sizes of the geoms that have others in the library's model than in its file, by name."""
    differ = np.flatnonzero(np.any(own.geom_size != file.geom_size, axis=1))
    return {own.geom(k).name: own.geom_size[k].copy() for k in differ.tolist()}


def _scale(spec: mujoco.MjSpec, parameter: Parameter, factor: float) -> None:
    """Multiplies what a parameter acts on."""
    for kind, attribute, names in parameter.edits:
        if kind == "option":
            setattr(spec.option, attribute, np.asarray(getattr(spec.option, attribute)) * factor)
            continue
        for element in getattr(spec, {"body": "bodies"}.get(kind, f"{kind}s")):
            if names and element.name not in names:
                continue
            if attribute == "mass":
                # A geom has a mass of its own or, where that is NaN, one by its density.
                element.mass *= factor
                element.density *= factor
            elif attribute == "friction":
                element.friction = np.asarray(element.friction) * (factor, 1.0, 1.0)
            else:
                setattr(element, attribute, np.asarray(getattr(element, attribute)) * factor)


def _merged(
    own: mujoco.MjModel, base: mujoco.MjModel, varied: mujoco.MjModel, name: str
) -> mujoco.MjModel:
    """The library's model with what differs between two that were compiled here."""
    model = copy.copy(own)
    for target, before, after in (
        (model, base, varied),
        (model.opt, base.opt, varied.opt),
        (model.stat, base.stat, varied.stat),
    ):
        for field in _fields(before):
            was, now = np.asarray(getattr(before, field)), np.asarray(getattr(after, field))
            there = np.asarray(getattr(target, field))
            # What is only drawn may be of other sizes than in the library's model.
            differs = was != now if was.shape == now.shape else np.ones(1, bool)
            if not np.any(differs):
                continue
            if was.shape != now.shape or was.shape != there.shape:
                raise ConfigError(f"{name}: {field} gets another size, so it is another program")
            if not np.allclose(was[differs], there[differs], rtol=1e-9, atol=0.0):
                raise ConfigError(
                    f"{name}: the library sets {field} on its own; vary another parameter"
                )
            if there.ndim:
                getattr(target, field)[...] = np.where(differs, now, there)
            else:
                setattr(target, field, now.item())
    return model


def _fields(part: Any) -> list[str]:
    """Names of a model's numbers."""
    names = [name for name in dir(part) if not name.startswith("_")]
    return [name for name in names if isinstance(getattr(part, name), np.ndarray | float)]


class Varied(NamedTuple):
    """A model whose leaves differ between the variations of a family.

    Attributes:
        base: The library's, a pytree of concrete arrays with static parts.
        columns: Leaves `[size, ...]` of those that differ, by their place.
    """

    base: mjx.Model
    columns: dict[int, np.ndarray]

    def at(self, variation: jax.Array) -> mjx.Model:
        """The model of a variation `[]`; that of every row where it is mapped over rows."""
        leaves, structure = jax.tree.flatten(self.base)
        for place, column in self.columns.items():
            leaves[place] = jnp.asarray(column)[variation]
        model: mjx.Model = jax.tree.unflatten(structure, leaves)
        return model


def stack(base: mjx.Model, models: Sequence[mujoco.MjModel], names: Sequence[str]) -> Varied:
    """The models of a family as one of MJX.

    Args:
        base: The library's.
        models: From `compile_all`.
        names: Of the variations, for messages.

    Raises:
        ConfigError: The static parts of one differ, so that it would compile to another program.
    """
    columns: list[list[np.ndarray]] = []
    for model, name in zip(models, names, strict=True):
        put = mjx.put_model(model, impl=base.impl)
        if not model.nhfield:
            # Bounds of geoms against height fields, static, where there is no height field.
            bounds = base._impl.geom_rbound_hfield
            put = put.replace(_impl=put._impl.replace(geom_rbound_hfield=bounds))
        structures: list[Any] = [jax.tree.structure(put), jax.tree.structure(base)]
        if structures[0] != structures[1]:
            raise ConfigError(
                f"{name}: its factors cross what MJX decides as it compiles, so it is another "
                "program; narrow the range, or choose &impl=c"
            )
        columns.append([np.asarray(leaf) for leaf in jax.tree.leaves(put)])
    leaves = jax.tree.leaves(base)
    stacked = {k: np.stack(column) for k, column in enumerate(zip(*columns, strict=True))}
    same = {k: np.broadcast_to(np.asarray(leaves[k]), x.shape) for k, x in stacked.items()}
    differ = [k for k, x in stacked.items() if not np.array_equal(x, same[k], equal_nan=True)]
    return Varied(base, {k: stacked[k] for k in differ})
