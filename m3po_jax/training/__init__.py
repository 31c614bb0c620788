"""The training loop: collecting, replay, updates, evaluation and what is written to disk."""
