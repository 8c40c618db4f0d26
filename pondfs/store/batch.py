"""A version's rows as an Arrow record batch, for `pyarrow.ipc.read_record_batch`.

Written by hand, as each fsync writes one, mostly of two rows. pyarrow goes through 24 builders, a
struct array and a stream for it: 49 us, 77 with the caches cold; here it is 23
and 28 (2026-11). It reads what it would have written itself: a test compares.

The format lets buffers lie in any order in a message's body. Here the numbers of all columns come
first, so that where they lie depends on the number of rows only; then the texts and the contents.

Source: Arrow columnar format, "Encapsulated message format" and "Buffer listing for each layout";
format/Message.fbs and Schema.fbs; FlatBuffers, "Internals".
"""

import functools
import stat
import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import pyarrow as pa

from pondfs.entry import encode_name
from pondfs.extent import Content
from pondfs.node import FILE_TYPES
from pondfs.oplog import Row
from pondfs.store.rows import ATTRIBUTES, ROW_FIELDS, bits_of
from pondfs.store.scan import FOLD_COLUMNS
from pondfs.store.schema import CONTENT, SCHEMA

BATCH = pa.schema([*(SCHEMA.field(name) for name in FOLD_COLUMNS), SCHEMA.field("file_type"),
                   SCHEMA.field(CONTENT)])  # fmt: skip
"""What the message does not say itself: its columns, in their order."""

