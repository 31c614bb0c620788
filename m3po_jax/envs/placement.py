"""Which device steps which tasks, where each task has one device to itself.

Nothing here imports JAX, so that settings can be checked before it starts.
"""

from collections.abc import Sequence

Placement = tuple[tuple[int, ...], ...]


def place_tasks(
    num_envs: Sequence[int], costs: Sequence[float], num_devices: int
) -> Placement | None:
    """Gives whole tasks to devices: equally many environments each, at similar costs.

    The tasks with the most environments come first, among equal ones the most expensive. Each goes
    to a device with the fewest environments so far, among equal ones to the one with the least
    cost. Whether an assignment is found does not depend on the costs. It always is for equal counts
    whose number of tasks is a multiple of the devices; for other counts one may be missed.

    Args:
        num_envs: Environments of each task.
        costs: Cost of stepping all environments of each task, in any unit.
        num_devices: Devices, at least 1.

    Returns:
        The tasks of each device, ascending, or None where the environments do not come out equal.
    """
    tasks: list[list[int]] = [[] for _ in range(num_devices)]
    load, cost = [0] * num_devices, [0.0] * num_devices
    for task in sorted(range(len(num_envs)), key=lambda k: (-num_envs[k], -costs[k])):
        device = min(range(num_devices), key=lambda d: (load[d], cost[d]))
        tasks[device].append(task)
        load[device] += num_envs[task]
        cost[device] += costs[task]
    if len(set(load)) > 1:
        return None
    return tuple(tuple(sorted(group)) for group in tasks)
