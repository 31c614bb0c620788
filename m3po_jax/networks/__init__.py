"""Flax modules of the agent and the frozen bundle that initialises and applies them."""
