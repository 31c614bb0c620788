"""The command that draws: what it refuses, and pictures of a real simulator."""

import subprocess
import sys

import pytest

from m3po_jax.cli import render
from m3po_jax.report.video import VideoError
from tests.cli.test_commands import ROOT, call, train

# Draws a pendulum hanging and upright: the two pictures differ, in the middle above all.
DRAW = """
from m3po_jax.cli import render
from m3po_jax.report.video import VideoError
try:
    render.choose_gl()
except VideoError as error:
    print("none:", error)
    raise SystemExit
import numpy as np
from m3po_jax.envs import registry
environment = registry.make_env(registry.parse_task("dmc/PendulumSwingup"))
poses = {"qpos": np.array([[0.0], [np.pi], [0.0]]), "qvel": np.zeros((3, 1)),
         "mocap_pos": np.zeros((3, 0, 3)), "mocap_quat": np.zeros((3, 0, 4))}
hanging, upright, again = environment.frames(poses, width=96, height=64)
print(hanging.shape, hanging.dtype, hanging.std() > 5.0, (hanging == again).all(),
      np.abs(hanging.astype(float) - upright).mean() > 0.5, environment.seconds_per_step)
import jax
same = registry.make_env(registry.parse_task("dmc/PendulumSwingup?impl=c"))
poses = jax.device_get(same.pose(same.reset(jax.random.key(0))))
angle = same.backend.parts(poses["words"])["qpos"]
(theirs,) = environment.frames(
    {"qpos": angle[None], "qvel": np.zeros((1, 1)),
     "mocap_pos": np.zeros((1, 0, 3)), "mocap_quat": np.zeros((1, 0, 4))}, width=96, height=64)
(ours,) = same.frames({"words": poses["words"][None]}, width=96, height=64)
print((ours == theirs).all(), (ours == hanging).all())
"""


def test_frames_of_a_real_task_show_the_pose():
    result = subprocess.run(
        [sys.executable, "-c", DRAW], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert result.returncode == 0, result.stderr
    if result.stdout.startswith("none:"):
        pytest.skip(result.stdout.strip())
    first, second = result.stdout.strip().splitlines()
    assert first == "(64, 96, 3) uint8 True True True 0.02"
    # C MuJoCo's state is drawn as the same pose of MJX, which is another than hanging.
    assert second == "True False"


def test_a_machine_that_cannot_draw_is_told_what_to_install(monkeypatch):
    tried = []

    def failing(command, env, **_):
        tried.append(env["MUJOCO_GL"])
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render.sys, "platform", "linux")
    monkeypatch.setattr(render.subprocess, "run", failing)
    with pytest.raises(VideoError, match="apt-get install libegl1 .*libosmesa6"):
        render.choose_gl()
    assert tried == ["egl", "osmesa"]


def test_the_users_choice_of_gl_stays(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(render.subprocess, "run", lambda *_, **__: pytest.fail("it was tried"))
    render.choose_gl()


def test_requests_are_refused_before_the_slow_imports(tmp_path):
    assert train(tmp_path).returncode == 0
    task = ["--task=toy/PointReachA", "--out=x.mp4"]
    refused = call("render", f"--workdir={tmp_path}", *task)
    assert (refused.returncode, "has no picture" in refused.stderr) == (2, True)
    unknown = call("render", f"--workdir={tmp_path}", "--task=dmc/A", "--out=x.mp4")
    assert (unknown.returncode, "no task 'dmc/A'" in unknown.stderr) == (2, True)
    nothing = call("render", f"--workdir={tmp_path / 'none'}", *task)
    assert (nothing.returncode, "holds no run" in nothing.stderr) == (2, True)
    incomplete = call("render", f"--workdir={tmp_path}")
    assert (incomplete.returncode, "is required" in incomplete.stderr) == (2, True)
