"""Leaves out updates whose loss or gradient is not finite, and shows where such numbers appear."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3po_jax.ops import checks
from m3po_jax.ops.checks import count_by_path

Tree = TypeVar("Tree")
# (module, number of values that are not finite in each loss, the same for each gradient leaf)
Observer = Callable[[str, dict[str, int], dict[str, int]], None]

_observer: Observer | None = None


def is_finite(module: str, losses: Mapping[str, jax.Array], gradient: Any) -> jax.Array:
    """Whether all losses and the gradient's global norm are finite `[]`.

    Args:
        module: Whose update it is; named to the observer.
        losses: Losses by name, `[]` each.
        gradient: Pytree of arrays.
    """
    checks.check_finite(f"losses of {module}", dict(losses))
    checks.check_finite(f"gradient of {module}", gradient)
    if _observer is not None:
        observer = _observer

        def report(losses: dict[str, np.ndarray], gradient: dict[str, np.ndarray]) -> None:
            observer(module, _integers(losses), _integers(gradient))

        counts = count_by_path(dict(losses)), count_by_path(gradient)
        jax.debug.callback(report, *counts, ordered=True)
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


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Reports every gradient step of what is traced inside the block to `observer`.

    For looking into a fault: the reports cost transfers, and normal programs have none. JAX's
    caches are emptied on both sides, because a cached trace would keep or lack the reports.
    """
    global _observer
    if _observer is not None:
        raise RuntimeError("gradient steps are observed already")
    jax.clear_caches()
    _observer = observer
    try:
        yield
    finally:
        _observer = None
        jax.clear_caches()


def _integers(counts: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items()}
