"""The implicit world model: encoder, dynamics, reward, termination and the Q ensemble.

A decoder of observations can be added for comparison; nothing but its own loss uses it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3po_jax.networks import layers
from m3po_jax.networks.task_embedding import TaskEmbedding
from m3po_jax.ops import rows


class WorldModel(nn.Module):
    """Predicts outcomes; without a decoder never an observation.

    See docs/concepts.md, "The implicit world model".

    `a` is the executed action in [-1, 1] with inactive dimensions at zero, `e` the embedding.

    Attributes:
        num_tasks: Number of tasks K.
        embedding_size: Size E of the task embedding.
        latent_size: Size Z of the latent.
        encoder_width: Width of the encoder's hidden layers.
        encoder_layers: Hidden layers of the encoder.
        mlp_width: Width of the heads' hidden layers.
        num_q: Heads of the Q ensemble.
        num_bins: Bins of the reward and Q heads.
        simplex_size: Group size of SimNorm.
        dropout: Dropout rate in the first Q layer.
        has_termination: Whether there is a termination head.
        num_explorers: Small networks that predict the next latent, and whose disagreement is the
            exploration bonus; 0 means none.
        explorer_width: Width of their hidden layer.
        decoded_size: Observation size O of the decoder; 0 means no decoder.
        precision: Of the products' inputs, as for `layers.MLP`.
        contexts: What the agent is told of each task, as for `TaskEmbedding`.
    """

    num_tasks: int
    embedding_size: int
    latent_size: int
    encoder_width: int
    encoder_layers: int
    mlp_width: int
    num_q: int
    num_bins: int
    simplex_size: int
    dropout: float
    has_termination: bool
    num_explorers: int = 0
    explorer_width: int = 64
    decoded_size: int = 0
    precision: str = "float32"
    contexts: tuple[tuple[float, ...], ...] = ()

    def setup(self) -> None:
        """Names the parts; the names are the keys of the parameter tree."""
        hidden = (self.mlp_width, self.mlp_width)
        mlp = functools.partial(layers.MLP, precision=self.precision)
        self.embedding = TaskEmbedding(self.num_tasks, self.embedding_size, self.contexts)
        self.encoder = mlp((self.encoder_width,) * self.encoder_layers, self.latent_size)
        self.encoder_norm = nn.LayerNorm()
        self.dynamics = mlp(hidden, self.latent_size)
        self.dynamics_norm = nn.LayerNorm()
        self.reward = mlp(hidden, self.num_bins, zero_output=True)
        if self.has_termination:
            self.termination = mlp(hidden, 1)
        self.q = layers.ensemble(layers.MLP, self.num_q)(
            hidden,
            self.num_bins,
            dropout=self.dropout,
            zero_output=True,
            precision=self.precision,
        )
        if self.num_explorers:
            self.explorers = layers.ensemble(layers.MLP, self.num_explorers)(
                (self.explorer_width,), self.latent_size, precision=self.precision
            )
        if self.decoded_size:
            self.decoder = mlp(hidden, self.decoded_size)

    def embed(self, task_id: jax.Array) -> jax.Array:
        """Task ids `[...]` to embeddings `[..., E]`."""
        return self.embedding(task_id)

    def encode(self, observation: jax.Array, e: jax.Array) -> jax.Array:
        """Observations `[..., O]` to latents `[..., Z]`."""
        z = self.encoder_norm(self.encoder(jnp.concatenate([observation, e], axis=-1)))
        return layers.sim_norm(z, simplex_size=self.simplex_size)

    def next_latent(self, z: jax.Array, a: jax.Array, e: jax.Array) -> jax.Array:
        """The next latent `[..., Z]`."""
        z = self.dynamics_norm(self.dynamics(_join(z, a, e)))
        return layers.sim_norm(z, simplex_size=self.simplex_size)

    def reward_logits(self, z: jax.Array, a: jax.Array, e: jax.Array) -> jax.Array:
        """Two-hot logits `[..., bins]` of the reward."""
        return self.reward(_join(z, a, e))

    def termination_logit(self, z: jax.Array, a: jax.Array, e: jax.Array) -> jax.Array:
        """Logit `[...]` of termination after this step."""
        return self.termination(_join(z, a, e))[..., 0]

    def q_logits(
        self,
        z: jax.Array,
        a: jax.Array,
        e: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Two-hot logits `[num_q, ..., bins]`.

        With `dropout_keys` `[N]`, which are consumed, inputs are `[..., N, features]` and each of
        the N rows draws its dropout with its own key.
        """
        if dropout_keys is not None:
            of_heads = jax.vmap(rows.keys, in_axes=(0, None), out_axes=1)
            dropout_keys = of_heads(dropout_keys, jnp.arange(self.num_q))
        return self.q(_join(z, a, e), dropout_keys)

    def guesses(self, z: jax.Array, a: jax.Array, e: jax.Array) -> jax.Array:
        """The next latent as each explorer expects it `[num_explorers, ..., Z]`."""
        return self.explorers(_join(z, a, e), None)

    def decode(self, z: jax.Array, e: jax.Array) -> jax.Array:
        """Symlog observations `[..., O]` of latents `[..., Z]`."""
        return self.decoder(jnp.concatenate([z, e], axis=-1))

    def initialize(self, observation: jax.Array, a: jax.Array, task_id: jax.Array) -> None:
        """Touches every part once, so that `init` creates all parameters."""
        e = self.embed(task_id)
        z = self.next_latent(self.encode(observation, e), a, e)
        self.reward_logits(z, a, e)
        self.q_logits(z, a, e)
        if self.has_termination:
            self.termination_logit(z, a, e)
        if self.num_explorers:
            self.guesses(z, a, e)
        if self.decoded_size:
            self.decode(z, e)


def _join(z: jax.Array, a: jax.Array, e: jax.Array) -> jax.Array:
    return jnp.concatenate([z, a, e], axis=-1)
