"""tdmpc2-jax's update and plan at the sizes of `sizes`; run by a Python that can import it."""

import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import sizes
import turns
from flax.training.train_state import TrainState
from tdmpc2_jax.common.activations import mish, simnorm
from tdmpc2_jax.networks import NormedLinear
from tdmpc2_jax.tdmpc2 import TDMPC2
from tdmpc2_jax.world_model import WorldModel


def main() -> None:
    """Makes the agent as its train.py does, then answers."""
    dtype = jnp.dtype(sys.argv[1])
    keys = jax.random.split(jax.random.PRNGKey(0), 6)
    encoder_layers = [
        NormedLinear(sizes.ENCODER_WIDTH, activation=mish, dtype=dtype)
        for _ in range(sizes.ENCODER_LAYERS)
    ]
    simplices = functools.partial(simnorm, simplex_dim=8)
    last = NormedLinear(sizes.LATENT, activation=simplices, dtype=dtype)
    encoder = nn.Sequential([*encoder_layers, last])
    observation = jax.random.normal(keys[0], (1, sizes.OBSERVATION))
    transform = optax.chain(optax.zero_nans(), optax.clip_by_global_norm(20.0), optax.adam(3e-4))
    model = WorldModel.create(
        action_dim=sizes.ACTION,
        encoder=TrainState.create(
            apply_fn=encoder.apply,
            params=encoder.init(keys[1], observation)["params"],
            tx=transform,
        ),
        latent_dim=sizes.LATENT,
        value_dropout=0.01,
        num_value_nets=sizes.NUM_Q,
        num_bins=sizes.NUM_BINS,
        symlog_min=-10.0,
        symlog_max=10.0,
        simnorm_dim=8,
        predict_continues=False,
        symlog_obs=False,
        learning_rate=3e-4,
        key=keys[2],
        dtype=dtype,
    )
    agent = TDMPC2.create(
        model,
        mpc=True,
        horizon=sizes.HORIZON,
        mppi_iterations=sizes.ITERATIONS,
        population_size=sizes.SAMPLES,
        policy_prior_samples=sizes.POLICY_SAMPLES,
        num_elites=sizes.ELITES,
        min_plan_std=0.05,
        max_plan_std=2.0,
        temperature=1.0,
        discount=0.99,
        batch_size=sizes.BATCH,
        rho=0.5,
        consistency_coef=20.0,
        reward_coef=0.1,
        value_coef=0.1,
        continue_coef=1.0,
        entropy_coef=1e-4,
        tau=0.01,
    )
    shape = (sizes.HORIZON, sizes.BATCH)
    batch = {
        "observations": jax.random.normal(keys[3], (*shape, sizes.OBSERVATION)),
        "actions": jnp.tanh(jax.random.normal(keys[4], (*shape, sizes.ACTION))),
        "rewards": jnp.ones(shape),
        "next_observations": jax.random.normal(keys[5], (*shape, sizes.OBSERVATION)),
        "terminated": jnp.zeros(shape, bool),
        "truncated": jnp.zeros(shape, bool),
    }
    learned = [agent]
    plan = (
        jnp.zeros((1, sizes.HORIZON, sizes.ACTION)),
        jnp.full((1, sizes.HORIZON, sizes.ACTION), 2.0),
    )

    def update() -> object:
        learned[0], info = learned[0].update(**batch, key=keys[0])
        return learned[0].model.encoder.params, info

    def act() -> object:
        z = agent.model.encode(observation, agent.model.encoder.params, key=keys[0])
        return agent.plan(z, plan, True, key=keys[1])

    turns.serve({"update": update, "plan": act}, jax.block_until_ready)


if __name__ == "__main__":
    main()
