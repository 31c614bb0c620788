"""Assertions inside compiled programs: nothing is computed for them unless `checked` asks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify


def check_finite(what: str, tree: Any) -> None:
    """Asserts that every number in the floating leaves of `tree` is finite.

    Args:
        what: Name of the values for the message.
        tree: Pytree of arrays.
    """
    bad = sum(count_by_path(tree).values(), jnp.zeros((), int))
    checkify.debug_check(bad == 0, what + ": {bad} values are not finite", bad=bad)


def check_range(what: str, x: jax.Array, low: float, high: float) -> None:
    """Asserts `low <= x <= high` for every element of `x`."""
    inside = jnp.all((x >= low) & (x <= high))
    text = f"{what}: {{smallest}} to {{largest}} leaves [{low:g}, {high:g}]"
    checkify.debug_check(inside, text, smallest=jnp.min(x), largest=jnp.max(x))


def checked(function: Callable[..., Any]) -> Callable[..., tuple[checkify.Error, Any]]:
    """The same function with its assertions; it returns the first failure along with its result.

    `error.get()` is its message, or `None`.
    """
    return checkify.checkify(function, errors=checkify.user_checks)


def count_by_path(tree: Any) -> dict[str, jax.Array]:
    """The number of values that are not finite `[]` in each floating leaf, by its path."""
    counts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            counts[name] = jnp.sum(~jnp.isfinite(leaf))
    return counts
