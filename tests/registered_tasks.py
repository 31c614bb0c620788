"""For tests of every task in the registry."""

from collections.abc import Set

import pytest

from m3po_jax.envs import catalog, registry


def parameters(fast: Set[str]) -> list:
    """All names, those not in `fast` marked as slow."""
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow)
        for name in registry.task_names()
    ]


def skip_if_unavailable(name: str) -> None:
    """Skips the test where the task's suite is not installed."""
    reason = catalog.unavailable(name.partition("/")[0])
    if reason is not None:
        pytest.skip(reason)
