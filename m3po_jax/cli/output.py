"""Output of commands: it is delivered, or the failure is reported."""

import contextlib
import errno
import sys
from collections.abc import Iterator

from m3po_jax.workdir.streams import discard, say

# As of a program that the signal SIGPIPE ended, for whoever runs with `set -o pipefail`.
BROKEN_PIPE = 141
# Errors of a disk or device rather than of the program.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def print_anything() -> None:
    """Lets characters that the terminal's encoding lacks come out as escapes, not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def delivered(failed: int) -> Iterator[None]:
    """Ends the process with the code `failed` if what the block printed cannot be delivered.

    A reader that has closed its end, such as `head`, is not a failure.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        discard(sys.stdout)
        say(f"error: cannot write: {error.strerror}; check that there is space and try again")
        sys.exit(failed)
