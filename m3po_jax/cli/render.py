"""Shows a trained agent: a video of one episode, or Brax's viewer as a page.

m3po-render --workdir=DIR --task=NAME --out=FILE [--checkpoint=newest|best] [--overlay] ...

--workdir=DIR   the folder of the run; --checkpoint=best takes its best evaluated checkpoint
--task=NAME     one of its tasks, such as dmc/CartpoleSwingup
--out=FILE      FILE.mp4 for MuJoCo tasks; FILE.html for Brax tasks (loads Brax's viewer online)
--policy=NAME   planner: plan with the learned model; prior: the policy network alone
--seed=0        seed of the episode
--overlay       draws what the agent believed: expected and actual returns and rewards
--width=640 --height=480   size of the picture in pixels
"""

import os
import subprocess
import sys

from absl import flags

from m3po_jax.cli import command_line, paths
from m3po_jax.config import LARGEST_SEED
from m3po_jax.config_validation import validate
from m3po_jax.report import video
from m3po_jax.workdir import folder

FLAGS = flags.FLAGS
_PROBE = "import mujoco; c = mujoco.GLContext(8, 8); c.make_current(); c.free()"


def main() -> None:
    """Checks what was asked for before the slow imports, then plays and draws."""
    path, out = paths.named_by("workdir"), str(paths.file_to_write("out"))
    config = folder.read_config(path)
    validate(config)
    video.check_request(config, FLAGS.task, out, overlay=FLAGS.overlay)
    step = command_line.chosen_checkpoint(path, config)
    if out.endswith(".mp4"):
        choose_gl()
    command_line.use_compile_cache()
    from m3po_jax.training import recording

    asked = {"task": FLAGS.task, "policy": FLAGS.policy, "seed": FLAGS.seed}
    episode = recording.record_episode(config, path, step=step, **asked)
    title, size = f"{FLAGS.task}, {FLAGS.policy}", (FLAGS.width, FLAGS.height)
    video.write_recording(episode, out, title=title, size=size, overlay=FLAGS.overlay)
    print(f"wrote {FLAGS.out}: {len(episode.reward)} steps, return {episode.reward.sum():.1f}")


def choose_gl() -> None:
    """Lets MuJoCo draw without a screen, by EGL or OSMesa; a choice of the user's stays."""
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        return
    for choice in ("egl", "osmesa"):
        trial = {**os.environ, "MUJOCO_GL": choice}
        result = subprocess.run([sys.executable, "-c", _PROBE], env=trial, capture_output=True)
        if result.returncode == 0:
            os.environ["MUJOCO_GL"] = choice
            return
    raise video.VideoError(
        "MuJoCo can draw neither with EGL nor with OSMesa here; on Debian and Ubuntu: sudo apt-get "
        "install libegl1 libgl1 libgl1-mesa-dri libosmesa6 (or set MUJOCO_GL)"
    )


def run() -> None:
    """Entry point of `m3po-render`."""
    for name in ("workdir", "task", "out"):
        flags.DEFINE_string(name, None, f"See --help: {name}.", required=True)
    command_line.define_checkpoint_flag()
    flags.DEFINE_enum("policy", "planner", ["planner", "prior"], "What acts.")
    flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0, upper_bound=LARGEST_SEED)
    flags.DEFINE_bool("overlay", False, "Draw what the agent believed.")
    flags.DEFINE_integer("width", 640, "Pixels.", lower_bound=16, upper_bound=3840)
    flags.DEFINE_integer("height", 480, "Pixels.", lower_bound=16, upper_bound=2160)
    command_line.run(main, __doc__)


if __name__ == "__main__":
    run()
