"""Videos of recorded episodes, without playing any."""

import dataclasses
import sys

import numpy as np
import pytest
from PIL import ImageDraw

from m3po_jax.config import Config, NetworkConfig
from m3po_jax.report import video
from m3po_jax.report.video import VideoError
from m3po_jax.training.recording import Recording

CONFIG = Config(tasks=("dmc/PointMass?num_envs=2", "brax/ant", "toy/PointReachA"))
LENGTH = 12


class Drawing:
    """Frames whose brightness tells the pose."""

    def frames(self, poses, *, width, height):
        for x in poses["x"]:
            yield np.full((height, width, 3), int(x), np.uint8)


class Viewer:
    def viewer(self, poses, *, seconds_per_pose):
        return f"<p>{len(poses['x'])} poses of {seconds_per_pose} s</p>"


def recording(environment=None, **changes):
    reward = np.linspace(0.0, 1.0, LENGTH)
    made = Recording(
        environment=environment or Drawing(),
        poses={"x": 20.0 * np.arange(LENGTH)},
        seconds_per_step=0.04,
        reward=reward,
        imagined=np.stack([reward, reward], axis=1),
        predicted=np.full(LENGTH, 3.0),
        discount=0.5,
        terminated=True,
    )
    return dataclasses.replace(made, **changes)


def frames_of(path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra render is missing")
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]


def test_the_return_that_came_is_the_discounted_sum():
    made = recording(reward=np.array([1.0, 2.0, 4.0]), predicted=np.array([9.0, 9.0, 10.0]))
    np.testing.assert_allclose(made.actual(), [1 + 1 + 1, 2 + 2, 4])  # discount 0.5
    # out of time: the last prediction, 10, stands for 4 and what would have come
    out_of_time = dataclasses.replace(made, terminated=False)
    np.testing.assert_allclose(out_of_time.actual(), [1 + 0.5 * (2 + 0.5 * 10), 2 + 0.5 * 10, 10])


@pytest.mark.parametrize(
    ("seconds", "stride", "fps"), [(0.04, 1, 25.0), (0.01, 2, 50.0), (0.002, 10, 50.0), (1, 1, 1.0)]
)
def test_videos_play_at_true_speed(seconds, stride, fps):
    got_stride, got_fps = video.frame_step(seconds)
    assert got_stride == stride
    assert got_fps == pytest.approx(fps)
    assert got_fps * got_stride * seconds == pytest.approx(1.0)


def test_a_video_has_a_frame_per_step_in_order(tmp_path):
    path = tmp_path / "new folder" / "x.mp4"
    pytest.importorskip("imageio_ffmpeg", reason="the extra render is missing")
    video.write_recording(recording(), path, title="t", size=(63, 48))
    meta, frames = frames_of(path)
    assert meta["size"] == (64, 48)
    assert meta["fps"] == 25.0
    levels = [frame.mean() for frame in frames]
    np.testing.assert_allclose(levels, 20.0 * np.arange(LENGTH), atol=4.0)


def test_the_strip_shows_what_came_and_what_was_expected(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="the extra render is missing")
    path = tmp_path / "x.mp4"
    video.write_recording(recording(), path, title="dmc/A", size=(320, 120), overlay=True)
    meta, frames = frames_of(path)
    assert meta["size"] == (320, 120 + video.STRIP_HEIGHT)
    assert len(frames) == LENGTH


def test_marks_lie_where_the_numbers_say():
    strip = video._Strip(recording(), "t", 320)
    orange = np.array([0xD5, 0x5E, 0x00])
    left, _, right, _ = strip._rewards.box

    def marks(step):
        picture = strip.at(step)
        y, x = np.nonzero((picture == orange).all(axis=-1))
        inside = (x >= left - 3) & (x <= right + 3) & (y > strip._rewards.box[1] - 4)
        return x[inside], y[inside]

    for step in (0, 5, LENGTH - 1):
        x, y = marks(step)
        expected_x, expected_y = strip._rewards.point(step, step / (LENGTH - 1))
        assert abs(x.min() + 3 - expected_x) <= 1.5
        assert y.min() - 1.5 <= expected_y <= y.max() + 1.5
    low, high = strip._rewards.point(0, 0.0)[1], strip._rewards.point(0, 1.0)[1]
    assert low > high  # up is more


def test_the_strip_says_which_return_is_discounted(monkeypatch):
    drawn = []
    draw = ImageDraw.ImageDraw.text

    def noted(self, where, text, **how):
        drawn.append(text)
        return draw(self, where, text, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    video._Strip(recording(), "t", 640).at(1)
    assert "discounted return from here: " in drawn
    assert any("undiscounted return 0.1" in text for text in drawn)


def test_brax_tasks_are_a_page(tmp_path):
    path = tmp_path / "x.html"
    video.write_recording(recording(Viewer()), path, title="t")
    assert path.read_text() == "<p>12 poses of 0.04 s</p>"
    with pytest.raises(VideoError, match=r"no picture for a \.mp4 file"):
        video.write_recording(recording(Viewer()), tmp_path / "x.mp4", title="t")


@pytest.mark.parametrize(
    ("task", "out", "overlay", "message"),
    [
        ("dmc/PointMas", "x.mp4", False, "no task 'dmc/PointMas'; did you mean dmc/PointMass"),
        ("toy/PointReachA", "x.mp4", False, "has no picture"),
        ("dmc/PointMass", "x.html", False, r"ends in \.mp4"),
        ("dmc/PointMass", "x", False, r"ends in \.mp4"),
        ("brax/ant", "x.mp4", False, r"ends in \.html"),
        ("brax/ant", "x.html", True, "--overlay is not possible"),
    ],
)
def test_what_cannot_be_shown_is_refused(task, out, overlay, message):
    with pytest.raises(VideoError, match=message):
        video.check_request(CONFIG, task, out, overlay=overlay)


def test_what_can_be_shown_is_not_refused(monkeypatch):
    video.check_request(CONFIG, "brax/ant", "x.html", overlay=False)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: object())
    video.check_request(CONFIG, "dmc/PointMass", "x.mp4", overlay=True)
    blind = dataclasses.replace(CONFIG, network=NetworkConfig(encoder="observation"))
    with pytest.raises(VideoError, match="no world model"):
        video.check_request(blind, "dmc/PointMass", "x.mp4", overlay=True)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VideoError, match=r"pip install 'm3po_jax\[render\]'"):
        video.check_request(CONFIG, "dmc/PointMass", "x.mp4", overlay=False)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="the extra render is missing")
    (tmp_path / "file").write_text("")
    for name, environment in (("x.mp4", Drawing()), ("x.html", Viewer())):
        with pytest.raises(VideoError, match=f"cannot write .*file/{name}.*--out"):
            video.write_recording(recording(environment), tmp_path / "file" / name, title="t")