_INT64S = ("version", "timestamp", "valid_below", "offset", "length",
           "uid", "gid", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")  # fmt: skip
_INT32S = ("seq", "mode", "nlink")
_TEXTS = ("op", "part_id", "node_id", "name", "name_bytes", "metadata", "file_type", CONTENT)
"""The columns of each kind, in the order in which they lie in the body."""

_BITS = ("attr", "valid_below", "offset", "length", "name", "name_bytes", "metadata", "removed")
"""Columns of bits: which rows have a value there, and at last a column that is bits itself. The
nine attributes are all there, or none."""

_BITS_OF = {name: name for name in _BITS[:-1]} | dict.fromkeys(ATTRIBUTES, "attr")
_EVERYWHERE = len(_BITS) - 1
_BITS_BY_COLUMN = [
    _BITS.index(_BITS_OF[name]) if name in _BITS_OF else _EVERYWHERE for name in BATCH.names
]
"""By column, which of these bits say where it has a value; others have one everywhere."""

_BUFFERS = 2 * len(BATCH) + len(_TEXTS)  # validity, values; of texts, where they end, too

# The metadata is a flatbuffer: a Message that holds a RecordBatch. Its tables and vectors refer to
# each other by distances, which are fixed, as nothing optional is in it.
_HEAD = struct.Struct(
    "<Ii"  # what every message begins with, bytes of metadata
    "I6H"  # distance to the Message; sizes of vtable and table, where its four fields are
    "iIqhB5x"  # the Message: back to the vtable, to the RecordBatch, bodyLength, version, type
    "5H6x"  # the same for the RecordBatch with its three fields
    "iIqI4x"  # back to that, to the nodes, length, to the buffers
    "4xI"  # how many nodes; they follow, then the buffers likewise
)
_NODES = struct.Struct(f"<{2 * len(BATCH)}q")  # rows, nulls
_BUFFER_COUNT = struct.pack("<4xI", _BUFFERS)
_BUFFER_LIST = struct.Struct(f"<{2 * _BUFFERS}q")  # offset, bytes
_PREFIX_BYTES = 8
_METADATA_BYTES = _HEAD.size - _PREFIX_BYTES + _NODES.size + len(_BUFFER_COUNT) + _BUFFER_LIST.size
_V5, _RECORD_BATCH = 4, 3
_INT64 = struct.Struct("<q")
_SIZE_AT = struct.calcsize("<Ii I6H iI")
"""Where bodyLength stands in `_HEAD`."""

_NO_ATTR = (0,) * len(ATTRIBUTES)
_WIDTH = len(ATTRIBUTES)
_WIDE_ATTRIBUTES = [ATTRIBUTES.index(name) for name in _INT64S[5:]]
_MODE, _NLINK = ATTRIBUTES.index("mode"), ATTRIBUTES.index("nlink")
_NO_NAME = (None, None)
_HEX = b"%016x"
_ALIGN = (b"", *(bytes(8 - over) for over in range(1, 8)))
_KINDS = {kind: name.encode() for kind, name in FILE_TYPES.items()}


class _Layout(NamedTuple):
    """Where the buffers of so many rows lie in the body.

    Attributes:
        buffers: offset and size of each, for `_BUFFER_LIST`; those of texts are still zero.
        text_at: where in that list the values of each text column stand.
        words: 64-bit words of a column of bits.
        spare_int32s: how many zeros follow a column of int32, of ends.
        texts: where the texts begin.
    """

    buffers: list[int]
    text_at: list[int]
    words: int
    spare_int32s: Sequence[int]
    spare_ends: Sequence[int]
    texts: int


@functools.lru_cache(maxsize=64)
def _layout(rows: int) -> _Layout:
    words = (rows + 63) // 64
    int32s, ends = rows + rows % 2, rows + 1 + (rows + 1) % 2
    place: dict[str, tuple[int, int]] = {}
    bits_at: dict[str, int] = {}
    end_at: dict[str, int] = {}
    at = 0
    for name in _INT64S:
        place[name] = at, 8 * rows
        at += 8 * rows
    for name in _BITS:
        bits_at[name] = at
        at += 8 * words
    for name in _INT32S:
        place[name] = at, 4 * rows
        at += 4 * int32s
    for name in _TEXTS:
        end_at[name] = at
        at += 4 * ends
    bitmap_bytes = (rows + 7) // 8
    place["removed"] = bits_at["removed"], bitmap_bytes
    buffers: list[int] = []
    text_at: dict[str, int] = {}
    for name in BATCH.names:
        bits = _BITS_OF.get(name)
        buffers += (0, 0) if bits is None else (bits_at[bits], bitmap_bytes)
        if name in end_at:
            buffers += (end_at[name], 4 * (rows + 1))
            text_at[name] = len(buffers)
        buffers += place.get(name, (0, 0))
    return _Layout(
        buffers, [text_at[name] for name in _TEXTS], words,
        (0,) * (int32s - rows), (0,) * (ends - rows - 1), at,
    )  # fmt: skip


def encode_batch(version: int, first_seq: int, rows: Sequence[Row]) -> bytes:
    """Return *rows* as a message with the columns of `BATCH`; ``seq`` counts up from *first_seq*.

    Raises: ValueError if a content is not in memory, whole.
    """
    count = len(rows)
    layout = _layout(count)
    # Not zip(*rows): see `rows.encode`.
    ops, times, parts, nodes, modes, names, removed, attrs, below, metadata, offsets, contents = (
        list(map(field, rows)) for field in ROW_FIELDS
    )
    flat = array("q", chain.from_iterable([attr or _NO_ATTR for attr in attrs]))
    lengths = [0 if content is None else content.length for content in contents]
    offsets = [None if c is None else at for at, c in zip(offsets, contents, strict=True)]
    pairs = [_NO_NAME if name is None else encode_name(name) for name in names]
    texts = [text for text, _ in pairs]
    raws = [raw for _, raw in pairs]

    int64s = array("q", [version]) * count
    int64s.extend([time // 1000 for time in times])
    for column in (below, offsets):
        int64s.extend([value or 0 for value in column])
    int64s.extend(lengths)
    for at in _WIDE_ATTRIBUTES:
        int64s += flat[at::_WIDTH]
    nulls: list[int] = []
    bits: list[bytes] = []
    for column in (attrs, below, offsets, contents, texts, raws, metadata):
        nulls.append(column.count(None))
        bits.append(bits_of([value is not None for value in column]))
    nulls.append(0)
    bits.append(bits_of(removed))

    spare = layout.spare_int32s
    int32s = [*range(first_seq, first_seq + count), *spare]
    for at in (_MODE, _NLINK):
        int32s += (*flat[at::_WIDTH], *spare)
    columns = (
        [op.encode() for op in ops],
        [_HEX % part for part in parts],
        [_HEX % node for node in nodes],
        [b"" if text is None else text.encode() for text in texts],
        [raw or b"" for raw in raws],
        [b"" if text is None else text.encode() for text in metadata],
        [_KINDS[stat.S_IFMT(mode)] for mode in modes],
    )
    joined = list(map(b"".join, columns))
    for values in (*[map(len, column) for column in columns], lengths):
        int32s += accumulate(values, initial=0)
        int32s += layout.spare_ends

    before, behind, at = _metadata(count, tuple(nulls), tuple(map(len, joined)))
    size = sum(lengths)
    message: list[bytes | memoryview] = [
        before,
        _INT64.pack(at + size + (-size & 7)),
        behind,
        _INT64.pack(size),
        int64s.tobytes(),
        *[column.ljust(8 * layout.words, b"\0") for column in bits],
        array("i", int32s).tobytes(),
    ]
    for data in joined:
        message += data, _ALIGN[len(data) & 7]
    message += [_data(content) for content in contents if content is not None]
    message.append(_ALIGN[size & 7])
    return b"".join(message)


@functools.lru_cache(maxsize=256)
def _metadata(
    count: int, nulls: tuple[int, ...], texts: tuple[int, ...]
) -> tuple[bytes, bytes, int]:
    """Return a message's beginning: what comes before the body's size, and between that and that of
    the contents, which ends it; and where the contents begin in the body.

    Kept, as the versions of a program that syncs all the time differ in these two only.
    """
    layout = _layout(count)
    buffers = layout.buffers.copy()
    at = layout.texts
    for place, length in zip(layout.text_at, (*texts, 0), strict=True):
        buffers[place] = at
        buffers[place + 1] = length
        at += length + (-length & 7)
    head = _HEAD.pack(
        0xFFFFFFFF, _METADATA_BYTES,
        16, 12, 24, 16, 18, 4, 8,
        12, 36, 0, _V5, _RECORD_BATCH,
        10, 24, 8, 4, 16,
        16, 24, count, 404,
        len(BATCH),
    )  # fmt: skip
    nodes = _NODES.pack(*[number for bit in _BITS_BY_COLUMN for number in (count, nulls[bit])])
    # The contents are the last buffer.
    rest = head[_SIZE_AT + 8 :] + nodes + _BUFFER_COUNT + _BUFFER_LIST.pack(*buffers)[:-8]
    return head[:_SIZE_AT], rest, at


def _data(content: Content) -> bytes | memoryview:
    data = content.data
    if data is None or len(data) != content.length:
        raise ValueError(f"a content of {content.length} bytes has no data of that length")
    return data
