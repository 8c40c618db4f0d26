"""Reading contents that lie in a data file as they are: by position, in few system calls.

What is read is compared with the checksums of its blocks (see `sums`), where the file has them: the
rest of the first and the last block is read along, beside what was asked for.

Who calls holds the open file meanwhile.
"""

import errno
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.store.damage import naming
from pondfs.store.sums import Sums

Piece = tuple[Content, int, memoryview]
"""What `ContentReader.read` takes: a content, where in it to begin, and the bytes to fill."""

_GAP_BYTES = 64
"""Contents that lie no further apart are read by one system call."""

_MOST_BUFFERS = 1000  # IOV_MAX is 1024

DISK_MOMENT_S = 150e-6
"""How long a small read waits for the disk on the spot: what going through a thread would cost."""


class Source(NamedTuple):
    """An open data file to read from.

    Attributes:
        path: what it is called in messages.
        sums: the checksums of its blocks; None when it has none.
    """

    fd: int
    path: str
    sums: Sums | None


def fill(source: Source, position: int, target: memoryview) -> None:
    """Fill *target* with the bytes at *position*.

    Raises: StoreDamaged naming the file when they are not there, or not as written; OSError, which
        names it, too.
    """
    _fill(source, position, [target])


def fill_nowait(source: Source, position: int, target: memoryview) -> bool:
    """As `fill`, but False when that could mean waiting for the disk, or does not go well.

    Raises: BlockingIOError when nothing is in memory; OSError.
    """
    sums = source.sums
    try:
        if sums is None:
            return os.preadv(source.fd, (target,), position, os.RWF_NOWAIT) == len(target)
        begin, parts, size = _with_blocks(sums, position, [target])
        # A short answer is a part that is in memory, or a damaged file: `fill` tells them apart.
        if os.preadv(source.fd, parts, begin, os.RWF_NOWAIT) != size:
            return False
        sums.check(begin, parts)
    except StoreDamaged:
        return False  # `fill` will tell
    except OSError as error:
        if error.errno == errno.EIO:
            return False  # the same
        raise
    return True


def read_run(pieces: Sequence[Piece], at: int, source: Source) -> int:
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
    _fill(source, begin, buffers)
    return stop


def read_soon(source: Source, position: int, target: memoryview) -> bool:
    """Send the disk for a small piece and look for it a moment; False when it takes longer.

    Going through a thread and back costs 150 us, a flash disk answers in 60. A slower disk costs
    us the moment on top.
    """
    os.posix_fadvise(source.fd, position, len(target), os.POSIX_FADV_WILLNEED)
    stop = time.perf_counter() + DISK_MOMENT_S
    while time.perf_counter() < stop:
        try:
            return fill_nowait(source, position, target)
        except BlockingIOError:
            continue
    return False


def _fill(source: Source, position: int, targets: list[memoryview]) -> None:
    parts, size = targets, sum(map(len, targets))
    sums = source.sums
    if sums is not None:
        position, parts, size = _with_blocks(sums, position, targets)
    with naming(source.path):
        if os.preadv(source.fd, parts, position) != size:
            # It ends before, or a signal came.
            _fill_one_by_one(source, position, parts)
    if sums is not None:
        sums.check(position, parts)


def _fill_one_by_one(source: Source, position: int, parts: Sequence[memoryview]) -> None:
    for part in parts:
        done = 0
        while done < len(part):
            got = os.preadv(source.fd, (part[done:],), position)
            if not got:
                raise StoreDamaged(
                    f"data file {source.path} is shorter than its rows say: restore it from a "
                    "backup"
                )
            done += got
            position += got


def _with_blocks(
    sums: Sums, position: int, targets: list[memoryview]
) -> tuple[int, list[memoryview], int]:
    """Return *targets*, which lie side by side, with what their blocks have before and behind.

    Returns: where that begins, the buffers to be filled, and how many bytes they have.
    Raises: StoreDamaged when the file ends before.
    """
    length = sum(map(len, targets)) if len(targets) > 1 else len(targets[0])
    begin, end = sums.around(position, length)
    parts = targets
    if begin < position:
        parts = [memoryview(bytearray(position - begin)), *parts]
    if end > position + length:
        parts = [*parts, memoryview(bytearray(end - position - length))]
    return begin, parts, end - begin
