"""Environments: adapters, toy tasks, the registry and the multi-task batch.

Nothing is imported here, so that `m3po_jax.envs.registry` stays cheap to import.
"""
