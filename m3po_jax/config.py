"""All settings, as frozen dataclasses; `from_config_dict` is the only reader of a ConfigDict.

This module knows names and types; `config_validation.validate` knows which values make sense.
Neither imports JAX, so that a mistake is refused at once.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

# The bound on the measured KL of one policy update, in units of policy.kl_target (PPO's rule of
# thumb).
KL_BOUND_FACTOR = 1.5


class UserError(Exception):
    """A mistake that the user can mend: the commands print its text and no traceback."""


class ConfigError(UserError, ValueError):
    """A setting that is unknown, of the wrong type, out of range or impossible."""


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Environments. A task name can override `num_envs`, `action_repeat`, ... for itself.

    Attributes:
        num_envs: Parallel environments of each task.
        action_repeat: Simulator control steps per agent step.
        unroll_length: Agent steps collected between two rounds of updates.
    """

    num_envs: int = 8
    action_repeat: int = 4
    unroll_length: int = 8


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Network sizes. A width of 0 is taken from `size`.

    Attributes:
        size: Name of a preset: tiny, 1M, 5M, 19M, 48M or 317M.
        encoder: What policy and critic see: the world model's `latent`, or the normalised
            `observation` and the task's one-hot id; the latter is an agent without a model.
        encoder_width: Width of the encoder's hidden layers.
        encoder_layers: Hidden layers of the encoder.
        mlp_width: Width of all other hidden layers (two in every head).
        latent_size: Size of the latent, a multiple of `simplex_size`.
        num_q: Heads of the Q ensemble, at least 2.
        embedding_size: Size of the task embedding; 0 means 16 under 10 tasks, else 96.
        simplex_size: Size of the softmax groups of SimNorm.
        num_bins: Bins of the two-hot reward and value heads.
        support_low: Lowest bin, in symlog units.
        support_high: Highest bin, in symlog units.
        dropout: Dropout rate in the first Q layer.
        log_std_min: Lowest log standard deviation of the policy. Where it is near zero in a few
            states, the KL there alone can hold up the whole policy.
        log_std_max: Highest log standard deviation of the policy.
        precision: Of the inputs of the layers' matrix products, `float32` or `bfloat16`; their
            sums, all parameters and all else stay float32. A TPU rounds the inputs of float32
            products to bfloat16 anyway.
    """

    size: str = "tiny"
    encoder: str = "latent"
    encoder_width: int = 0
    encoder_layers: int = 0
    mlp_width: int = 0
    latent_size: int = 0
    num_q: int = 0
    embedding_size: int = 0
    simplex_size: int = 8
    num_bins: int = 101
    support_low: float = -10.0
    support_high: float = 10.0
    dropout: float = 0.01
    log_std_min: float = -2.0
    log_std_max: float = 1.0
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """World-model loss and optimizer (ALGORITHM section 1).

    Attributes:
        batch_size: Windows per update, over all tasks.
        horizon: Real steps per window.
        rho: Weight of step t is rho^t.
        consistency_scale: Scale of the latent consistency loss.
        reward_scale: Scale of the reward cross-entropy.
        value_scale: Scale of the Q cross-entropy.
        termination_scale: Scale of the termination cross-entropy.
        reconstruction_scale: Scale of the error of a decoder of observations; 0 means no decoder.
            For comparison only: the agent of this project reconstructs nothing.
        learning_rate: Adam step size.
        encoder_learning_rate_scale: Factor on the encoder's and the embedding's step size.
        max_gradient_norm: Global-norm clip.
        tau: Step of the target Q heads towards the Q heads, per update.
        value_target: `td` (one step, minimum of two random heads) or `lambda` (lambda-return over
            the real step and imagined steps of the policy, mean of two random heads).
        imagined_target_steps: Imagined steps of the `lambda` target.
        lambda_: Lambda of the `lambda` target; 0 leaves the real step alone.
    """

    batch_size: int = 128
    horizon: int = 3
    rho: float = 0.5
    consistency_scale: float = 20.0
    reward_scale: float = 0.1
    value_scale: float = 0.1
    termination_scale: float = 1.0
    reconstruction_scale: float = 0.0
    learning_rate: float = 1e-3
    encoder_learning_rate_scale: float = 0.3
    max_gradient_norm: float = 20.0
    tau: float = 0.01
    value_target: str = "lambda"
    imagined_target_steps: int = 3
    lambda_: float = 0.5


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """MPPI in latent space (ALGORITHM section 2).

    Attributes:
        collect: Whether collecting plans; otherwise the policy prior acts.
        num_samples: Action sequences per iteration, policy samples included.
        num_policy_samples: Sequences rolled out with the policy.
        iterations: MPPI iterations.
        num_elites: Sequences that define the next mean and std.
        temperature: Softmax temperature on returns in units of the running return scale.
        min_std: Lowest standard deviation of the pre-tanh plan.
        max_std: Highest and initial standard deviation of the pre-tanh plan.
        horizon: Agent steps planned.
    """

    collect: bool = True
    num_samples: int = 32
    num_policy_samples: int = 8
    iterations: int = 2
    num_elites: int = 8
    temperature: float = 0.5
    min_std: float = 0.05
    max_std: float = 2.0
    horizon: int = 3


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Trust-region policy update (ALGORITHM section 3).

    Attributes:
        objective: `likelihood_ratio` (PPO surrogate) or `pathwise` (gradient through Q).
        data: Surrogate data of `likelihood_ratio`: `imagined` or `real`.
        trust_region: `clip` (stop at the KL bound), `kl` (adaptive penalty) or `none`.
        kl_target: Target KL(old || new) of one update, in nats; the bound is 1.5 times it.
        clip_epsilon: Clip range of the probability ratio.
        epochs: Gradient steps on one batch (times `minibatches`).
        minibatches: Minibatches per epoch.
        imagined_horizon: Imagined steps of `imagined` data.
        lambda_: Lambda of the advantage estimator.
        entropy_scale: Scale of the entropy of the pre-tanh Gaussian.
        planner_kl_scale: Scale of KL(behaviour || policy), `real` data only.
        learning_rate: Adam step size.
        max_gradient_norm: Global-norm clip.
    """

    objective: str = "likelihood_ratio"
    data: str = "imagined"
    trust_region: str = "clip"
    kl_target: float = 0.05
    clip_epsilon: float = 0.2
    epochs: int = 2
    minibatches: int = 1
    imagined_horizon: int = 3
    lambda_: float = 0.95
    entropy_scale: float = 3e-2
    planner_kl_scale: float = 0.0
    learning_rate: float = 3e-4
    max_gradient_norm: float = 20.0


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Model-free critic on lambda-returns of real rollouts (ALGORITHM section 3).

    Attributes:
        lambda_: Lambda of the returns.
        epochs: Passes over the fresh rollout.
        minibatches: Minibatches per pass.
        learning_rate: Adam step size.
        max_gradient_norm: Global-norm clip.
    """

    lambda_: float = 0.95
    epochs: int = 8
    minibatches: int = 4
    learning_rate: float = 3e-4
    max_gradient_norm: float = 20.0


@dataclasses.dataclass(frozen=True)
class ExplorationConfig:
    """Value-discrepancy bonus (ALGORITHM section 4).

    Attributes:
        bonus: `discrepancy` (normalised |Q_mf - Q_mb|) or `pome` (clipped around its median).
        beta_start: Weight of the bonus at the first step; 0 in both switches the bonus off.
        beta_end: Weight of the bonus at the last step, reached linearly.
        discount: Discount of the bonus critic.
        max_bonus: Upper clip of the normalised bonus.
        learning_rate: Adam step size of the bonus critic.
        tau: Step of the bonus critic's target towards the critic, per training iteration.
    """

    bonus: str = "discrepancy"
    beta_start: float = 0.1
    beta_end: float = 0.0
    discount: float = 0.99
    max_bonus: float = 2.0
    learning_rate: float = 3e-4
    tau: float = 0.1


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """On-device replay.

    Attributes:
        capacity: Transitions over all environments and tasks, rounded down to whole unrolls.
    """

    capacity: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
        total_env_steps: Simulator steps over all tasks and environments, action repeats counted.
        warmup_env_steps: Of these, collected with random actions before the first update: warm-up.
        updates_per_transition: Replay ratio: model and policy updates from replay per collected
            transition; 0 for an agent without a model, which learns from fresh rollouts alone.
        final_learning_rate_scale: Step sizes of the world model and the policy fall linearly over
            the run to this share of theirs; 1 keeps them.
        eval_every: Env steps between evaluations (and one at the end); 0 evaluates at the end only.
        eval_episodes: Episodes of each task per evaluation.
        eval_policy: `planner` or `prior`.
        checkpoint_every: Env steps between checkpoints (and one at the end).
        log_every: Training iterations between lines of metrics.csv.
        max_skipped_updates: Iterations in a row that may leave out an update because a loss or a
            gradient is not finite; one more stops the run.
        frozen: Parts whose parameters stay as they are, of `PARTS`; for finetuning.
        num_devices: Devices that share environments and batches, over all processes; 0 takes as
            many of those present as these split over evenly.
        fsdp_devices: Devices that share one copy of parameters, their averages and optimizers'
            moments between iterations; it divides the devices. 1 keeps a copy on every device.
        task_placement: Which tasks a device steps while collecting: `sharded` (its share of the
            environments of every task) or `by_task` (all environments of some tasks). Learning
            always takes a share of every task.
    """

    total_env_steps: int = 120_000
    warmup_env_steps: int = 7_500
    updates_per_transition: float = 1.0
    final_learning_rate_scale: float = 0.1
    eval_every: int = 30_000
    eval_episodes: int = 8
    eval_policy: str = "planner"
    checkpoint_every: int = 30_000
    log_every: int = 1
    max_skipped_updates: int = 10
    frozen: tuple[str, ...] = ()
    num_devices: int = 0
    fsdp_devices: int = 1
    task_placement: str = "sharded"


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    Attributes:
        seed: Seed of all random streams.
        tasks: Registry names, with options as in `brax/ant?backend=spring&num_envs=16`.
    """

    seed: int = 0
    tasks: tuple[str, ...] = ()
    env: EnvConfig = EnvConfig()
    network: NetworkConfig = NetworkConfig()
    world_model: WorldModelConfig = WorldModelConfig()
    planner: PlannerConfig = PlannerConfig()
    policy: PolicyConfig = PolicyConfig()
    critic: CriticConfig = CriticConfig()
    exploration: ExplorationConfig = ExplorationConfig()
    replay: ReplayConfig = ReplayConfig()
    train: TrainConfig = TrainConfig()

    @property
    def has_model(self) -> bool:
        """Whether there is a world model, and with it a planner and learning from replay."""
        return self.network.encoder == "latent"

    @property
    def has_bonus(self) -> bool:
        """Whether the exploration bonus ever has a weight."""
        return self.exploration.beta_start > 0.0 or self.exploration.beta_end > 0.0

    @property
    def learns_from_real(self) -> bool:
        """Whether the policy's surrogate data are the fresh rollouts."""
        return self.policy.objective == "likelihood_ratio" and self.policy.data == "real"

    @property
    def has_critic(self) -> bool:
        """Whether anything uses the model-free critic."""
        return self.has_bonus or self.learns_from_real


