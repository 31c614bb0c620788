"""Whether a run fits into memory, told before it compiles or starts."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from m3po_jax.config import UserError

_MEMINFO = pathlib.Path("/proc/meminfo")
_CGROUP = pathlib.Path("/sys/fs/cgroup")


class MemoryShortage(UserError):
    """A run does not fit into memory; the text says what of it takes how much."""


def require_room(parts: Mapping[str, Any]) -> None:
    """Refuses what does not fit on its devices.

    Args:
        parts: Pytrees of `jax.ShapeDtypeStruct`s with shardings, none of which is there yet, by
            what a person should know of each.

    Raises:
        MemoryShortage: It does not fit.
    """
    sizes = {name: sum(map(_bytes_here, jax.tree.leaves(tree))) for name, tree in parts.items()}
    device = jax.local_devices()[0]
    needed, free = sum(sizes.values()), free_bytes(device)
    if free is None or needed <= free:
        return
    listed = ", ".join(f"{name} {_gib(size)}" for name, size in sizes.items())
    raise MemoryShortage(
        f"this run needs at least {_gib(needed)} and {device} has {_gib(free)} free: {listed}; "
        "lower the settings of the largest, or use more devices (train.num_devices)"
    )


def require_room_to_run(compiled: jax.stages.Compiled) -> None:
    """Refuses a program whose intermediate values do not fit beside what is there already.

    Raises:
        MemoryShortage: They do not.
    """
    analysis, device = compiled.memory_analysis(), jax.local_devices()[0]
    free = free_bytes(device)
    if analysis is None or free is None:
        return
    made = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    needed = analysis.temp_size_in_bytes + max(made, 0)
    if needed > free:
        raise MemoryShortage(
            f"a program of this run needs {_gib(needed)} for what it computes, and {device} has "
            f"{_gib(free)} free; lower env.num_envs (or the episodes of an evaluation), batch "
            "sizes, planner.num_samples or widths, or use more devices (train.num_devices)"
        )


def free_bytes(device: jax.Device) -> int | None:
    """Bytes that can still be had on a device of this process; None where nothing says so."""
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"]) - int(statistics.get("bytes_in_use", 0))
    return _free_on_host() if device.platform == "cpu" else None


def _free_on_host() -> int | None:
    """What the machine can give, swap included, and the container lets this process have."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    free = 1024 * (kib.get("MemAvailable", kib["MemFree"]) + kib.get("SwapFree", 0))
    limit, used = (_number(_CGROUP / f"memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return free
    return min(free, limit - used + _reclaimable())


def _number(file: pathlib.Path) -> int | None:
    """The number in a file of a control group; None where there is no limit."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable() -> int:
    """Bytes of files that a control group counts as used, and gives up when asked for memory."""
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _bytes_here(leaf: Any) -> int:
    """Bytes of a leaf on the first device of this process, or on all of its CPU devices."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    size = int(leaf.dtype.itemsize)
    sharding = leaf.sharding
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    for n in shape:
        size *= n
    on_cpus = jax.default_backend() == "cpu" and sharding is not None
    return size * (len(sharding.addressable_devices) if on_cpus else 1)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
