"""All settings as frozen dataclasses; the type of each says which values it may have."""

import dataclasses
from typing import Annotated, Literal, get_args

from m3po_jax.config.rules import Range, above, at_least

# The bound on the measured KL of one policy update, in units of policy.kl_target (PPO's rule of
# thumb).
KL_BOUND_FACTOR = 1.5

LARGEST_SEED = 2**32 - 1  # a key is made of 32 bits, and JAX drops the others in silence
MOST_ROWS = 2**24  # of anything that is the size of an array; memory ends far below

# What `train.frozen` can name: modules of the world model, and the other networks.
Module = Literal[
    "embedding",
    "encoder",
    "dynamics",
    "reward",
    "termination",
    "q",
    "explorers",
    "decoder",
    "policy",
    "critic",
    "exploration",
]
MODULES: tuple[Module, ...] = get_args(Module)


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Environments. A task name can override `num_envs`, `action_repeat`, ... for itself.

    Attributes:
        num_envs: Parallel environments of each task.
        agent_step: Simulated seconds of one agent step: a task is given the nearest whole number of
            control steps, at least 1. One whose control step is not known beforehand has 1.
        action_repeat: Control steps per agent step of every task; 0 leaves it to `agent_step`.
        unroll_length: Agent steps collected between two rounds of updates.
    """

    num_envs: Annotated[int, Range(1, MOST_ROWS)] = 8
    agent_step: Annotated[float, above(0)] = 0.04
    action_repeat: Annotated[int, at_least(0)] = 0
    unroll_length: Annotated[int, Range(1, MOST_ROWS)] = 8


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Network sizes. A width of 0 is taken from `size`.

    Attributes:
        size: Name of a preset: tiny, 1M, 5M, 19M, 48M or 317M.
        encoder: What policy and critic see: the world model's `latent`, or the normalised
            `observation` and the task's one-hot id; the latter is an agent without a model.
        normalize_observations: Whether the encoder of latents reads observations in units of their
            task's running standard deviation; `observation` always does.
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

    size: Literal["tiny", "1M", "5M", "19M", "48M", "317M"] = "tiny"
    encoder: Literal["latent", "observation"] = "latent"
    normalize_observations: bool = True
    encoder_width: Annotated[int, Range(0, MOST_ROWS)] = 0
    encoder_layers: Annotated[int, at_least(0)] = 0
    mlp_width: Annotated[int, Range(0, MOST_ROWS)] = 0
    latent_size: Annotated[int, Range(0, MOST_ROWS)] = 0
    num_q: Annotated[int, at_least(0)] = 0
    embedding_size: Annotated[int, Range(0, MOST_ROWS)] = 0
    simplex_size: Annotated[int, at_least(1)] = 8
    num_bins: Annotated[int, Range(2, MOST_ROWS)] = 101
    # Beyond -20 and 20, exp() leaves float32 arithmetic without digits.
    support_low: Annotated[float, Range(-20, 20)] = -10.0
    support_high: Annotated[float, Range(-20, 20)] = 10.0
    dropout: Annotated[float, Range(0, 1, "[)")] = 0.01
    log_std_min: Annotated[float, Range(-20, 20)] = -2.0
    log_std_max: Annotated[float, Range(-20, 20)] = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """World-model loss and optimizer (docs/concepts.md, "The implicit world model").

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

    batch_size: Annotated[int, Range(1, MOST_ROWS)] = 64
    horizon: Annotated[int, Range(1, MOST_ROWS)] = 3
    rho: Annotated[float, Range(0, 1, "(]")] = 0.5
    consistency_scale: Annotated[float, at_least(0)] = 20.0
    reward_scale: Annotated[float, at_least(0)] = 0.1
    value_scale: Annotated[float, at_least(0)] = 0.1
    termination_scale: Annotated[float, at_least(0)] = 1.0
    reconstruction_scale: Annotated[float, at_least(0)] = 0.0
    learning_rate: Annotated[float, above(0)] = 1e-3
    encoder_learning_rate_scale: Annotated[float, above(0)] = 0.3
    max_gradient_norm: Annotated[float, above(0)] = 20.0
    tau: Annotated[float, Range(0, 1, "(]")] = 0.05
    value_target: Literal["td", "lambda"] = "lambda"
    imagined_target_steps: Annotated[int, at_least(1)] = 3
    lambda_: Annotated[float, Range(0, 1)] = 0.5


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """MPPI in latent space (docs/concepts.md, "The planner").

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
    num_samples: Annotated[int, Range(1, MOST_ROWS)] = 32
    num_policy_samples: Annotated[int, Range(0, MOST_ROWS)] = 8
    iterations: Annotated[int, at_least(1)] = 2
    num_elites: Annotated[int, at_least(1)] = 8
    temperature: Annotated[float, above(0)] = 0.5
    min_std: Annotated[float, above(0)] = 0.05
    max_std: Annotated[float, above(0)] = 2.0
    horizon: Annotated[int, Range(1, MOST_ROWS)] = 3


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Trust-region policy update (docs/concepts.md, "The policy and its trust region").

    Attributes:
        objective: `pathwise` (gradient through Q) or `likelihood_ratio` (PPO surrogate).
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

    objective: Literal["likelihood_ratio", "pathwise"] = "pathwise"
    data: Literal["imagined", "real"] = "imagined"
    trust_region: Literal["clip", "kl", "none"] = "kl"
    kl_target: Annotated[float, above(0)] = 0.05
    clip_epsilon: Annotated[float, Range(0, 1, "()")] = 0.2
    epochs: Annotated[int, at_least(1)] = 1
    minibatches: Annotated[int, at_least(1)] = 1
    imagined_horizon: Annotated[int, Range(1, MOST_ROWS)] = 3
    lambda_: Annotated[float, Range(0, 1)] = 0.95
    entropy_scale: Annotated[float, at_least(0)] = 1e-4
    planner_kl_scale: Annotated[float, at_least(0)] = 0.0
    learning_rate: Annotated[float, above(0)] = 3e-4
    max_gradient_norm: Annotated[float, above(0)] = 20.0


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Model-free critic on lambda-returns of real rollouts.

    Attributes:
        lambda_: Lambda of the returns.
        epochs: Passes over the fresh rollout.
        minibatches: Minibatches per pass.
        learning_rate: Adam step size.
        max_gradient_norm: Global-norm clip.
    """

    lambda_: Annotated[float, Range(0, 1)] = 0.95
    epochs: Annotated[int, at_least(1)] = 8
    minibatches: Annotated[int, at_least(1)] = 4
    learning_rate: Annotated[float, above(0)] = 3e-4
    max_gradient_norm: Annotated[float, above(0)] = 20.0


