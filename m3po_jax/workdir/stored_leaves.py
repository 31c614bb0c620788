"""The leaves of a state as checkpoints hold them: their names, checksums, and what differs."""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_CHUNK = 1 << 20  # words at a time, which keeps what summing needs small


def without_empty(leaf: Any) -> Any:
    """Puts a scalar in the place of an empty array, as simulators have and Orbax cannot save."""
    if leaf.size > 0:
        return leaf
    place = _place(leaf)
    if isinstance(place, jax.sharding.NamedSharding):
        place = jax.sharding.NamedSharding(place.mesh, jax.P())
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((), leaf.dtype, sharding=place)
    return _zeros((), leaf.dtype, place)


def with_empty(abstract: Any, leaf: Any) -> Any:
    """Undoes `without_empty`."""
    if abstract.size > 0:
        return leaf
    return _zeros(abstract.shape, abstract.dtype, _place(abstract))


def _zeros(shape: tuple[int, ...], dtype: Any, place: jax.sharding.Sharding) -> jax.Array:
    """Zeros on any devices, those of other processes included."""
    zeros = np.zeros(shape, dtype)
    return jax.make_array_from_callback(shape, place, lambda index: zeros[index])


def _place(leaf: Any) -> jax.sharding.Sharding:
    place: jax.sharding.Sharding | None = getattr(leaf, "sharding", None)
    return place or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def stored_form(tree: Any) -> Any:
    """What to ask Orbax for: the stored leaves, each with the place where it goes."""

    def ask(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = without_empty(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_place(leaf))

    return jax.tree.map(ask, tree)


def shapes(tree: Any) -> dict[str, str]:
    """Returns 'dtype[shape]' of each leaf by its path; typed keys count as the words they hold."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        found[_name(path)] = f"{leaf.dtype}{list(leaf.shape)}"
    return found


def checksums(state: Any, meta: Mapping[str, Any]) -> dict[str, int]:
    """Returns a checksum of each leaf by its path, and of the meta.

    That of a leaf is the sum of its words, each times its odd weight `2 i + 1`, modulo 2^32: it
    changes with any one bit, and processes that hold parts of a leaf can add theirs up.
    """
    sums = checksums_here(state)
    total = np.fromiter(sums.values(), np.uint32, len(sums))
    if jax.process_count() > 1:
        total = np.sum(multihost_utils.process_allgather(total), axis=0, dtype=np.uint32)
    checked = {name: int(value) for name, value in zip(sums, total, strict=True)}
    return {"meta": meta_checksum(meta), **checked}


def meta_checksum(meta: Mapping[str, Any], *, without: str = "") -> int:
    """Returns a checksum of the meta, one of its keys left out."""
    kept = {key: value for key, value in meta.items() if key != without}
    return zlib.crc32(json.dumps(kept, sort_keys=True).encode())


def checksums_here(state: Any) -> dict[str, int]:
    """Returns what the parts of each leaf that lie here add to its checksum; skips `...`."""
    sums = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf is ...:
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        sums[f"state/{_name(path)}"] = _sum_here(leaf)
    return sums


def _sum_here(leaf: Any) -> int:
    """What the parts of a leaf that this process has to write add to its checksum."""
    if not isinstance(leaf, jax.Array):
        return _weighted_sum(np.asarray(leaf), 0)
    total = 0
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            part = np.asarray(shard.data)
            # At most one axis is split, so a part is runs of consecutive words, equally far apart.
            axis = next((k for k, n in enumerate(part.shape) if n < leaf.shape[k]), 0)
            runs = part.reshape(math.prod(part.shape[:axis]), -1)
            stride = math.prod(leaf.shape[axis:])
            start = shard.index[axis].start if shard.index else None
            begin = (start or 0) * math.prod(leaf.shape[axis + 1 :])
            total += sum(_weighted_sum(run, begin + i * stride) for i, run in enumerate(runs))
    return total % 2**32


def _weighted_sum(x: np.ndarray, begin: int) -> int:
    words = np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}")
    total = 0
    for start in range(0, words.size, _CHUNK):
        chunk = words[start : start + _CHUNK].astype(np.uint64)
        weights = 2 * np.arange(begin + start, begin + start + chunk.size, dtype=np.uint64) + 1
        total += int(np.sum(chunk * weights, dtype=np.uint64))
    return total % 2**32


def dtypes(tree: Any) -> dict[str, Any]:
    """Returns the dtype of each leaf by its path; typed keys count as keys."""
    return {_name(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def mismatches(stored: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Names of the leaves that are not the same in both; empty where all are."""
    names = [name for name in {**stored, **found} if stored.get(name) != found.get(name)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def differences(stored: Mapping[str, str], asked: Mapping[str, str]) -> str:
    """What a checkpoint holds, and what is asked for in its place."""
    names = [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]
    listed = [
        f"{name} is {stored.get(name, 'absent')} there and {asked.get(name, 'absent')} here"
        for name in names[:3]
    ]
    return "; ".join(listed) + (f"; {len(names) - 3} more" if len(names) > 3 else "")


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
