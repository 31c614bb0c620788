"""Leaves out updates whose loss or gradient is not finite."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from m3po_jax.ops import checks

Tree = TypeVar("Tree")


def is_finite(module: str, losses: Mapping[str, jax.Array], gradient: Any) -> jax.Array:
    """Whether all losses and the gradient's global norm are finite `[]`.

    Args:
        module: Whose update it is; for the message of the assertion.
        losses: Losses by name, `[]` each.
        gradient: Pytree of arrays.
    """
    checks.check_finite(
        f"losses and gradient of {module}", {"loss": dict(losses), "gradient": gradient}
    )
    finite = jnp.isfinite(optax.tree.norm(gradient))
    for loss in losses.values():
        finite &= jnp.isfinite(loss)
    return finite


def select(finite: jax.Array, new: Tree, old: Tree) -> Tree:
    """`new` where `finite` `[]` holds, else `old`, to the last bit."""
    selected: Tree = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return selected


def keep_finite(new: Tree, old: Tree) -> Tree:
    """`new` if every number in it is finite, else `old`."""
    finite = jnp.array(True)
    for leaf in jax.tree.leaves(new):
        finite &= jnp.all(jnp.isfinite(leaf))
    return select(finite, new, old)
