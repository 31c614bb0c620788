"""What the tasks of a config collect, and over how many devices that and its batches split."""

import dataclasses

from m3po_jax.config import Config, ConfigError, setting_error
from m3po_jax.envs import families, registry
from m3po_jax.envs.placement import place_tasks


@dataclasses.dataclass(frozen=True)
class Load:
    """What a config collects, computed from its task names alone.

    Attributes:
        num_envs: Environments of each task that is listed, of a family those of each variation.
        sizes: Tasks that each one listed stands for: the variations of a family, else one.
        replay_round: Windows of a batch in which each task comes as often as its weight says.
        transitions: Agent steps of one unroll over all environments.
        env_steps: Simulator steps of one unroll, action repeats counted.
    """

    num_envs: tuple[int, ...]
    sizes: tuple[int, ...]
    replay_round: int
    transitions: int
    env_steps: int

    @property
    def num_tasks(self) -> int:
        """Tasks of the agent."""
        return sum(self.sizes)

    @property
    def rows(self) -> tuple[int, ...]:
        """Environments of each task that is listed, over all variations of a family."""
        return tuple(n * size for n, size in zip(self.num_envs, self.sizes, strict=True))


def task_load(config: Config) -> Load:
    """Returns what one unroll of the config's tasks collects.

    Raises:
        ConfigError: No task, an unknown one, one named twice, or an option that it lacks.
    """
    if not config.tasks:
        raise setting_error(
            "tasks", config.tasks, "names no task; give at least one, such as ('toy/PointReachA',)"
        )
    num_envs, sizes, repeats, weights, seen = [], [], [], [], set()
    for index, name in enumerate(config.tasks):
        try:
            request = registry.parse_task(name)
        except ValueError as error:
            raise ConfigError(f"config.tasks[{index}] = {name!r}: {error}") from error
        if request.name in seen:
            raise setting_error(
                f"tasks[{index}]", name, "is listed twice; list each environment once"
            )
        seen.add(request.name)
        num_envs.append(int(request.options.get("num_envs", config.env.num_envs)))
        sizes.append(families.size_of(request.options))
        weights.append(sizes[-1] * int(request.options.get("replay_weight", 1)))
        repeats.append(registry.action_repeat(request, config.env))
    length = config.env.unroll_length
    rows = [n * size for n, size in zip(num_envs, sizes, strict=True)]
    env_steps = length * sum(n * repeat for n, repeat in zip(rows, repeats, strict=True))
    return Load(tuple(num_envs), tuple(sizes), sum(weights), length * sum(rows), env_steps)


def policy_samples(config: Config, load: Load) -> int:
    """Samples of one policy update."""
    if config.learns_from_real:
        return load.transitions
    if config.policy.objective == "likelihood_ratio":
        return config.world_model.batch_size * config.policy.imagined_horizon
    return config.world_model.batch_size * (config.world_model.horizon + 1)


def device_conflict(config: Config, num_devices: int) -> str | None:
    """What keeps environments or batches from splitting evenly over the devices, or None.

    Each device holds as many environments of every task, and draws as many windows of it, as every
    other one. With `by_task` it also steps as many environments as every other one.
    """
    if num_devices % config.train.fsdp_devices:
        return (
            f"config.train.fsdp_devices = {config.train.fsdp_devices} does not divide "
            f"{num_devices} devices (train.num_devices); "
            f"nearest: {nearest_divisor(num_devices, config.train.fsdp_devices)}"
        )
    if num_devices < 2:
        return None
    load = task_load(config)
    for name, count in zip(config.tasks, load.num_envs, strict=True):
        if count % num_devices:
            return (
                f"{name} has {count} environments (env.num_envs or its option num_envs), which "
                f"do not divide evenly over {num_devices} devices (train.num_devices); "
                f"nearest: {_nearest_multiple(count, num_devices)}"
            )
    size, unit = config.world_model.batch_size, load.replay_round * num_devices
    if config.has_model and size % unit:
        return (
            f"config.world_model.batch_size = {size} does not divide evenly over "
            f"{load.num_tasks} tasks "
            f"(replay_weight {load.replay_round} in all) on {num_devices} devices "
            "(train.num_devices); "
            f"nearest: {_nearest_multiple(size, unit)}"
        )
    samples = {"policy": policy_samples(config, load), "critic": load.transitions}
    for part, number in samples.items():
        minibatches, each = getattr(config, part).minibatches, number // num_devices
        if each % minibatches:
            return (
                f"config.{part}.minibatches = {minibatches} minibatches do not divide the {each} "
                f"samples of each of {num_devices} devices (train.num_devices); "
                f"nearest: {nearest_divisor(each, minibatches)}"
            )
    return _placement_conflict(config, load, num_devices)


def _placement_conflict(config: Config, load: Load, num_devices: int) -> str | None:
    """What keeps each device from stepping whole tasks, equally many environments in all."""
    num_tasks, placement = len(config.tasks), config.train.task_placement
    if placement != "by_task":
        return None
    problem = f"config.train.task_placement = {placement!r} does not work on {num_devices} devices"
    if num_tasks < num_devices:
        return (
            f"{problem} (train.num_devices): there are only {num_tasks} tasks and each goes to one "
            f"device; use at most {num_tasks} devices, or 'sharded'"
        )
    if place_tasks(load.rows, (1.0,) * num_tasks, num_devices) is None:
        counts = ", ".join(f"{name}: {n}" for name, n in zip(config.tasks, load.rows, strict=True))
        return (
            f"{problem} (train.num_devices): the tasks' environments ({counts}) cannot be "
            f"distributed equally; give every task the same number (env.num_envs, without the "
            f"option num_envs) and use "
            f"a number of devices that divides {num_tasks}, or set 'sharded'"
        )
    return None


def most_devices(config: Config, available: int) -> int:
    """The most of the available devices that environments and batches split over evenly."""
    counts = range(available, 0, -1)
    return next(n for n in counts if device_conflict(config, n) is None)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of a number that is nearest to what was wanted."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(n - wanted))


def _nearest_multiple(number: int, unit: int) -> int:
    return max(round(number / unit), 1) * unit
