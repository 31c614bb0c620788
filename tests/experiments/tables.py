"""Rows of an experiment's table, as `experiments.runs` writes them."""


def row(agent, seed, step, task, score, setting="s"):
    return {
        "agent": agent,
        "setting": setting,
        "seed": str(seed),
        "env_steps_per_task": str(step),
        "task": task,
        "normalized": str(score),
    }
