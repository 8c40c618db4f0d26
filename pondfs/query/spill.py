"""Where a query puts what does not fit in memory: a directory that goes with its process.

DataFusion removes its own when all of it is taken down in good order, which a command that is
interrupted, or just quick about ending, does not wait for.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile

_PREFIX = "pond-query-"


class Spill:
    """A new directory in `$TMPDIR`, and nothing left of those whose process ended.

    Attributes:
        path: the directory.
    """

    def __init__(self) -> None:
        """Make it. Raises: OSError."""
        top = tempfile.gettempdir()
        _clear(top)
        while True:
            self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=top)
            # Let go of by the kernel, however the process ends.
            with contextlib.suppress(FileNotFoundError):
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                if os.path.exists(self.path):
                    return
                os.close(self._fd)
            # Another process took it for one that was left: once more.

    def remove(self) -> None:
        """Remove it, though somebody may be writing there. Calling it twice is harmless."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _clear(top: str) -> None:
    """Remove what processes left that were killed."""
    with os.scandir(top) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in left:
        # Where that fails, it is somebody else's, or gone, or in use.
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)
