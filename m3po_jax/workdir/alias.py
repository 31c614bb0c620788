"""A name for a folder that any library can take, whatever the folder is called."""

import contextlib
import os
import pathlib
import shutil
import tempfile

_DESCRIPTORS = pathlib.Path("/proc/self/fd")


class Alias:
    """Another path to an open folder, of letters, digits and slashes alone.

    Libraries read a path as a pattern or as UTF-8: Orbax expands `[`, `*` and a backslash in the
    path of a checkpoint and then finds none of its files.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens the folder.

        Raises:
            OSError: It is not a folder, or cannot be opened.
        """
        self._folder = folder
        self._link: str | None = None
        self._descriptor: int | None = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.path = _DESCRIPTORS / str(self._descriptor)
        if not self.path.exists():  # not Linux
            self._link = tempfile.mkdtemp(prefix="m3po_jax_")
            self.path = pathlib.Path(self._link) / "folder"
            self.path.symlink_to(folder.absolute(), target_is_directory=True)

    def named(self, text: str) -> str:
        """The text with the folder's own path in the place of this one."""
        return text.replace(str(self.path), str(self._folder))

    def close(self) -> None:
        """Frees the path; nothing may use it any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._link is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._link)
            self._link = None
