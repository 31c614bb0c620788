"""Returns and advantages of one trajectory `[T]`; `jax.vmap` them over environments.

Time convention: step `t` leads from `o_t` to its true successor `o'_t` and pays `r_t`.
`discount_t = gamma * (1 - termination_t)`, `v_tm1[t]` is the value of `o_t`, `v_t[t]` that of
`o'_t`, and `continue_t[t]` is 1 where step `t + 1` starts from `o'_t`, 0 where the episode ended
(by termination or truncation). At a truncation `o'_t` is not the next row's observation, which is
why `v_t` is an argument of its own and not a shifted `v_tm1`.
"""

import chex
import jax
import jax.numpy as jnp

# Short scans are unrolled: a loop costs more than these few multiplications.
_UNROLL = 8


def lambda_return(
    r_t: chex.Array,
    discount_t: chex.Array,
    v_t: chex.Array,
    continue_t: chex.Array,
    *,
    lambda_: float,
) -> jax.Array:
    """TD(lambda) returns (Sutton and Barto, 2nd edition, equation 12.18), truncation included.

    `G_t = r_t + discount_t * ((1 - lambda) * v_t + lambda * G_{t+1})` where `continue_t` is 1;
    `G_t = r_t + discount_t * v_t` where it is 0 and at the last step, which has no successor row.

    Args:
        r_t: Rewards `[T]`.
        discount_t: Discounts `[T]`, gamma * (1 - termination).
        v_t: Values `[T]` of the true successors.
        continue_t: `[T]`, 1 where the next row continues this episode, else 0.
        lambda_: Mixing parameter in [0, 1]: 0 is one-step TD, 1 is Monte-Carlo.

    Returns:
        Returns `[T]`.
    """
    chex.assert_rank([r_t, discount_t, v_t, continue_t], 1)
    chex.assert_equal_shape([r_t, discount_t, v_t, continue_t])
    chex.assert_type([r_t, discount_t, v_t, continue_t], float)
    mix_t = lambda_ * continue_t

    def step(g_tp1: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        r, discount, v, mix = inputs
        g = r + discount * ((1.0 - mix) * v + mix * g_tp1)
        return g, g

    # Starting from the last value makes the last step bootstrap, whatever its `continue_t`.
    _, g_t = jax.lax.scan(
        step, v_t[-1], (r_t, discount_t, v_t, mix_t), reverse=True, unroll=_UNROLL
    )
    return g_t


def gae(
    r_t: chex.Array,
    discount_t: chex.Array,
    v_tm1: chex.Array,
    v_t: chex.Array,
    continue_t: chex.Array,
    *,
    lambda_: float,
) -> jax.Array:
    """Generalised advantage estimates (arXiv 1506.02438, equation 16), truncation included.

    `A_t = delta_t + discount_t * lambda * continue_t * A_{t+1}` with
    `delta_t = r_t + discount_t * v_t - v_tm1`. Equal to `lambda_return - v_tm1` where the two
    value arrays agree, that is `v_t[t] == v_tm1[t + 1]` wherever `continue_t[t]` is 1.

    Args:
        r_t: Rewards `[T]`.
        discount_t: Discounts `[T]`, gamma * (1 - termination).
        v_tm1: Values `[T]` of the observations that the steps start from.
        v_t: Values `[T]` of the true successors.
        continue_t: `[T]`, 1 where the next row continues this episode, else 0.
        lambda_: Mixing parameter in [0, 1]: 0 is the TD error, 1 is Monte-Carlo minus value.

    Returns:
        Advantages `[T]`.
    """
    chex.assert_rank([r_t, discount_t, v_tm1, v_t, continue_t], 1)
    chex.assert_equal_shape([r_t, discount_t, v_tm1, v_t, continue_t])
    chex.assert_type([r_t, discount_t, v_tm1, v_t, continue_t], float)
    delta_t = r_t + discount_t * v_t - v_tm1
    decay_t = discount_t * lambda_ * continue_t

    def step(a_tp1: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        delta, decay = inputs
        a = delta + decay * a_tp1
        return a, a

    _, a_t = jax.lax.scan(
        step, jnp.zeros_like(delta_t[0]), (delta_t, decay_t), reverse=True, unroll=_UNROLL
    )
    return a_t
