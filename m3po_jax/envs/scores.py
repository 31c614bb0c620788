"""What a return is worth: the returns that count as normalised scores 0 and 1."""

# DM Control rewards lie in [0, 1] and an episode has 1000 control steps (arXiv 1801.00690).
_DMC_RANGE = (0.0, 1000.0)
# Zero, or the mean return of uniform actions, and the mean optimal return over the start
# distribution, in closed form; tests/envs/test_scores.py recomputes both.
_TOY_RANGES = {
    "toy/LinearQuadratic": (-11.574, -0.248),
    "toy/PointReachA": (0.0, 45.764),
    "toy/PointReachB": (0.0, 45.764),
    "toy/TerminatingPole": (0.0, 50.0),
}


def references(task: str) -> tuple[float, float] | None:
    """Returns that count as scores 0 and 1, or `None` for a task without references.

    Args:
        task: Registry name without options.
    """
    if task.startswith("dmc/"):
        return _DMC_RANGE
    return _TOY_RANGES.get(task)


def normalized_score(task: str, episode_return: float) -> float | None:
    """Score of a return, 1 where the task counts as solved.

    Args:
        task: Registry name without options.
        episode_return: Undiscounted return of a whole episode.

    Returns:
        `(return - low) / (high - low)`, or `None` for a task without references.
    """
    bounds = references(task)
    return None if bounds is None else (episode_return - bounds[0]) / (bounds[1] - bounds[0])
