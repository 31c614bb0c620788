"""C MuJoCo against MJX on MuJoCo Playground's tasks: speed and parity, one CPU core.

python -m experiments.host_physics speed|parity|returns [--tasks=A,B] [--out=FILE]

speed    control steps per CPU second of both, with 32 environments, copies included
parity   the largest difference per control step from the same states, along 200 steps
returns  the return of one fixed policy over 64 episodes of 200 steps
"""

import argparse
import csv
import dataclasses
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.envs import base, mujoco_c, multitask, playground_adapter, task
from m3po_jax.envs.catalog import CATALOG

NUM_ENVS = 32
STEPS = 200
EPISODES = 64
RESULTS = pathlib.Path(__file__).parent / "results"


def action_of(key: jax.Array, step: jax.Array, size: int) -> jax.Array:
    """A fixed policy without feedback: a sine of its own for each actuator, with noise."""
    wave = jnp.sin(0.2 * step.astype(jnp.float32) + jnp.arange(size, dtype=jnp.float32))
    noise = jax.random.uniform(jax.random.fold_in(key, step), (size,), minval=-1.0, maxval=1.0)
    return 0.5 * wave + 0.5 * noise


@dataclasses.dataclass(frozen=True)
class Step:
    """What one control step gave in both simulators, from the same state.

    Attributes:
        observation: Largest difference of an observation's entry.
        reward: Difference of the reward.
    """

    observation: float
    reward: float


def parity(name: str, steps: int) -> list[Step]:
    """Compares single control steps along one episode that C MuJoCo plays.

    Before each, MJX gets C MuJoCo's state in float32: contacts make longer trajectories chaotic.

    Args:
        name: A task of the DM Control suite.
        steps: Control steps.
    """
    ours = playground_adapter.make_dmc(name, impl="c")
    theirs = playground_adapter.make_dmc(name, impl="jax")
    c_physics = ours.backend
    assert isinstance(c_physics, mujoco_c.CPhysics)
    key = jax.random.key(0)
    state, other = jax.jit(ours.reset)(key), jax.jit(theirs.reset)(key)
    step_ours, step_theirs = jax.jit(ours.step), jax.jit(theirs.step)
    found = []
    for index in range(steps):
        action = action_of(key, jnp.asarray(index), ours.action_size)
        other = with_state(other, c_physics.parts(np.asarray(state.physics.data)))
        state, other = step_ours(state, action), step_theirs(other, action)
        difference = np.max(np.abs(np.asarray(state.observation - other.observation)))
        found.append(Step(float(difference), abs(float(state.reward - other.reward))))
    return found


def with_state(mjx_state: base.EnvState, parts: dict[str, np.ndarray]) -> base.EnvState:
    """An MJX task's state with another simulator's positions and velocities."""
    names = ("qpos", "qvel", "act", "qacc_warmstart", "mocap_pos", "mocap_quat")
    new = {name: jnp.asarray(parts[name], jnp.float32) for name in names}
    library = mjx_state.physics
    return mjx_state.replace(physics=library.replace(data=library.data.replace(**new)))


def returns(name: str, impl: str) -> np.ndarray:
    """Returns `[EPISODES]` of the fixed policy."""
    environment = playground_adapter.make_dmc(name, impl=impl)
    env = _batch(environment, EPISODES)

    @jax.jit
    def play(key: jax.Array) -> jax.Array:
        state = env.init(key, stagger=False)
        pool = env.as_pool(state.env_states)
        keys = env.env_keys(key)

        def step(state: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            action = jax.vmap(lambda k: action_of(k, index, env.action_size))(keys)
            state, timestep = env.step(state, pool, action)
            return state, timestep.reward

        return jnp.sum(jax.lax.scan(step, state, jnp.arange(STEPS))[1], axis=0)

    return np.asarray(play(jax.random.key(0)))


def steps_per_cpu_second(environment: base.Environment, num_envs: int = NUM_ENVS) -> float:
    """Control steps per CPU second of a compiled unroll, the best of three."""
    env = _batch(environment, num_envs)

    @jax.jit
    def unroll(state: Any, key: jax.Array) -> Any:
        pool = env.as_pool(state.env_states)

        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            action = jax.random.uniform(key, (num_envs, env.action_size), minval=-1.0, maxval=1.0)
            state, timestep = env.step(state, pool, action)
            return state, timestep.reward

        return jax.lax.scan(step, state, jax.random.split(key, STEPS))

    state = jax.jit(lambda key: env.init(key, stagger=False))(jax.random.key(0))
    jax.block_until_ready(unroll(state, jax.random.key(1)))
    seconds = []
    for seed in range(3):
        start = time.process_time()
        jax.block_until_ready(unroll(state, jax.random.key(seed)))
        seconds.append(time.process_time() - start)
    return num_envs * STEPS / min(seconds)


def _batch(environment: base.Environment, num_envs: int) -> multitask.MultiTaskEnv:
    one = task.as_task(name="task", environment=environment, num_envs=num_envs, action_repeat=1)
    return multitask.MultiTaskEnv([one])


def rows(what: str, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """One row of the table for each task."""
    for name in names:
        row: dict[str, Any] = {"task": f"dmc/{name}"}
        if what == "speed":
            for impl in ("c", "jax"):
                environment = playground_adapter.make_dmc(name, impl=impl)
                row[impl] = round(steps_per_cpu_second(environment))
            row["ratio"] = round(row["c"] / row["jax"], 1)
        elif what == "parity":
            found = parity(name, STEPS)
            for part in ("observation", "reward"):
                gaps = [getattr(step, part) for step in found]
                for percent in (50, 95, 100):
                    row[f"{part}_{percent}"] = f"{np.percentile(gaps, percent):.1e}"
        else:
            for impl in ("c", "jax"):
                values = returns(name, impl)
                row[impl] = round(float(np.mean(values)), 3)
                row[f"{impl}_interval"] = round(1.96 * float(np.std(values)) / EPISODES**0.5, 3)
        yield row


def main() -> None:
    """Prints the rows and appends them to the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "parity", "returns"))
    parser.add_argument("--tasks", default=",".join(CATALOG["dmc"]))
    parser.add_argument("--out", type=pathlib.Path)
    chosen = parser.parse_args()
    out = chosen.out or RESULTS / f"host_physics_{chosen.what}.csv"
    with out.open("w", newline="") as file:
        writer: csv.DictWriter | None = None
        for row in rows(chosen.what, chosen.tasks.split(",")):
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
