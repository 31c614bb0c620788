import mujoco
import numpy as np
import pytest

from m3po_jax.envs import gym_simulator, mujoco_log, playground_adapter

MODEL = """
<mujoco>
  <worldbody><body><joint type="hinge"/><geom size=".1" pos="0 0 1"/></body></worldbody>
</mujoco>
"""


def diverge():
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    data.qvel[0] = np.nan
    mujoco.mj_step(model, data)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where one works, and MuJoCo without a handler until the test ends."""
    monkeypatch.chdir(tmp_path)
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(None)
    monkeypatch.setattr(mujoco_log, "_shown", [])
    yield tmp_path
    mujoco.set_mju_user_warning(before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gym_simulator.GymSimulator("gym/Pendulum-v1", "Pendulum-v1"),
        lambda: playground_adapter.make_dmc("CartpoleBalance", impl="c"),
    ],
    ids=["gym", "impl=c"],
)
def test_a_diverging_simulator_writes_no_file(folder, capsys, make):
    make()
    for _ in range(3):
        diverge()
    assert not list(folder.iterdir())
    assert capsys.readouterr().err.count("MuJoCo: Nan, Inf or huge value in QVEL") == 1


def test_without_it_mujoco_would_write_one(folder):
    diverge()
    assert [file.name for file in folder.iterdir()] == ["MUJOCO_LOG.TXT"]


def test_a_handler_of_the_users_stays(folder):
    heard = []
    mujoco.set_mju_user_warning(heard.append)
    mujoco_log.keep_out_of_folder()
    diverge()
    assert len(heard) == 1 and not list(folder.iterdir())
