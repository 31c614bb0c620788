"""What passes between the batch of all environments and those who step it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class MultiTaskState:
    """State of all environments; a scan carry."""

    env_states: Any  # an EnvState per object, leaves [N_k, ...]; see by_task for its own form
    observation: jax.Array  # [B, O] padded
    episode_step: jax.Array  # [B] int32 agent steps into the episode
    episode_return: jax.Array  # [B] sum of rewards since the episode began
    from_reset: jax.Array  # [B] bool, false in a staggered first episode
    resets: jax.Array  # [B] int32 resets taken from the present pool

    def with_new_pool(self) -> "MultiTaskState":
        """Returns the state for use with a pool that was just drawn."""
        return self.replace(resets=jnp.zeros_like(self.resets))


@flax.struct.dataclass
class Timestep:
    """What one agent step gave. At most one of `termination` and `truncation` is 1."""

    next_observation: jax.Array  # [B, O] the true successor, also where the episode ended
    reward: jax.Array  # [B] summed over the action repeat
    termination: jax.Array  # [B] float 0 or 1
    truncation: jax.Array  # [B] float 0 or 1
    valid: jax.Array  # [B] float, 0 where the physics failed
    episode_return: jax.Array  # [B] return of the episode up to and with this step
    episode_length: jax.Array  # [B] int32 the same in agent steps, a staggered start included
    episode_complete: jax.Array  # [B] float, 1 where an episode begun at a reset ended here
