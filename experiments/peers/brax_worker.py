"""Brax's PPO at the sizes of `sizes`; run by a Python whose JAX still has what Brax needs.

Its trainer is one call: between two of its training epochs it calls back, and there the worker
waits for its turn.
"""

import functools
import json
import sys

import sizes
import turns
from brax import envs
from brax.training.agents.ppo import networks as ppo_networks
from brax.training.agents.ppo import train as ppo

STEPS = sizes.PPO_ENVS * sizes.PPO_UNROLL
EPOCHS = 10_000  # more than will be asked for


class _Turns:
    """Answers as `turns.serve` does, from inside of the trainer's callback."""

    def __init__(self) -> None:
        self.seen = 0
        self.begun = 0.0

    def __call__(self, num_steps: int, metrics: object) -> None:
        self.seen += 1
        if self.seen == 3:  # the first epochs compile and warm up
            print(json.dumps({"ready": ["iteration"]}), flush=True)
        elif self.seen > 3:
            print(json.dumps({"seconds": turns.clock() - self.begun}), flush=True)
        if self.seen >= 3:
            if not sys.stdin.readline():
                sys.exit(0)
            self.begun = turns.clock()


def main() -> None:
    """Trains one iteration for each line of the input."""
    hidden = (sizes.PPO_WIDTH, sizes.PPO_WIDTH)
    ppo.train(
        environment=envs.get_environment(sizes.PPO_TASK, backend="spring"),
        num_timesteps=EPOCHS * STEPS,
        num_evals=EPOCHS + 1,
        run_evals=False,
        num_envs=sizes.PPO_ENVS,
        episode_length=1000,
        unroll_length=sizes.PPO_UNROLL,
        batch_size=sizes.PPO_ENVS // sizes.PPO_MINIBATCHES,
        num_minibatches=sizes.PPO_MINIBATCHES,
        num_updates_per_batch=sizes.PPO_EPOCHS,
        normalize_observations=True,
        network_factory=functools.partial(
            ppo_networks.make_ppo_networks,
            policy_hidden_layer_sizes=hidden,
            value_hidden_layer_sizes=hidden,
        ),
        progress_fn=_Turns(),
    )


if __name__ == "__main__":
    main()
