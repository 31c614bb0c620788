"""Output that may be gone, as of a closed terminal."""

import contextlib
import os
import sys
from typing import IO


def say(text: str) -> None:
    """Prints to stderr, unless that is gone."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def discard(stream: IO[str]) -> None:
    """Drops what the stream still holds, or Python would stumble over it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
