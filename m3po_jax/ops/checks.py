"""Assertions inside compiled programs: nothing is computed for them unless `checked` asks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

# Stands before each leaf in the text of an assertion, which cannot leave out the sound ones.
_LEAF = "\n  "


def check_finite(what: str, tree: Any) -> None:
    """Asserts that every number in the floating leaves of `tree` is finite.

    Args:
        what: Name of the values for the message, which names the leaves too.
        tree: Pytree of arrays.
    """
    counts = count_by_path(tree)
    bad = sum(counts.values(), jnp.zeros((), int))
    leaves = "".join(
        f"{_LEAF}{path.replace('{', '{{').replace('}', '}}')} ({{leaf{index}}})"
        for index, path in enumerate(counts)
    )
    text = f"{what}: {{bad}} values are not finite{leaves}"
    by_leaf = {f"leaf{index}": count for index, count in enumerate(counts.values())}
    checkify.debug_check(bad == 0, text, bad=bad, **by_leaf)


def check_range(what: str, x: jax.Array, low: float, high: float) -> None:
    """Asserts `low <= x <= high` for every element of `x`."""
    inside = jnp.all((x >= low) & (x <= high))
    text = f"{what}: {{smallest}} to {{largest}} leaves [{low:g}, {high:g}]"
    checkify.debug_check(inside, text, smallest=jnp.min(x), largest=jnp.max(x))


def checked(function: Callable[..., Any]) -> Callable[..., tuple[checkify.Error, Any]]:
    """The same function with its assertions; it returns the first failure along with its result.

    See `message`.
    """
    return checkify.checkify(function, errors=checkify.user_checks)


def message(error: checkify.Error, *, most: int = 5) -> str | None:
    """Says which assertion failed, with at most so many leaves; `None` where none did."""
    text = error.get()
    if text is None:
        return None
    # What comes after the last leaf is JAX's word on where the assertion stands.
    what, *leaves = text.split(" (`check` failed)")[0].split(_LEAF)
    bad = [leaf for leaf in leaves if leaf and not leaf.endswith(" (0)")]
    if not bad:
        return what
    more = f" and {len(bad) - most} more leaves" if len(bad) > most else ""
    return f"{what}: {', '.join(bad[:most])}{more}"


def count_by_path(tree: Any) -> dict[str, jax.Array]:
    """The number of values that are not finite `[]` in each floating leaf, by its path."""
    counts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            counts[name] = jnp.sum(~jnp.isfinite(leaf))
    return counts
