"""The agent, its baselines and ablations; `--config=FILE.py:NAME,NAME` chooses other tasks."""
