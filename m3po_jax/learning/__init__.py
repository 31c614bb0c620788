"""What is compiled: the agent's state, collecting, and every update."""
