"""Which checkpoint of a run scored best, of those that were evaluated and are still there.

Evaluations during training choose it; what `m3po-evaluate` reports comes from other episodes.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from m3po_jax.workdir.folder import checkpoint_steps
from m3po_jax.workdir.metrics import STEP, read_evaluations
from m3po_jax.workdir.record import WorkdirError

NEWEST, BEST = "newest", "best"
CHECKPOINTS = (NEWEST, BEST)


def rank(record: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """What evaluations of one run are ordered by; None where faults cut all episodes of a task.

    The mean normalised score decides, between equal ones (as where no task has a known scale) the
    mean success, and between these the mean return.

    Args:
        record: A line of eval.jsonl.
    """
    returns = [task["return_mean"] for task in record["tasks"].values()]
    if not returns or None in returns:
        return None
    known = (record.get("normalized_mean"), record.get("success_mean"), float(np.mean(returns)))
    score, success, mean_return = (0.0 if x is None else float(x) for x in known)
    return score, success, mean_return


def best_step(
    evaluations: Sequence[Mapping[str, Any]], steps: Collection[int], env_steps_per_iteration: int
) -> int | None:
    """The iteration that scored best, the first of equal ones; None where none was evaluated.

    Args:
        evaluations: Lines of eval.jsonl.
        steps: Iterations to choose from.
        env_steps_per_iteration: Env steps of one.
    """
    ranked = [
        (found, -record[STEP])
        for record in evaluations
        if record[STEP] // env_steps_per_iteration in steps and (found := rank(record)) is not None
    ]
    return -max(ranked)[1] // env_steps_per_iteration if ranked else None


def chosen_step(
    workdir: str | os.PathLike[str], checkpoint: str, env_steps_per_iteration: int
) -> tuple[int | None, str]:
    """The checkpoint that a name stands for.

    Args:
        workdir: Folder of the run.
        checkpoint: `newest` or `best`.
        env_steps_per_iteration: Env steps of one iteration of the run.

    Returns:
        Its iteration, None for the newest, and what to know about the choice.

    Raises:
        WorkdirError: No checkpoint that is still there was evaluated.
        MetricsError: A line of eval.jsonl is damaged.
        ValueError: There is no such name.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint must be one of {', '.join(CHECKPOINTS)}, not {checkpoint!r}")
    if checkpoint == NEWEST:
        return None, ""
    evaluations, held = read_evaluations(workdir), checkpoint_steps(workdir)
    step = best_step(evaluations, held, env_steps_per_iteration)
    if step is None:
        raise WorkdirError(
            f"{workdir} holds no checkpoint that was evaluated (train.eval_every says when); "
            f"train longer, or take the checkpoint {NEWEST}"
        )
    note = f"The best checkpoint is the one at {step * env_steps_per_iteration:,} env steps."
    every = {int(record[STEP]) // env_steps_per_iteration for record in evaluations}
    lost = best_step(evaluations, every, env_steps_per_iteration)
    if lost is not None and lost != step:
        note += (
            f" The evaluation at {lost * env_steps_per_iteration:,} scored higher, and its "
            "checkpoint was not kept."
        )
    return step, note