# What `train.frozen` can name: parts of the world model, and the other networks.
PARTS = (
    *("embedding", "encoder", "dynamics", "reward", "termination", "q", "decoder"),
    *("policy", "critic", "exploration"),
)


# (encoder width, encoder layers, mlp width, latent size, Q heads), ALGORITHM section 1
SIZES: Mapping[str, tuple[int, int, int, int, int]] = {
    "tiny": (128, 1, 128, 64, 2),
    "1M": (256, 2, 384, 128, 2),
    "5M": (256, 2, 512, 512, 5),
    "19M": (1024, 3, 1024, 768, 5),
    "48M": (1792, 4, 1792, 768, 5),
    "317M": (4096, 5, 4096, 1376, 8),
}


# Three real tasks of MuJoCo Playground that two CPU cores can learn.
CLASSIC_TASKS = ("dmc/CartpoleBalance", "dmc/CartpoleSwingup", "dmc/ReacherEasy")
# Eight Brax environments with different bodies, some of which terminate.
BRAX8_TASKS = (
    "brax/ant",
    "brax/halfcheetah",
    "brax/hopper",
    "brax/humanoid",
    "brax/inverted_double_pendulum",
    "brax/inverted_pendulum",
    "brax/reacher",
    "brax/walker2d",
)


def resolve_network(cfg: NetworkConfig, num_tasks: int) -> NetworkConfig:
    """Fills the sizes that are 0 from the preset `cfg.size` (TD-MPC2's sizes and a small one).

    Args:
        cfg: Network settings, zeros where the preset decides.
        num_tasks: Number of tasks; decides the embedding size.

    Returns:
        The same settings without zeros.

    Raises:
        ConfigError: No such preset.
    """
    if cfg.size not in SIZES:
        raise ConfigError(f"network.size = {cfg.size!r} is no preset; {nearest(cfg.size, SIZES)}")
    width, layers, mlp_width, latent_size, num_q = SIZES[cfg.size]
    return dataclasses.replace(
        cfg,
        encoder_width=cfg.encoder_width or width,
        encoder_layers=cfg.encoder_layers or layers,
        mlp_width=cfg.mlp_width or mlp_width,
        latent_size=cfg.latent_size or latent_size,
        num_q=cfg.num_q or num_q,
        embedding_size=cfg.embedding_size or (16 if num_tasks < 10 else 96),
    )


