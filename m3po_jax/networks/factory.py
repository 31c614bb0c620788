"""The frozen bundle of modules: initialisation and application as pure functions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from m3po_jax.config import NetworkConfig, resolve_network
from m3po_jax.networks.actor_critic import Actor, Critic
from m3po_jax.networks.world_model import WorldModel
from m3po_jax.ops.two_hot import Support
from m3po_jax.types import Params, TaskSpec


@flax.struct.dataclass
class AgentParams:
    """All learned parameters, by the update that owns them."""

    world_model: Params  # embedding, encoder, dynamics, reward, termination, Q; {} without a model
    policy: Params
    critic: Params  # V_mf
    exploration: Params  # V_x


@dataclasses.dataclass(frozen=True)
class Networks:
    """Modules with their sizes. Every method is pure and takes its parameters first.

    Leading axes are free and must agree between arguments. `u` is a pre-tanh action.

    Attributes:
        world_model: The implicit world model.
        encoder: What `z` and `e` are for policy and critic: `latent` for the world model's, or
            `observation` for normalised observations and one-hot task ids.
        normalize_observations: Whether the world model is given normalised observations.
        actor: The policy prior.
        critic: The head of V_mf and of V_x.
        support: Bins of every two-hot head.
        observation_size: Padded observation size O.
        action_size: Padded action size A.
        action_masks: 1 for active action dims, per task, K tuples of A numbers.
        terminations: Whether each of the K tasks can terminate.
    """

    world_model: WorldModel
    encoder: str
    normalize_observations: bool
    actor: Actor
    critic: Critic
    support: Support
    observation_size: int
    action_size: int
    action_masks: tuple[tuple[float, ...], ...]
    terminations: tuple[bool, ...]

    def init(self, key: jax.Array) -> AgentParams:
        """Draws all parameters. The key is consumed."""
        keys = jax.random.split(key, 4)
        observation = jnp.zeros((1, self.observation_size))
        u = jnp.zeros((1, self.action_size))
        task_id = jnp.zeros((1,), jnp.int32)
        if self.encoder == "observation":
            e, z = jnp.zeros((1, self.world_model.num_tasks)), observation
            world_model: Params = {}
        else:
            e = jnp.zeros((1, self.world_model.embedding_size))
            z = jnp.zeros((1, self.world_model.latent_size))
            init = self.world_model.init(keys[0], observation, u, task_id, method="initialize")
            world_model = init["params"]
        return AgentParams(
            world_model=world_model,
            policy=self.actor.init(keys[1], z, e, u)["params"],
            critic=self.critic.init(keys[2], z, e)["params"],
            exploration=self.critic.init(keys[3], z, e)["params"],
        )

    def action_mask(self, task_id: jax.Array) -> jax.Array:
        """Masks `[..., A]` of tasks `[...]`."""
        return jnp.asarray(self.action_masks, jnp.float32)[task_id]

    def can_terminate(self, task_id: jax.Array) -> jax.Array | None:
        """1 for tasks that can terminate, else 0, `[..., 1]`; `None` where all or none can."""
        if all(self.terminations) or not any(self.terminations):
            return None
        return jnp.asarray(self.terminations, jnp.float32)[task_id][..., None]

    def apply_model(self, params: Params, method: str, *args: jax.Array, **kwargs: Any) -> Any:
        """Calls a method of the world model by name."""
        return self.world_model.apply({"params": params}, *args, method=method, **kwargs)

    def q_logits(
        self,
        q: Params,
        z: jax.Array,
        a: jax.Array,
        e: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Two-hot logits `[N, ..., bins]` of the N heads whose parameters `q` holds."""
        module = self.world_model.clone(num_q=jax.tree.leaves(q)[0].shape[0])
        logits: Any = module.apply(
            {"params": {"q": q}}, z, a, e, dropout_keys=dropout_keys, method="q_logits"
        )
        return logits

    def embed(self, params: Params, task_id: jax.Array) -> jax.Array:
        """Task embeddings `[..., E]`; `params` are the world model's."""
        return self.apply_model(params, "embed", task_id)

    def encode(self, params: Params, observation: jax.Array, e: jax.Array) -> jax.Array:
        """Latents `[..., Z]`; `params` are the world model's."""
        return self.apply_model(params, "encode", observation, e)

    def policy(
        self, params: Params, z: jax.Array, e: jax.Array, action_mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and std `[..., A]` of the pre-tanh policy; `params` are the policy's."""
        return _apply(self.actor, params, z, e, action_mask)

    def value_logits(self, params: Params, z: jax.Array, e: jax.Array) -> jax.Array:
        """Two-hot logits of V_mf; `params` are the critic's."""
        return _apply(self.critic, params, z, e)

    def exploration_logits(self, params: Params, z: jax.Array, e: jax.Array) -> jax.Array:
        """Two-hot logits of V_x, the value of novelty; `params` are V_x's."""
        return _apply(self.critic, params, z, e)


def _apply(module: nn.Module, params: Params, *inputs: jax.Array) -> Any:
    return module.apply({"params": params}, *inputs)


def make_networks(
    specs: Sequence[TaskSpec],
    action_masks: np.ndarray,
    observation_size: int,
    config: NetworkConfig,
    *,
    num_explorers: int = 0,
    explorer_width: int = 64,
    decoder: bool = False,
) -> Networks:
    """Builds the bundle for a set of tasks.

    Args:
        specs: The tasks, in the order of their ids.
        action_masks: 1 for active action dims `[K, A]`.
        observation_size: Padded observation size O.
        config: Sizes; zeros are taken from the preset `config.size`.
        num_explorers: Small networks whose disagreement is the exploration bonus; 0 means none.
        explorer_width: Width of their hidden layer.
        decoder: Whether the world model decodes observations.
    """
    config = resolve_network(config, len(specs))
    world_model = WorldModel(
        num_tasks=len(specs),
        embedding_size=config.embedding_size,
        latent_size=config.latent_size,
        encoder_width=config.encoder_width,
        encoder_layers=config.encoder_layers,
        mlp_width=config.mlp_width,
        num_q=config.num_q,
        num_bins=config.num_bins,
        simplex_size=config.simplex_size,
        dropout=config.dropout,
        has_termination=any(spec.can_terminate for spec in specs),
        num_explorers=num_explorers,
        explorer_width=explorer_width,
        decoded_size=observation_size if decoder else 0,
        precision=config.precision,
        contexts=tuple(spec.context for spec in specs),
    )
    action_size = int(action_masks.shape[-1])
    stds = config.log_std_min, config.log_std_max
    return Networks(
        world_model=world_model,
        encoder=config.encoder,
        normalize_observations=config.normalize_observations,
        actor=Actor(config.mlp_width, action_size, *stds, config.precision),
        critic=Critic(config.mlp_width, config.num_bins, config.precision),
        support=Support(config.support_low, config.support_high, config.num_bins),
        observation_size=observation_size,
        action_size=action_size,
        action_masks=tuple(tuple(float(x) for x in row) for row in action_masks),
        terminations=tuple(bool(spec.can_terminate) for spec in specs),
    )
