"""Compressing the columns of a row group that is written anew.

Content that does not get clearly smaller stays as it is: its bytes are then read by one system
call, which no decoder beats. See `frames` for how the rest is cut.
"""

import numpy as np
import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from pondfs.store.frames import FRAME_BYTES, Ints
from pondfs.store.parquet import Packed, Page, Part

WORTH = 0.9
"""A column that keeps more than this share of its size stays uncompressed."""

WORTH_REWRITING = 0.8
"""What lies well but uncompressed is written anew if less than this share would be left."""

LEVEL = 3
"""As zstd has it by default: of source code a fourth is left, at 150 MB/s (measured 2026-11)."""

_PREFIX_BYTES = 4


def pack_contents(page: Page, lengths: Ints) -> Page:
    """Return a content column compressed, in pages of `FRAME_BYTES`, if that is worth it.

    A value that is larger has a page of its own. Shape: *lengths* are those of all rows' contents.
    """
    ends = np.cumsum(lengths + _PREFIX_BYTES)
    raw = memoryview(b"".join(page.parts))
    codec, packed = _codec(), list[Packed]()
    row = start = 0
    while row < len(lengths):
        stop_row = max(row + 1, int(np.searchsorted(ends, start + FRAME_BYTES, "right")))
        stop = int(ends[stop_row - 1])
        packed.append(_pack(codec, raw[start:stop], stop_row - row, FRAME_BYTES))
        row, start = stop_row, stop
    return _if_worth(page, packed)


def pack_column(page: Page, rows: int) -> Page:
    """Return a column compressed, in one page and frame, if that is worth it."""
    raw = memoryview(b"".join(page.parts))
    return _if_worth(page, [_pack(_codec(), raw, rows, max(1, len(raw)))])


def is_worth(sample: bytes) -> bool:
    """Return whether bytes like these would get so small that it is worth to write them anew."""
    packed: bytes = _codec().compress(sample, asbytes=True)
    return len(packed) < WORTH_REWRITING * len(sample)


def _if_worth(page: Page, packed: list[Packed]) -> Page:
    before = sum(each.size for each in packed)
    after = sum(each.packed_size for each in packed)
    return page._replace(packed=packed) if after < WORTH * before else page


def _pack(codec: pa.Codec, raw: memoryview, rows: int, most: int) -> Packed:
    # As bytes: the buffer one gets otherwise keeps all the room that the worst case would take.
    frames: list[Part] = [
        codec.compress(raw[at : at + most], asbytes=True) for at in range(0, len(raw), most)
    ]
    crc = 0
    for frame in frames:
        crc = crc32(frame, crc)
    return Packed(rows, len(raw), frames, crc)


def _codec() -> pa.Codec:
    return pa.Codec("zstd", compression_level=LEVEL)
