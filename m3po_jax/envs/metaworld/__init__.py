"""Meta-World's tasks: physics in C MuJoCo on the host; observation, reward and success in JAX."""
