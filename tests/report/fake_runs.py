"""Workdirs as a run leaves them, without training."""

import dataclasses

import numpy as np

from m3po_jax.config import Config, TrainConfig
from m3po_jax.training import scores
from m3po_jax.workdir import folder, metrics

TASKS = ("toy/PointReachA", "brax/swimmer?num_envs=4")
STEPS = (4000, 8000, 12000)


def returns(seed, step, *, better=0.0):
    """Mean returns by task."""
    names = [task.partition("?")[0] for task in TASKS]
    rng = np.random.default_rng([seed, step])
    return {name: float(step / 400 + better + rng.normal()) for name in names}


def evaluation(seed, step, policy="planner", *, better=0.0, episodes=8):
    tasks = {
        name: {
            "return_mean": value,
            "return_std": 1.0,
            "length_mean": 25.0,
            "episodes": episodes,
            "success_rate": 0.25 * (1 + seed % 2) if "swimmer" in name else None,
            "success_rate_last": 0.25 * (seed % 2) if "swimmer" in name else None,
            "normalized": scores.normalized_score(name, value),
        }
        for name, value in returns(seed, step, better=better).items()
    }
    known = [task["normalized"] for task in tasks.values() if task["normalized"] is not None]
    errors = {"reward": [0.1, 0.2, None], "reward_persistence": [0.3, 0.3, None]}
    errors |= {"latent": [0.01, 0.02, 0.03], "latent_persistence": [0.05, 0.05, 0.05]}
    return {
        "env_steps": step,
        "env_steps_per_task": step / 2,
        "wall_seconds": step / 100,
        "policy": policy,
        "tasks": tasks,
        "normalized_mean": float(np.mean(known)),
        "model_error": dict.fromkeys(tasks, errors),
    }


def row(seed, index):
    values = {
        "env_steps": 400 * index,
        "iteration": index,
        "wall_seconds": 4.0 * index,
        "env_steps_per_second": 100.0,
        "policy/kl": 0.02 + 0.001 * seed,
        "policy/kl_max": 0.07,
        "policy/kl_over_bound": 0.0,
        "policy/entropy": 2.0 - 0.01 * index,
        "world_model/loss": 1.0 / index,
        "world_model/skipped": 1.0 if index == 3 else 0.0,
    }
    for name in (task.partition("?")[0] for task in TASKS):
        values[f"rollout/episode_return/{name}"] = float(index) if index > 2 else float("nan")
        values[f"rollout/faults/{name}"] = 0.0
        values[f"exploration/bonus/{name}"] = 0.5
        values[f"exploration/disagreement/{name}"] = 0.1
        values[f"exploration/weight/{name}"] = 0.15
    return values


def make_run(path, *, seed=0, better=0.0, **settings):
    """Writes a whole run; `settings` replace those of the config."""
    train = TrainConfig(total_env_steps=STEPS[-1])
    config = dataclasses.replace(Config(seed=seed, tasks=TASKS, train=train), **settings)
    with folder.open_workdir(path, config), metrics.MetricsWriter(path) as writer:
        for index in range(1, 31):
            writer.write(row(seed, index))
        for step in STEPS:
            writer.write_evaluation(evaluation(seed, step, better=better))
    return path
