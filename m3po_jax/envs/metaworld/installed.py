"""Whether Meta-World's tasks can be made here; imports nothing that is heavy."""

import importlib.metadata
import importlib.util
import pathlib

VERSION = "3.1.1"
# Its own requirements pin a mujoco that the rest of this package does not run with.
INSTALL = (
    f"pip install 'm3po_jax[metaworld]' && pip install --no-deps --force-reinstall "
    f"metaworld=={VERSION}"
)
_NEEDS = ("gymnasium", "scipy", "imageio")


def unavailable() -> str | None:
    """Why the tasks cannot be made here and what to do, or `None`."""
    spec = importlib.util.find_spec("metaworld")
    if spec is None or spec.origin is None:
        return f"the package metaworld is not installed; {INSTALL}"
    version = importlib.metadata.version("metaworld")
    if version != VERSION:
        return f"metaworld is {version} here, and the rewards are those of {VERSION}; {INSTALL}"
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return f"metaworld needs {', '.join(missing)}; {INSTALL}"
    scenes = pathlib.Path(spec.origin).parent / "assets" / "sawyer_xyz"
    if not scenes.is_dir():
        return f"the scenes are not in {scenes}; {INSTALL}"
    mujoco = importlib.util.find_spec("mujoco")
    if mujoco is None or mujoco.origin is None:
        return "the package mujoco is not installed; pip install m3po_jax installs it"
    if not (pathlib.Path(mujoco.origin).parent / "batch.py").is_file():
        found = importlib.metadata.version("mujoco")
        return f"mujoco {found} cannot step many environments at once; pip install mujoco==3.17.0"
    return None