@dataclasses.dataclass(frozen=True)
class ExplorationConfig:
    """Novelty bonus (docs/concepts.md, "Exploration: what is not known yet").

    Attributes:
        scale: Weight of novelty in the collecting planner, as a share of the range of the task's
            rewards per agent step; it falls as the task is mastered. 0 switches the bonus off.
        num_explorers: Small networks that predict the next latent; the bonus is their disagreement.
        explorer_width: Width of their one hidden layer.
        max_bonus: Upper clip of the bonus, whose mean over the replayed steps of a task is about 1.
        discount: Discount of the value of novelty per agent step.
        expectile: Of what may come next, which outcome the value of novelty expects: 0.5 the mean,
            towards 1 the best.
        learning_rate: Adam step size of the value of novelty.
        tau: Step of its target towards it, per update.
    """

    scale: Annotated[float, at_least(0)] = 0.0375
    num_explorers: Annotated[int, Range(2, MOST_ROWS)] = 5
    explorer_width: Annotated[int, Range(1, MOST_ROWS)] = 64
    max_bonus: Annotated[float, above(0)] = 5.0
    discount: Annotated[float, Range(0, 1, "[)")] = 0.98
    expectile: Annotated[float, Range(0, 1, "()")] = 0.9
    learning_rate: Annotated[float, above(0)] = 3e-4
    tau: Annotated[float, Range(0, 1, "(]")] = 0.02


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """On-device replay.

    Attributes:
        capacity: Transitions over all environments and tasks, rounded down to whole unrolls.
    """

    # The replay's index is an int32.
    capacity: Annotated[int, Range(1, 2**31 - 1)] = 1_000_000


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
        frozen: Modules whose parameters are kept unchanged; for fine-tuning.
        num_devices: Devices that share environments and batches, over all processes; 0 takes as
            many of those present as these split over evenly.
        fsdp_devices: Devices that share one copy of parameters, their averages and optimizers'
            moments between iterations; it divides the devices. 1 keeps a copy on every device.
        task_placement: Which tasks a device steps while collecting: `sharded` (its share of the
            environments of every task) or `by_task` (all environments of some tasks). Learning
            always takes a share of every task.
    """

    total_env_steps: Annotated[int, at_least(1)] = 120_000
    warmup_env_steps: Annotated[int, at_least(0)] = 7_500
    updates_per_transition: Annotated[float, at_least(0)] = 2.0
    final_learning_rate_scale: Annotated[float, Range(0, 1, "(]")] = 0.1
    eval_every: Annotated[int, at_least(0)] = 30_000
    eval_episodes: Annotated[int, Range(1, MOST_ROWS)] = 8
    eval_policy: Literal["planner", "prior"] = "planner"
    checkpoint_every: Annotated[int, at_least(1)] = 30_000
    log_every: Annotated[int, at_least(1)] = 1
    max_skipped_updates: Annotated[int, at_least(1)] = 10
    frozen: tuple[Module, ...] = ()
    num_devices: Annotated[int, at_least(0)] = 0
    fsdp_devices: Annotated[int, at_least(1)] = 1
    task_placement: Literal["sharded", "by_task"] = "sharded"


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    Attributes:
        seed: Seed of all random streams.
        tasks: Registry names, with options as in `brax/ant?backend=spring&num_envs=16`.
        variations: Names of the variations of the tasks that are families; drawn by `seed` where a
            run begins without any, and then written in its config.json.
    """

    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    tasks: tuple[str, ...] = ()
    variations: tuple[str, ...] = ()
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
        """Whether the collecting planner seeks novelty."""
        return self.exploration.scale > 0.0

    @property
    def learns_from_real(self) -> bool:
        """Whether the policy's surrogate data are the fresh rollouts."""
        return self.policy.objective == "likelihood_ratio" and self.policy.data == "real"
