"""Trained agents outside of training: loaded, exported, driving other environments."""
