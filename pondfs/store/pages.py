"""Where each value of an uncompressed, PLAIN, required binary column lies in its Parquet file.

A column chunk is a run of pages; a page is a Thrift header and then, for our layout, nothing but
values: four bytes of length, then the bytes. The row lengths are known (column ``length``), so a
value's place is a running sum from the end of its page's header; no value has to be touched.

Source: parquet-format, PageHeader in parquet.thrift; Thrift compact protocol.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pondfs.errors import StoreDamaged

Positions = NDArray[np.int64]
Buffer = Any
"""bytes, memoryview or mmap: what can be indexed by byte."""

HEADER_MAX_BYTES = 256
"""Longest page header we look for. Ours are about 25 bytes; statistics would add some."""

_PREFIX_BYTES = 4
# PageType and Encoding in parquet.thrift.
_DATA_PAGE = 0
_OTHER_PAGES = (1, 2, 3)  # index, dictionary, data page v2
_PLAIN = 0
_OTHER_ENCODINGS = (2, 3, 4, 5, 6, 7, 8, 9)

# Thrift compact type codes.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BYTES, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class _DamagedError(Exception):
    pass


def _varint(buffer: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _DamagedError("a number does not end")


def _value(buffer: Buffer, at: int, kind: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return buffer[at], at + 1
    if kind in (_I16, _I32, _I64):
        number, at = _varint(buffer, at)
        return (number >> 1) ^ -(number & 1), at
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BYTES:
        length, at = _varint(buffer, at)
        return None, at + length
    if kind == _STRUCT:
        return _struct(buffer, at)
    if kind in (_LIST, _SET):
        head = buffer[at]
        at += 1
        count, inner = head >> 4, head & 0x0F
        if count == 15:
            count, at = _varint(buffer, at)
        for _ in range(count):
            # In a list a bool is a byte of its own; in a field it is in the type.
            _, at = _value(buffer, at, _BYTE if inner in (_TRUE, _FALSE) else inner)
        return None, at
    raise _DamagedError(f"unknown Thrift type {kind}")


def _struct(buffer: Buffer, at: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    field_id = 0
    while True:
        head = buffer[at]
        at += 1
        if head == 0:
            return fields, at
        step = head >> 4
        if step:
            field_id += step
        else:
            number, at = _varint(buffer, at)
            field_id = (number >> 1) ^ -(number & 1)
        fields[field_id], at = _value(buffer, at, head & 0x0F)


def locate_values(
    buffer: Buffer, start: int, stop: int, lengths: Positions | Sequence[int], name: str
) -> Positions | None:
    """Return the position in *buffer* of the first byte of each value of one column chunk.

    None when its pages are of another kind than ours: it has to be decoded.

    The chunk is ``[start, stop)``; *lengths* are the lengths of its values in bytes. That the
    pages' sizes agree with the lengths, and that the walk ends exactly at the chunk's end, is
    checked: a wrong position would hand out a neighbour's bytes.

    Raises: StoreDamaged naming *name* (EIO) when anything does not agree.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    count = len(lengths)
    positions = np.empty(count, np.int64)
    at, row = start, 0
    try:
        while at < stop:
            header, body = _struct(buffer, at)
            first = at == start
            if first and header[1] in _OTHER_PAGES:
                return None
            page = header[5]
            if first and page[2] in _OTHER_ENCODINGS:
                return None
            size, values = header[3], page[1]
            if header[1] != _DATA_PAGE or page[2] != _PLAIN or header[2] != size:
                raise _DamagedError("a page header makes no sense")
            part = lengths[row : row + values]
            ends = np.cumsum(part + _PREFIX_BYTES)
            if len(part) != values or (int(ends[-1]) if values else 0) != size:
                raise _DamagedError(f"the page at byte {at} does not hold what its rows say")
            positions[row : row + values] = ends - part + body
            row += values
            at = body + size
        if at != stop or row != count:
            raise _DamagedError("its pages do not end where the column does")
    except (_DamagedError, IndexError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"data file {name} is damaged ({error}): restore it from a backup"
        ) from error
    return positions
