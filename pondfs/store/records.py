"""Files of local caches: records, each a table in Arrow IPC behind a header with a checksum.

A header (`_HEADER`, zeros up to 64 bytes) is followed by a stream of Arrow IPC, padded to 64 bytes.
Tables are mapped into memory, not read. What is not as it was written is found by the checksum and
is nobody's loss: caches are made anew.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from pondfs.store.datafile import unlink_quietly
from pondfs.store.existence import open_plain
from pondfs.store.faults import fault
from pondfs.store.lock import open_own

_HEADER = struct.Struct("<8sIIQ")  # magic, format, checksum, bytes that follow the 64
_HEADER_BYTES = 64
_PIECE_BYTES = 1 << 20
_BLOCK_BYTES = 4096


class Kind(NamedTuple):
    """What a file's headers begin with: whose they are, and which form they have."""

    magic: bytes
    format: int


class BadRecordError(ValueError):
    """Something in the file is not as it was written; the message says what."""


TROUBLE = (OSError, ValueError, TypeError, OverflowError, pa.ArrowException)
"""What may be raised on the way: a cache that can't be used, or not be written, is no cache."""


def read_records(path: str, kind: Kind) -> Iterator[pa.Table]:
    """Yield the tables of a file, mapped into memory. Costs 15 ms per 100 MB.

    Raises: FileNotFoundError; one of `TROUBLE`.
    """
    _, records = map_records(path, kind)
    yield from records


def map_records(path: str, kind: Kind) -> tuple[mmap.mmap, Iterator[pa.Table]]:
    """Return the map that a file's tables are in, and the tables.

    Raises: FileNotFoundError; one of `TROUBLE`, also while going through the tables.
    """
    with open(path, "rb", buffering=0, opener=open_plain) as raw:
        fd = os.dup(raw.fileno())
        try:
            mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(fd)
            raise
    return mapped, _read(fd, mapped, kind)


def _read(fd: int, mapped: mmap.mmap, kind: Kind) -> Iterator[pa.Table]:
    whole = pa.py_buffer(mapped)
    with open(fd, "rb", buffering=0):
        for start, size, expected in headers(fd, whole.size, kind):
            # By reading, not through the map: there a bad sector would be the end of us.
            if checksum(fd, start, size) != expected:
                raise BadRecordError(f"the record at byte {start} is damaged")
            yield pa.ipc.open_stream(whole.slice(start, size)).read_all()


def write_record(
    file: BinaryIO, start: int, kind: Kind, schema: pa.Schema, tables: Iterable[pa.Table]
) -> int:
    """Write a record at *start*, its header last; return where it ends."""
    file.seek(start + _HEADER_BYTES)
    with pa.ipc.new_stream(file, schema) as stream:
        for table in tables:
            stream.write_table(table)
    file.write(bytes(-file.tell() % _HEADER_BYTES))
    file.flush()
    fault("cache:header")
    end = file.tell()
    size = end - start - _HEADER_BYTES
    found = checksum(file.fileno(), start + _HEADER_BYTES, size)
    os.pwrite(file.fileno(), _HEADER.pack(*kind, found, size), start)
    return end


def replace(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Have *write* write a file that then takes the place of *path*, whole."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w+b", opener=open_own) as file:
            write(file)
        fault("cache:rename")
        os.rename(temporary, path)
    except BaseException:
        unlink_quietly(temporary)
        raise


def headers(fd: int, end: int, kind: Kind) -> Iterator[tuple[int, int, int]]:
    """Yield each record's first byte, its size and its checksum.

    Raises: BadRecordError where they do not lead to the file's end.
    """
    at = 0
    while at < end:
        header = os.pread(fd, _HEADER.size, at)
        if len(header) < _HEADER.size:
            raise BadRecordError("it ends in the middle of a record")
        magic, number, expected, size = _HEADER.unpack(header)
        if (magic, number) != kind:
            raise BadRecordError(f"at byte {at} there is no record of this version of pondfs")
        at += _HEADER_BYTES + size
        if at > end or size % _HEADER_BYTES:
            raise BadRecordError("it ends in the middle of a record")
        yield at - size, size, expected


def checksum(fd: int, start: int, size: int) -> int:
    """Return the CRC-32 of the sums along and across all 4 KiB blocks: 15 ms per 100 MB.

    CRC-32 itself takes 37. It is about torn writes, lost blocks, flipped bits and words in the
    wrong place, not about anybody's intent.
    """
    piece = bytearray(min(_PIECE_BYTES, size + -size % _BLOCK_BYTES))
    blocks = np.frombuffer(piece, np.uint64).reshape(-1, _BLOCK_BYTES // 8)
    across = np.zeros(_BLOCK_BYTES // 8, np.uint64)
    found = crc32(size.to_bytes(8, "little"))
    stop = start + size
    while start < stop:
        got = os.preadv(fd, (memoryview(piece)[: stop - start],), start)
        if not got:
            raise BadRecordError("it ends in the middle of a record")
        used = -(-got // _BLOCK_BYTES)
        piece[got : used * _BLOCK_BYTES] = bytes(used * _BLOCK_BYTES - got)
        found = crc32(blocks[:used].sum(axis=1), found)
        across += blocks[:used].sum(axis=0)
        start += got
    return crc32(across.data, found)
