"""Meta-World's scripted experts, in this package's environments and in Meta-World's own.

python -m experiments.metaworld_experts [--tasks=A,B] [--episodes=20]

Plays an episode of 500 steps to each of the first goals, all of a task at once here and one after
the other there, and appends to experiments/results/metaworld_experts.csv how many succeed by both
rules, at any step and at the last. Tasks that the table holds are not played again.
"""

import argparse
import csv
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runs
from m3po_jax.envs.catalog import MT50
from m3po_jax.envs.metaworld import environment, library

TABLE = runs.RESULTS / "metaworld_experts.csv"
COLUMNS = ("task", "episodes", "any_step", "last_step", "own_any_step", "own_last_step", "return")
Expert = Callable[[np.ndarray], np.ndarray]


def expert(name: str) -> Expert:
    """A new one, since some remember what they did: from an observation `[39]` to an action."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from metaworld.policies import ENV_POLICY_MAP
    policy = ENV_POLICY_MAP[name]()

    def act(observation: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action = policy.get_action(observation.astype(np.float64))
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    return act


def play(name: str, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Plays to the first goals here.

    Returns:
        Whether the goal was met, and rewards `[500, episodes]`.
    """
    env = environment.MetaWorldEnvironment(name)
    reset, step = jax.jit(jax.vmap(env.start)), jax.jit(jax.vmap(env.step))
    state = reset(jnp.arange(episodes, dtype=jnp.uint32))
    experts = [expert(name) for _ in range(episodes)]
    met, rewards = [], []
    for _ in range(env.episode_length):
        seen = np.asarray(state.observation)
        actions = np.stack([act(o) for act, o in zip(experts, seen, strict=True)])
        state = step(state, jnp.asarray(actions))
        met.append(np.asarray(state.success))
        rewards.append(np.asarray(state.reward))
    return np.stack(met), np.stack(rewards)


def play_own(name: str, episodes: int) -> np.ndarray:
    """Plays to the same goals in Meta-World; whether the goal was met `[500, episodes]`."""
    met = []
    for goal in library.goals(name)[:episodes]:
        env, act = library.make(name), expert(name)
        library.set_goal(env, name, goal)
        seen, _ = env.reset()
        infos = []
        for _ in range(library.EPISODE_LENGTH):
            seen, _, _, _, info = env.step(act(seen))
            infos.append(float(info["success"]))
        met.append(infos)
    return np.asarray(met).T


def measure(name: str, episodes: int) -> dict[str, Any]:
    """The row of a task."""
    met, rewards = play(name, episodes)
    own = play_own(name, episodes)
    values = (met.max(0), met[-1], own.max(0), own[-1])
    numbers = [int(x.sum()) for x in values]
    row = (name, episodes, *numbers, round(float(rewards.sum(0).mean()), 1))
    return dict(zip(COLUMNS, row, strict=True))


def main() -> None:
    """Measures the tasks that the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(MT50))
    parser.add_argument("--episodes", type=int, default=20)
    arguments = parser.parse_args()
    new = not TABLE.exists()
    done = {row["task"] for row in runs.read_table(TABLE)}
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for name in arguments.tasks:
            if name not in done:
                row = measure(name, arguments.episodes)
                writer.writerow(row)
                file.flush()
                print(row, flush=True)


if __name__ == "__main__":
    main()