def setting_error(key: str, value: Any, text: str) -> ConfigError:
    """What to raise for a setting: names it and its value, and goes on with `text`."""
    return ConfigError(f"config.{key} = {value!r} {text}")


def nearest(value: str, choices: Iterable[str]) -> str:
    """Returns 'did you mean ...?' or, where nothing is near, 'choose one of ...'."""
    choices = tuple(choices)
    folded = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(value.lower(), folded, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(folded[name] for name in close)}?"
    return f"choose one of {', '.join(choices)}"


def field_types() -> dict[str, type]:
    """Returns the type of every setting by its dotted name; tuples of strings are `tuple`."""
    return {key: type(value) for key, value in flatten(dataclasses.asdict(Config())).items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested mappings by their dotted names, in order."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unknown_key(key: str) -> ConfigError:
    """Returns the error for a dotted name that is no setting, with the nearest ones that are."""
    known = tuple(field_types())
    members = [name for name in known if name.startswith(f"{key}.")]
    if members:
        return ConfigError(f"config.{key} is a group of settings; name one, as {members[0]}")
    leaf = key.rpartition(".")[2]

    def likeness(name: str) -> float:
        name_leaf = name.rpartition(".")[2]
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        return whole + difflib.SequenceMatcher(None, leaf, name_leaf).ratio()

    close = [name for name in sorted(known, key=likeness, reverse=True) if likeness(name) > 1.0]
    hint = f"did you mean {' or '.join(close[:2])}?" if close else "m3po_jax/config.py has all keys"
    return ConfigError(f"config.{key} does not exist; {hint}")


def default_config() -> ml_collections.ConfigDict:
    """Returns all settings at their defaults, locked: a key that does not exist is refused."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config())).lock()


def suite_config(tasks: str = "") -> ml_collections.ConfigDict:
    """Returns the default settings with the tasks of `--config=FILE:NAME,NAME`.

    Args:
        tasks: Registry names, separated by commas; none means the classic suite.
    """
    config = default_config()
    config.tasks = tuple(tasks.split(",")) if tasks else CLASSIC_TASKS
    return config


def from_config_dict(cfg: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Converts nested settings to frozen dataclasses; checks names and types, not values.

    Args:
        cfg: All settings, as `default_config` returns them, or the nested dict of a config.json.

    Returns:
        The settings, hashable.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
    """
    tree = cfg.to_dict() if isinstance(cfg, ml_collections.ConfigDict) else cfg
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a config must be a ConfigDict, found {type(cfg).__name__} {cfg!r}")
    config: Config = _build(Config, tree, "")
    return config


def _build(kind: Any, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise setting_error(prefix[:-1], tree, "must be a group of settings")
    names = [field.name for field in dataclasses.fields(kind)]
    for key in tree:
        if key not in names:
            raise unknown_key(f"{prefix}{key}")
    values = {}
    for field in dataclasses.fields(kind):
        key = f"{prefix}{field.name}"
        if field.name not in tree:
            raise ConfigError(
                f"config.{key} is missing; start from m3po_jax.config.default_config()"
            )
        value = tree[field.name]
        if dataclasses.is_dataclass(field.type):
            values[field.name] = _build(field.type, value, f"{key}.")
        else:
            values[field.name] = _cast(value, field.default, key)
    return kind(**values)


def _cast(value: Any, default: Any, key: str) -> Any:
    """Returns `value` in the type of `default`; whole numbers pass as floats, lists as tuples."""
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise setting_error(key, value, "must be a tuple of names, as ('toy/A', 'toy/B')")
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    raise setting_error(
        key,
        value,
        f"is of type {type(value).__name__} and must be {kind.__name__}, "
        f"as the default {default!r}",
    )
