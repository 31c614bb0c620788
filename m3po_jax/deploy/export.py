"""An agent as StableHLO programs that run without this package.

The folder holds `prior.stablehlo` and, with a world model, `planner.stablehlo`: each a
serialised `jax.export.Exported` with the parameters inside, and `signature.json`, which says how
to call them.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from m3po_jax.config import UserError
from m3po_jax.deploy.agent import Agent
from m3po_jax.workdir.record import versions, write_synced

SIGNATURE_FILE = "signature.json"
SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
_FORMAT = "m3po_jax policy 1"

_HOW_TO_CALL = {
    "load": "program = jax.export.deserialize(bytearray(open('NAME.stablehlo', 'rb').read()))",
    "call": "outputs = program.call(*inputs), the arrays of `inputs` in their order",
    "observation": "pad each task's observation with zeros to the size here",
    "task_id": "the `id` of the row's task",
    "plan_mean": "zeros at the start of an episode; otherwise what the last call returned",
    "seed": "seeds the planner's samples: the same numbers give the same action",
    "action": "in [-1, 1]; of each row take the first `action_size` of its task",
    "action_repeat": "simulator control steps for which one action is held",
    "b": "any number of rows; each new number is compiled separately",
}


class ExportError(UserError):
    """The folder cannot be written to; the text says why and what to do."""


def export(agent: Agent, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes the agent's programs and their signature.

    Args:
        agent: The agent.
        out: Folder; made where it is missing. An earlier export in it is replaced when the new
            one is on the disk.

    Returns:
        The signature.

    Raises:
        ExportError: The folder holds anything else, or cannot be written.
    """
    folder = pathlib.Path(out)
    _refuse_foreign(folder)
    programs = {name: _program(agent, name) for name in agent.policies}
    signature = _signature(agent, programs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {f"{name}{SUFFIX}": exported for name, (exported, _) in programs.items()}
        _replace(folder, files, json.dumps(signature, indent=2) + "\n")
    except OSError as error:
        raise ExportError(
            f"cannot write to {folder}: {error.strerror or error}; give --out a folder that can be "
            "written, on a disk with space"
        ) from error
    return signature


def _replace(folder: pathlib.Path, files: Mapping[str, bytes], signature: str) -> None:
    """Puts new files in the place of old ones, which stay until all of the new are on the disk.

    A signature never describes programs that are not there. After a kill in between, the next
    export finds the new one's and knows the folder as its own.
    """
    new = {**files, SIGNATURE_FILE: signature.encode()}
    try:
        for name, data in new.items():
            write_synced(_unfinished(folder / name), data)
    except OSError:
        for name in new:
            _unfinished(folder / name).unlink(missing_ok=True)
        raise
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink()
    for name in new:  # the signature last
        _unfinished(folder / name).rename(folder / name)


def _unfinished(file: pathlib.Path) -> pathlib.Path:
    return file.with_name(f".{file.name}.tmp")


def _program(agent: Agent, policy: str) -> tuple[bytes, list[dict[str, Any]]]:
    """The serialised program of a policy and its inputs."""
    (rows,) = jax_export.symbolic_shape("b")
    networks = agent.networks
    inputs = [
        _array("observation", (rows, networks.observation_size), jnp.float32),
        _array("task_id", (rows,), jnp.int32),
    ]
    if policy == "planner":
        inputs.append(_array("plan_mean", (rows, *agent.plan_shape), jnp.float32))
        inputs.append(_array("seed", (), jnp.uint32))

    def planner(
        observation: jax.Array, task_id: jax.Array, plan_mean: jax.Array, seed: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        key = jax.random.key(seed)
        return agent.decide(agent.state, observation, task_id, plan_mean, key, policy="planner")

    def prior(observation: jax.Array, task_id: jax.Array) -> tuple[jax.Array]:
        unplanned = jnp.zeros((observation.shape[0], *agent.plan_shape))
        key = jax.random.key(0)  # unused: the prior acts by its mean
        args = (agent.state, observation, task_id, unplanned, key)
        return (agent.decide(*args, policy="prior")[0],)

    function: Any = planner if policy == "planner" else prior
    exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(
        *(shape for _, shape in inputs)
    )
    described = [
        {"name": name, "shape": [str(n) if n is rows else n for n in shape.shape]}
        | {"dtype": str(shape.dtype)}
        for name, shape in inputs
    ]
    return bytes(exported.serialize()), described


def _array(name: str, shape: tuple[Any, ...], dtype: Any) -> tuple[str, jax.ShapeDtypeStruct]:
    return name, jax.ShapeDtypeStruct(shape, dtype)


def _signature(
    agent: Agent, programs: dict[str, tuple[bytes, list[dict[str, Any]]]]
) -> dict[str, Any]:
    horizon, action_size = agent.plan_shape
    action = {"name": "action", "shape": ["b", action_size], "dtype": "float32"}
    plan = {"name": "plan_mean", "shape": ["b", horizon, action_size], "dtype": "float32"}
    return {
        "format": _FORMAT,
        "programs": {
            name: {
                "file": f"{name}{SUFFIX}",
                "sha256": hashlib.sha256(exported).hexdigest(),
                "inputs": inputs,
                "outputs": [action, plan] if name == "planner" else [action],
            }
            for name, (exported, inputs) in programs.items()
        },
        "tasks": [
            {
                "id": index,
                "name": spec.name,
                "observation_size": spec.observation_size,
                "action_size": spec.action_size,
                "action_repeat": spec.action_repeat,
                "episode_length": spec.episode_length,
            }
            for index, spec in enumerate(agent.specs)
        ],
        "env_steps": agent.env_steps,
        "platforms": list(PLATFORMS),
        "versions": versions(),
        "how_to_call": _HOW_TO_CALL,
    }


def _refuse_foreign(folder: pathlib.Path) -> None:
    """Refuses a folder with anything but an export in it, before anything is compiled."""
    programs = [folder / f"{name}{SUFFIX}" for name in ("prior", "planner")]
    signature = folder / SIGNATURE_FILE
    unfinished = {_unfinished(file).name for file in (*programs, signature)}
    try:
        names = {child.name for child in folder.iterdir()} if folder.exists() else set()
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise ExportError(f"cannot use {folder}: {error.strerror or error}") from error
    if not os.access(there, os.W_OK):
        raise ExportError(f"cannot use {folder}: {there} cannot be written; give another --out")
    foreign = sorted(names - unfinished - {file.name for file in (*programs, signature)})
    begun = _is_export(signature) or _is_export(_unfinished(signature))
    if foreign or not (begun or names <= unfinished):
        what = f"{foreign[0]!r}" if foreign else f"no {SIGNATURE_FILE} of an export"
        raise ExportError(
            f"{folder} is not empty and is not an export ({what}); give another --out"
        )


def _is_export(file: pathlib.Path) -> bool:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.get("format") == _FORMAT
