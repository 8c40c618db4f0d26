"""Reading contents that lie in a data file as they are: by position, in few system calls.

Who calls holds the open file meanwhile.
"""

import os
import time
from collections.abc import Sequence

from pondfs.errors import StoreDamaged
from pondfs.extent import Content

Piece = tuple[Content, int, memoryview]
"""What `ContentReader.read` takes: a content, where in it to begin, and the bytes to fill."""

_GAP_BYTES = 64
"""Contents that lie no further apart are read by one system call."""

_MOST_BUFFERS = 1000  # IOV_MAX is 1024

DISK_MOMENT_S = 150e-6
"""How long a small read waits for the disk on the spot: what going through a thread would cost."""


def fill(fd: int, path: str, position: int, target: memoryview) -> None:
    """Fill *target* with the bytes at *position*. Raises: StoreDamaged naming *path*; OSError."""
    done = 0
    while done < len(target):
        got = os.preadv(fd, (target[done:],), position + done)
        if not got:
            raise StoreDamaged(
                f"data file {path} is shorter than its rows say: restore it from a backup"
            )
        done += got


def read_run(pieces: Sequence[Piece], at: int, fd: int) -> int:
    """Read pieces of one file, from number *at* on, that lie side by side. Returns: the one after.

    Raises: as `fill`.
    """
    content, skip, target = pieces[at]
    file = content.file
    begin = end = content.position + skip
    buffers: list[memoryview] = []
    stop = at
    while stop < len(pieces) and len(buffers) < _MOST_BUFFERS:
        content, skip, target = pieces[stop]
        gap = content.position + skip - end
        if content.file is not file or content.position < 0 or not 0 <= gap <= _GAP_BYTES:
            break
        if gap:
            buffers.append(memoryview(bytearray(gap)))
        buffers.append(target)
        end += gap + len(target)
        stop += 1
    if os.preadv(fd, buffers, begin) != end - begin:
        # It ends before, or a signal came.
        for content, skip, target in pieces[at:stop]:
            fill(fd, file.path, content.position + skip, target)
    return stop


def read_soon(fd: int, position: int, target: memoryview) -> bool:
    """Send the disk for a small piece and look for it a moment; False when it takes longer.

    Going through a thread and back costs 150 us, a flash disk answers in 60. A slower disk costs
    us the moment on top.
    """
    os.posix_fadvise(fd, position, len(target), os.POSIX_FADV_WILLNEED)
    stop = time.perf_counter() + DISK_MOMENT_S
    while time.perf_counter() < stop:
        try:
            return os.preadv(fd, (target,), position, os.RWF_NOWAIT) == len(target)
        except BlockingIOError:
            continue
    return False
