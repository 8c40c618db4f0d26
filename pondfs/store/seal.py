"""A checksum of what nobody else would check in a Parquet file of ours: footer, headers and rows.

Parquet has checksums of pages. A page's header has none, nor has the footer, which says where pages
lie and what they are: one bit there and the rows read are others, or fewer, without an error. So
the footer of our files carries a seal, as the build of the program that wrote them (a key with a
value would be copied by programs that copy tables): the CRC-32 of all that is before the footer,
contents left out, and that of the footer itself, as digits, these digits left out.

Contents are left out because a fold does not read them: they are a hundred times the rest, and one
bad bit in a file's bytes is no reason to refuse the tree. Files of before, and other programs',
have no seal.
"""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from zlib_ng.zlib_ng import crc32

from pondfs.errors import StoreDamaged

DIGITS = 16

KEY = "pondfs"
"""Has the seal as its value where pyarrow writes a file for us, under its own name: checkpoints."""

_MARK = b" (build pond-"
_VALUE_BEGIN = KEY.encode() + b"\x18\x1e" + _MARK
"""How the value of `KEY` stands in a footer: what it is called, a string's field, its length."""


def unsealed() -> bytes:
    """Return what belongs behind the version of the program that wrote the file."""
    return _MARK + b"0" * DIGITS + b")"


_END_BYTES = 8  # the footer's length, and Parquet's own magic
_MAGIC = b"PAR1"
_PIECE_BYTES = 1 << 20

Read = Callable[[int, int], bytes]
"""Returns so many bytes (fewer at the end) from a place in a file."""


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Return its descriptor."""


class Seal(NamedTuple):
    """What a footer, itself found to be right, says of what is before it."""

    body_crc: int
    footer_start: int


def fill(footer: bytes, body_crc: int) -> bytes:
    """Return *footer*, in which the seal's digits are anything, with the right ones."""
    at = footer.rindex(_MARK) + len(_MARK)
    rest = footer[at + DIGITS :]
    crc = crc32(rest, crc32(footer[:at]))
    # The one with the other: its own digits would not be counted otherwise.
    return footer[:at] + b"%08x%08x" % (body_crc, crc ^ body_crc) + rest


def seal_all(data: bytes) -> bytes:
    """Return a Parquet file that has `unsealed` in its footer, sealed: all that is in it counts."""
    start = len(data) - _END_BYTES - int.from_bytes(data[-8:-4], "little")
    footer = fill(data[start:-_END_BYTES], crc32(data[len(_MAGIC) : start]))
    return data[:start] + footer + data[-_END_BYTES:]


def find_seal(read: Read, size: int, name: str) -> Seal | None:
    """Return the seal of a file of *size* bytes; None when it has none.

    Raises: StoreDamaged naming *name* when there is no footer, or it is not as it was written.
    """
    end = read(max(0, size - _END_BYTES), _END_BYTES)
    start = size - _END_BYTES - int.from_bytes(end[:4], "little")
    if len(end) != _END_BYTES or end[4:] != _MAGIC or start < len(_MAGIC):
        raise _damaged(name, "it has no footer")
    footer = read(start, size - _END_BYTES - start)
    at = footer.rfind(_MARK)
    if at < 0:
        return None
    at += len(_MARK)
    crc = crc32(footer[at + DIGITS :], crc32(footer[:at]))
    try:
        both = bytes.fromhex(footer[at : at + DIGITS].decode("ascii"))
    except ValueError:
        both = b""
    body_crc = int.from_bytes(both[:4], "big")
    if len(both) != DIGITS // 2 or int.from_bytes(both[4:], "big") != crc ^ body_crc:
        if _is_of_others(footer + end):
            return None
        raise _damaged(name, "its footer is not as it was written")
    return Seal(body_crc, start)


def _is_of_others(tail: bytes) -> bool:
    """Whether a file that ends with *tail* has no seal, but somebody's bytes that look like one.

    Other writers put the smallest and the largest names and contents into the footer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        writer = pq.read_metadata(pa.BufferReader(_MAGIC + tail)).created_by
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    is_ours = not writer or writer.startswith("pondfs") or _MARK.decode() in writer
    return not is_ours and _VALUE_BEGIN not in tail


def check_body(read: Read, seal: Seal, left_out: Iterable[tuple[int, int]], name: str) -> None:
    """Compare what is before the footer with its seal, but for what is *left_out*, in order.

    Raises: StoreDamaged naming *name*.
    """
    crc, at = 0, len(_MAGIC)
    for start, stop in (*left_out, (seal.footer_start, seal.footer_start)):
        while at < start:
            piece = read(at, min(_PIECE_BYTES, start - at))
            if not piece:
                break
            crc = crc32(piece, crc)
            at += len(piece)
        at = stop
    if crc != seal.body_crc:
        raise _damaged(name, "its rows are not as they were written")


def read_of(file: int | HasFileno) -> tuple[Read, int]:
    """Return what reads an open file, and its size."""
    fd = file if isinstance(file, int) else file.fileno()
    return lambda at, length: os.pread(fd, length, at), os.fstat(fd).st_size


def check_footer(path: str) -> None:
    """Compare a file's footer with its seal, if it has one.

    Raises: StoreDamaged naming it; OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        find_seal(*read_of(fd), path)
    finally:
        os.close(fd)


def _damaged(name: str, what: str) -> StoreDamaged:
    return StoreDamaged(f"data file {name} is damaged ({what}): restore it from a backup")
