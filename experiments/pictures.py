"""The picture at the top of the README: `python -m experiments.pictures --workdir=runs/classic`.

Plays one episode of each task of a run that `launch/local.sh` has trained and writes a strip of its
frames, evenly spaced in time, with the return. Needs what `m3po-render` needs for an mp4.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m3po_jax.cli.render import choose_gl
from m3po_jax.workdir import folder

FIGURE = pathlib.Path(__file__).parents[1] / "docs" / "figures" / "agent.png"
FRAMES, SIZE = 6, (220, 165)
LABEL, GAP = 26, 4
INK = "#24292f"


def strip(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """One labelled row of frames `[height, width, 3]` for each task.

    Args:
        rows: Label and frames of each task; all frames have one size.
    """
    height, width = rows[0][1][0].shape[:2]
    columns = len(rows[0][1])
    shape = (columns * (width + GAP) - GAP, len(rows) * (LABEL + height + GAP) - GAP)
    image = Image.new("RGB", shape, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    for row, (label, frames) in enumerate(rows):
        top = row * (LABEL + height + GAP)
        draw.text((4, top + 3), label, fill=INK, font=font)
        for column, frame in enumerate(frames):
            image.paste(Image.fromarray(frame), (column * (width + GAP), top + LABEL))
    return image


def main() -> None:
    """Plays the tasks and writes the strip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="the run to show")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes")
    parser.add_argument("--out", type=pathlib.Path, default=FIGURE)
    arguments = parser.parse_args()
    choose_gl()
    from m3po_jax.training import recording

    config = folder.read_config(arguments.workdir)
    rows = []
    for task in config.tasks:
        episode = recording.record_episode(
            config, arguments.workdir, task=task, policy="planner", seed=arguments.seed
        )
        # The swing-up is over in a second or two: more frames early than late.
        steps = (np.linspace(0.0, 1.0, FRAMES) ** 2 * (len(episode.reward) - 1)).astype(int)
        poses = {name: values[steps] for name, values in episode.poses.items()}
        frames = list(episode.environment.frames(poses, width=SIZE[0], height=SIZE[1]))
        seconds = ", ".join(f"{step * episode.seconds_per_step:.1f}" for step in steps)
        label = f"{task.partition('/')[2]}: return {episode.reward.sum():.0f} of 1000"
        rows.append((f"{label}, at {seconds} s", frames))
    strip(rows).save(arguments.out, optimize=True)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
