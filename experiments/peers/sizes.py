"""Sizes that both sides of a comparison take. Imported by peers too, so it needs nothing."""

# TD-MPC2's 5M agent and its published planner: tdmpc2-jax's defaults. Its heads are as wide as the
# latent, so only such sizes can be equal.
OBSERVATION, ACTION = 24, 6
WIDTH = LATENT = 512
ENCODER_WIDTH, ENCODER_LAYERS = 256, 2
NUM_Q, NUM_BINS = 5, 101
PRECISIONS = ("float32", "bfloat16")  # of the inputs of products; parameters are float32
BATCH, HORIZON = 256, 3
SAMPLES, POLICY_SAMPLES, ITERATIONS, ELITES = 512, 24, 6, 64

# PPO: environments, steps of an unroll, widths of the two hidden layers of policy and value.
PPO_TASK = "inverted_pendulum"
PPO_ENVS, PPO_UNROLL, PPO_WIDTH = 256, 16, 128
PPO_EPOCHS, PPO_MINIBATCHES = 8, 4
