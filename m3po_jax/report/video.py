"""Videos of recorded episodes, with what the agent believed drawn below the picture."""

import contextlib
import importlib.util
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m3po_jax.config import Config, UserError
from m3po_jax.envs import registry

if TYPE_CHECKING:  # it imports JAX
    from m3po_jax.training.recording import Recording

_MAX_FPS = 50.0
STRIP_HEIGHT = 190
_MARGIN, _GAP = 12, 24
_PAPER, _INK, _MUTED, _GRID = "#ffffff", "#1f2329", "#5d6773", "#d5d9de"
_CAME, _BELIEVED = "#0072b2", "#d55e00"
_Point = tuple[float, float]


class VideoError(UserError):
    """A video cannot be written; the text says what to do."""


def check_request(config: Config, task: str, out: str, *, overlay: bool) -> None:
    """Refuses before any work what cannot be shown.

    Args:
        config: Settings of the run.
        task: Name of a task of it.
        out: File to write.
        overlay: Whether to draw what the agent believed.

    Raises:
        VideoError: The task has no picture, not in this kind of file, or a package is missing.
    """
    try:
        index = registry.task_index(config.tasks, task)
    except ValueError as error:
        raise VideoError(str(error)) from error
    suite = registry.parse_task(config.tasks[index]).suite
    if suite == "toy":
        raise VideoError(f"{task} has no picture: toy tasks are a few numbers without bodies")
    ending = pathlib.Path(out).suffix
    fitting = {"brax": (".html",), "dmc": (".mp4",), "playground": (".mp4",)}
    if ending not in fitting.get(suite, (".html", ".mp4")):
        wanted = fitting.get(suite, (".html", ".mp4"))[0]
        raise VideoError(f"--out={out}: {task} is shown in a file that ends in {wanted}")
    if overlay and (ending == ".html" or not config.has_model):
        unable = "Brax's viewer does not support it"
        reason = unable if ending == ".html" else "the run has no world model"
        raise VideoError(f"--overlay is not possible here: {reason}")
    if ending == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise VideoError(
            "an mp4 needs the package imageio-ffmpeg, which is not installed: "
            "pip install 'm3po_jax[render]'"
        )


def write_recording(
    recording: "Recording",
    out: str | os.PathLike[str],
    *,
    title: str,
    size: tuple[int, int] = (640, 480),
    overlay: bool = False,
) -> None:
    """Writes a recorded episode as mp4 or, of a Brax task, as HTML page.

    Args:
        recording: From `training.recording.record_episode`.
        out: File that ends in .mp4 or .html.
        title: Names task and policy, for the overlay.
        size: Width and height of the picture in pixels.
        overlay: Whether to draw below the picture what the agent believed.

    Raises:
        VideoError: The file cannot be written, or the task has no such picture.
    """
    path = pathlib.Path(out)
    kind = "viewer" if path.suffix == ".html" else "frames"
    if not hasattr(recording.environment, kind):
        raise VideoError(f"{path}: the task has no picture for a {path.suffix} file")
    if kind == "viewer":
        with _write_errors_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            page = recording.environment.viewer(
                recording.poses, seconds_per_pose=recording.seconds_per_step
            )
            path.write_text(page, encoding="utf-8")
        return
    # H.264 halves the resolution of colours, so both sides are even.
    width, height = (side + side % 2 for side in size)
    stride, fps = frame_step(recording.seconds_per_step)
    poses = {name: values[::stride] for name, values in recording.poses.items()}
    frames = recording.environment.frames(poses, width=width, height=height)
    if overlay:
        frames = with_belief(frames, recording, title=title, stride=stride)
        height += STRIP_HEIGHT
    write_mp4(path, frames, size=(width, height), fps=fps)


def frame_step(seconds_per_step: float) -> tuple[int, float]:
    """Every how many steps a frame is drawn, and the frames per second of true speed."""
    stride = max(1, round(1.0 / (seconds_per_step * _MAX_FPS)))
    return stride, 1.0 / (seconds_per_step * stride)


def write_mp4(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, size: tuple[int, int], fps: float
) -> None:
    """Writes frames `[height, width, 3]` uint8 of one size `(width, height)`.

    Raises:
        VideoError: The file cannot be written.
    """
    import imageio_ffmpeg

    target = pathlib.Path(path)
    with _write_errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()  # ffmpeg would say less clearly that it cannot write
        writer = imageio_ffmpeg.write_frames(
            str(target), size, fps=fps, macro_block_size=2, quality=7, ffmpeg_log_level="error"
        )
        with contextlib.closing(writer), warnings.catch_warnings():
            # ffmpeg takes the place of the forked process at once, so JAX's threads do no harm
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))


