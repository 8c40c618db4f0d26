"""Rows as an Arrow message written by hand: what pyarrow reads is what it would have written."""

import random
import stat
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pondfs.extent import Content
from pondfs.node import FILE_TYPES
from pondfs.oplog import Row
from pondfs.store.batch import BATCH, encode_batch
from pondfs.store.row_tables import record_of

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
INT32 = st.integers(0, (1 << 31) - 1)
NODE = st.integers(1, (1 << 63) - 1)
ROWS = st.builds(
    Row,
    op=st.sampled_from(("create", "update", "extent", "commit")),
    time_ns=INT64,
    part=NODE,
    node=NODE,
    mode=st.sampled_from(sorted(FILE_TYPES)),
    name=st.none() | st.binary(min_size=1, max_size=255),
    removed=st.booleans(),
    attr=st.none()
    | st.tuples(INT32, INT64, INT64, INT32, INT64, INT64, INT64, INT64, INT64),
    valid_below=st.none() | INT64,
    metadata=st.none() | st.text(max_size=300),
    offset=st.none() | INT64,
    content=st.none()
    | st.binary(min_size=1, max_size=100).map(lambda data: Content(data, len(data))),
)  # fmt: skip


def written_by_pyarrow(version: int, first_seq: int, rows: Sequence[Row]) -> pa.RecordBatch:
    records = [
        (
            *record_of(version, first_seq + at, row),
            FILE_TYPES[stat.S_IFMT(row.mode)],
            b"" if row.content is None else bytes(row.content.data or b""),
        )
        for at, row in enumerate(rows)
    ]
    return pa.RecordBatch.from_struct_array(pa.array(records, pa.struct(list(BATCH))))


def read(message: bytes) -> pa.RecordBatch:
    batch = pa.ipc.read_record_batch(pa.py_buffer(message), BATCH)
    batch.validate(full=True)
    return batch


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=9), INT64, INT32.filter(lambda seq: seq < 1 << 30))
def test_what_is_read_is_what_pyarrow_makes_of_the_rows(
    rows: list[Row], version: int, first_seq: int
) -> None:
    found = read(encode_batch(version, first_seq, rows))
    assert found.equals(written_by_pyarrow(version, first_seq, rows))


@pytest.mark.parametrize("count", [63, 64, 65, 128, 3000])
def test_many_rows(count: int) -> None:
    """Columns of bits take more than a word then."""
    dice = random.Random(count)
    rows = []
    for number in range(count):
        data = dice.randbytes(dice.randrange(1, 50))
        rows.append(
            Row(
                "update", number * 1000, 1, number + 1, stat.S_IFREG,
                b"name %d" % number if dice.random() < 0.5 else None,
                removed=dice.random() < 0.5,
                attr=tuple(range(number, number + 9)) if dice.random() < 0.5 else None,  # type: ignore[arg-type]  # nine of them
                offset=number,
                content=Content(data, len(data)) if dice.random() < 0.5 else None,
            )
        )  # fmt: skip
    assert read(encode_batch(7, 5, rows)).equals(written_by_pyarrow(7, 5, rows))


def test_contents_of_all_kinds_of_memory() -> None:
    data = memoryview(b"some longer text")[5:11]
    rows = [
        Row("update", 0, 1, 2, stat.S_IFREG, offset=0, content=Content(data, len(data))),
        Row("extent", 0, 1, 2, stat.S_IFREG, offset=6, content=Content(bytearray(b"!"), 1)),  # type: ignore[arg-type]  # as a buffer
    ]
    assert read(encode_batch(1, 0, rows))["content"].to_pylist() == [b"longer", b"!"]


def test_a_content_that_is_not_whole_is_refused() -> None:
    row = Row("update", 0, 1, 2, stat.S_IFREG, offset=0, content=Content(b"12", 3))
    with pytest.raises(ValueError, match="3 bytes"):
        encode_batch(1, 0, [row])
