"""Where each value of an uncompressed, PLAIN, required binary column lies in its Parquet file.

A column chunk is a run of pages; a page is a Thrift header and then, for our layout, nothing but
values: four bytes of length, then the bytes. The row lengths are known (column ``length``), so a
value's place is a running sum from the end of its page's header; no value has to be touched.

Source: parquet-format, PageHeader in parquet.thrift.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pondfs.errors import StoreDamaged
from pondfs.store.thrift import Buffer, ThriftError, read_struct

Positions = NDArray[np.int64]
_PREFIX_BYTES = 4
# PageType and Encoding in parquet.thrift.
_DATA_PAGE = 0
_OTHER_PAGES = (1, 2, 3)  # index, dictionary, data page v2
_PLAIN = 0
_OTHER_ENCODINGS = (2, 3, 4, 5, 6, 7, 8, 9)


class _DamagedError(Exception):
    pass


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
            header, body = read_struct(buffer, at)
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
    except (_DamagedError, ThriftError, IndexError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"data file {name} is damaged ({error}): restore it from a backup"
        ) from error
    return positions