@contextlib.contextmanager
def _write_errors_named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VideoError(
            f"cannot write {path}: {error.strerror or str(error).strip()}; give --out a file in a "
            "folder that can be written"
        ) from error


def with_belief(
    frames: Iterable[np.ndarray], recording: "Recording", *, title: str, stride: int
) -> Iterator[np.ndarray]:
    """Adds the strip below each frame; frame i shows step `i * stride`."""
    strip: _Strip | None = None
    for index, frame in enumerate(frames):
        strip = strip or _Strip(recording, title, frame.shape[1])
        yield np.concatenate([frame, strip.at(index * stride)])


class _Chart:
    """Curves over the steps of an episode in a box of the strip."""

    def __init__(self, box: tuple[int, int, int, int], values: Iterable[np.ndarray], length: int):
        self.box = box
        every = np.concatenate([np.ravel(v) for v in values])
        self._low = float(min(0.0, every.min()))
        # a floor, or the noise of a value that stays 0 would fill the box
        self._high = float(max(self._low + 1e-3, every.max()))
        self._room = 0.06 * (self._high - self._low)
        self._length = max(length - 1, 1)

    def point(self, step: float, value: float) -> _Point:
        left, top, right, bottom = self.box
        low, high = self._low - self._room, self._high + self._room
        share = (value - low) / (high - low)
        x = left + (right - left) * min(step / self._length, 1.0)
        return x, bottom - (bottom - top) * share

    def line(self, values: np.ndarray, start: int = 0) -> list[_Point]:
        return [self.point(start + step, float(value)) for step, value in enumerate(values)]

    @property
    def ends(self) -> tuple[str, str]:
        return f"{self._low:.3g}", f"{self._high:.3g}"


class _Strip:
    """The strip: curves are drawn once, the present step and the plan on each copy."""

    def __init__(self, recording: "Recording", title: str, width: int):
        assert recording.imagined is not None and recording.predicted is not None
        self._title = title
        self._reward, self._imagined = recording.reward, recording.imagined
        self._predicted = recording.predicted
        actual = recording.actual()
        self._font = ImageFont.load_default(size=12)
        length = len(self._reward)
        half = (width - 2 * _MARGIN - _GAP) // 2
        top, bottom = 58, STRIP_HEIGHT - 14
        self._returns = _Chart(
            (_MARGIN, top, _MARGIN + half, bottom), (actual, self._predicted), length
        )
        self._rewards = _Chart(
            (width - _MARGIN - half, top, width - _MARGIN, bottom),
            (self._reward, self._imagined),
            length,
        )
        self._image = Image.new("RGB", (width, STRIP_HEIGHT), _PAPER)
        draw = ImageDraw.Draw(self._image)
        self._frame(draw, self._returns, "discounted return from here: actual, expected")
        self._frame(draw, self._rewards, "reward: actual, expected of the plan")
        draw.line(self._returns.line(actual), fill=_CAME, width=2)
        draw.line(self._rewards.line(self._reward), fill="#a9cfe6", width=2)

    def at(self, step: int) -> np.ndarray:
        """The strip at a step `[height, width, 3]`."""
        image = self._image.copy()
        draw = ImageDraw.Draw(image)
        total = float(np.sum(self._reward[: step + 1]))
        position = f"step {step + 1} of {len(self._reward)}"
        head = f"{self._title}   {position}   undiscounted return {total:.1f}"
        draw.text((_MARGIN, 6), head, fill=_INK, font=self._font)
        for chart in (self._returns, self._rewards):
            x, _ = chart.point(step, 0.0)
            draw.line([(x, chart.box[1]), (x, chart.box[3])], fill=_MUTED)
        draw.line(self._returns.line(self._predicted[: step + 1]), fill=_BELIEVED, width=2)
        draw.line(self._rewards.line(self._reward[: step + 1]), fill=_CAME, width=2)
        for x, y in self._rewards.line(self._imagined[step], step):
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_BELIEVED)
        return np.asarray(image)

    def _frame(self, draw: ImageDraw.ImageDraw, chart: _Chart, title: str) -> None:
        left, top, right, bottom = chart.box
        x = float(left)
        # the two curves are named in their colours
        name, _, rest = title.partition(": ")
        for text, colour in zip(
            (f"{name}: ", *rest.partition(", ")), (_MUTED, _CAME, _MUTED, _BELIEVED), strict=True
        ):
            draw.text((x, top - 30), text, fill=colour, font=self._font)
            x += draw.textlength(text, font=self._font)
        low, high = chart.ends
        draw.rectangle([left, top, right, bottom], outline=_GRID)
        draw.text((left + 3, top - 15), high, fill=_MUTED, font=self._font)
        draw.text((left + 3, bottom), low, fill=_MUTED, font=self._font)
