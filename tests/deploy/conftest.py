"""Agents of runs that were saved before their first step."""

import pytest

from experiments.configs.baselines import ppo
from m3po_jax.deploy.agent import load
from tests.integration import tiny_config
from tests.integration.saved_run import save_run

# of different sizes
TASKS = ("toy/PointReachA", "toy/TerminatingPole", "toy/LinearQuadratic")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a run on three tasks of different sizes, its experiment and its state."""
    folder = tmp_path_factory.mktemp("deploy") / "a run"
    return folder, *save_run(folder, tiny_config.get_config(), TASKS)


@pytest.fixture(scope="session")
def agent(run):
    return load(run[0])


@pytest.fixture(scope="session")
def model_free(tmp_path_factory):
    """An agent without a world model."""
    folder = tmp_path_factory.mktemp("deploy") / "ppo"
    save_run(folder, ppo.get_config("toy/PointReachA"), ("toy/PointReachA",), specs=False)
    return load(folder)
