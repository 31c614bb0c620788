"""Sweep of the baseline multi-task PPO on the classic suite: `python -m experiments.ppo_sweep`.

Settings that share their array shapes run side by side in one compiled program, with their learning
rates and entropy scales as its inputs. Every finished group is appended to the CSV; called again,
the script continues with the missing groups. A group takes minutes on one core.
"""

import argparse
import csv
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.baselines import ppo
from m3po_jax.config import Config, from_config_dict
from m3po_jax.config_validation import validate
from m3po_jax.learning.episodes import evaluate
from m3po_jax.learning.optimizers import make_optimizers
from m3po_jax.learning.state import AgentState, TrainState
from m3po_jax.learning.train_step import make_train_step
from m3po_jax.training.experiment import Experiment, make_experiment

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
ENTROPY_SCALES = (1e-4, 1e-2)
SEEDS = (0, 1)
EPISODES = 8


class Group(NamedTuple):
    """What fixes the shapes of a program."""

    num_envs: int
    unroll_length: int
    epochs: int
    minibatches: int


GROUPS = (Group(8, 16, 8, 4), Group(8, 32, 8, 4), Group(8, 32, 16, 4), Group(16, 32, 16, 8))


def group_config(group: Group, total_env_steps: int) -> Config:
    """The baseline with the group's settings."""
    cfg = ppo.get_config()
    cfg.env.num_envs, cfg.env.unroll_length = group.num_envs, group.unroll_length
    for part in (cfg.policy, cfg.critic):
        part.epochs, part.minibatches = group.epochs, group.minibatches
    cfg.train.total_env_steps = total_env_steps
    config = from_config_dict(cfg)
    validate(config)
    return config


def with_rates(config: Config, learning_rate: Any, entropy_scale: Any) -> Config:
    """The settings with two values that may be traced arrays."""
    replace = dataclasses.replace
    return replace(
        config,
        policy=replace(config.policy, learning_rate=learning_rate, entropy_scale=entropy_scale),
        critic=replace(config.critic, learning_rate=learning_rate),
    )


def run_group(group: Group, env_steps: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Trains all settings of a group side by side.

    Args:
        group: Shapes of the program.
        env_steps: Where to evaluate, rising; training ends at the last one.

    Yields:
        One row of results per setting and evaluation.
    """
    config = group_config(group, env_steps[-1])
    experiment = make_experiment(config)
    settings = list(itertools.product(LEARNING_RATES, ENTROPY_SCALES, SEEDS))
    rates, entropies, seeds = (jnp.asarray(column) for column in zip(*settings, strict=True))

    def step(state: TrainState, learning_rate: jax.Array, entropy_scale: jax.Array) -> TrainState:
        cfg = with_rates(config, learning_rate, entropy_scale)
        # PPO's step sizes are constant: the length of the run does not matter.
        optimizers = make_optimizers(cfg, iterations=1, transitions=1)
        parts = dataclasses.replace(experiment, optimizers=optimizers, config=cfg)
        return make_train_step(parts)(state)[0]

    def play(agent: AgentState) -> jax.Array:
        return evaluate(
            agent,
            jax.random.key(0),
            parts=dataclasses.replace(experiment, env=experiment.env.resized(EPISODES)),
            policy="prior",
        ).returns

    step_all = jax.jit(jax.vmap(step), donate_argnums=0)
    play_all = jax.jit(jax.vmap(play))
    state = jax.jit(jax.vmap(lambda seed: experiment.init(jax.random.key(seed))))(seeds)
    iteration, start = 0, time.monotonic()
    for until in env_steps:
        while iteration * experiment.env_steps_per_iteration < until:
            state = step_all(state, rates, entropies)
            iteration += 1
        # The environments of the tasks alternate: [settings, EPISODES, tasks].
        returns = np.asarray(play_all(state.agent)).reshape(len(settings), EPISODES, -1)
        for setting, means in zip(settings, returns.mean(axis=1), strict=True):
            result = _result(experiment, iteration, means)
            result["seconds_of_group"] = round(time.monotonic() - start, 1)
            names = ("learning_rate", "entropy_scale", "seed")
            yield {
                **group._asdict(),
                **dict(zip(names, setting, strict=True)),
                "evaluation": until,
                **result,
            }


def _result(experiment: Experiment, iteration: int, means: np.ndarray) -> dict[str, Any]:
    """Env steps, mean return of each task and their normalised mean."""
    names = [spec.name for spec in experiment.env.specs]
    returns = {name: float(mean) for name, mean in zip(names, means, strict=True)}
    normalized = [mean / 1000.0 for mean in returns.values()]  # all are DM Control tasks
    return {
        "env_steps": iteration * experiment.env_steps_per_iteration,
        "normalized_mean": round(float(np.mean(normalized)), 4),
        **{f"return/{name}": round(mean, 1) for name, mean in returns.items()},
    }


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows written so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_rows(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Appends rows, with a header in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def summary(rows: list[dict[str, str]]) -> str:
    """Settings by their mean normalised score at the last evaluation, seeds averaged."""
    last = max(int(row["evaluation"]) for row in rows)
    scores_of: dict[tuple[str, ...], list[float]] = {}
    keys = (*Group._fields, "learning_rate", "entropy_scale")
    for row in rows:
        if int(row["evaluation"]) == last:
            key = tuple(row[name] for name in keys)
            scores_of.setdefault(key, []).append(float(row["normalized_mean"]))
    ranked = sorted(scores_of.items(), key=lambda item: -float(np.mean(item[1])))
    lines = [", ".join(keys)]
    lines += [f"{np.mean(values):.3f}  {', '.join(key)}" for key, values in ranked]
    return "\n".join(lines)


def main() -> None:
    """Runs the groups that the CSV lacks and prints a ranking."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = pathlib.Path(__file__).parent / "results" / "ppo_sweep.csv"
    parser.add_argument("--out", type=pathlib.Path, default=default, help="CSV of results")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no group after these")
    parser.add_argument("--env_steps", type=int, nargs="+", default=[60_000, 120_000])
    arguments = parser.parse_args()
    start = time.monotonic()
    for group in GROUPS:
        done = {tuple(row[name] for name in Group._fields) for row in read_rows(arguments.out)}
        if tuple(str(value) for value in group) in done:
            continue
        if time.monotonic() - start > 60.0 * arguments.minutes:
            break
        print(f"{group} ...", flush=True)
        append_rows(arguments.out, list(run_group(group, tuple(arguments.env_steps))))
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    print(summary(read_rows(arguments.out)))


if __name__ == "__main__":
    main()
