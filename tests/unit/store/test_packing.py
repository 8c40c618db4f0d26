"""Compressed contents, read by those who did not write them, and cut as they should be."""

import os
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from datafusion import SessionContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pondfs.oplog import Row
from pondfs.store.frames import FRAME_BYTES, load_table, unpack_position
from pondfs.store.packing import is_worth, pack_contents
from pondfs.store.parquet import Page
from pondfs.store.scan import read_pieces, read_rows
from pondfs.store.schema import SCHEMA
from tests.unit.store.support import as_packed_file, extent_row, file_row, size_row


def text(size: int, seed: int = 0) -> bytes:
    """Bytes of which a third is left."""
    numbers = np.random.default_rng(seed).integers(0, 1 << 16, size // 12 + 1)
    return b"".join(b"line %06d\n" % n for n in numbers.tolist())[:size]


def rows_of(sizes: list[int | None]) -> list[Row]:
    return [
        size_row(9, 0) if size is None else extent_row(9, 0, text(size, at))
        for at, size in enumerate(sizes)
    ]


def page_of(values: list[bytes]) -> tuple[Page, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    parts = [part for value in values for part in (len(value).to_bytes(4, "little"), value)]
    return Page(parts), np.array([len(value) for value in values], np.int64)


sizes = st.lists(
    st.one_of(st.none(), st.integers(1, 3000), st.integers(FRAME_BYTES - 9, 3 * FRAME_BYTES)),
    min_size=1,
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sizes, st.integers(1, 9))
def test_every_content_is_where_it_is_said_to_be(
    tmp_path: Path, sizes: list[int | None], group_rows: int
) -> None:
    rows = rows_of(sizes)
    file = as_packed_file(tmp_path, 3, rows, group_rows)
    with pq.ParquetFile(file.path, page_checksum_verification=True) as parquet:
        found = parquet.read()["content"].to_pylist()
        metadata = parquet.metadata
    expected = [b"" if r.content is None else bytes(r.content.data or b"") for r in rows]
    assert found == expected
    scan = read_rows([file])
    pieces = [
        at for _, _, places in read_pieces(file, ("length",), 2 * group_rows) for at in places
    ]
    there = [at for at, value in enumerate(expected) if value]
    assert [pieces[at] for at in there] == scan.position[there].tolist()
    packed = [
        metadata.row_group(at // group_rows).column(len(SCHEMA) - 1).compression == "ZSTD"
        for at in range(len(rows))
    ]
    with open(file.path, "rb") as raw:
        table = load_table(raw.fileno(), file.size, file.path)
        assert table is not None
        for value, position, is_packed in zip(expected, pieces, packed, strict=True):
            if not value:
                continue
            assert (position < -1) == is_packed
            if is_packed:
                body, start = unpack_position(position)
                first, stop, at = table.find(position, 0, len(value), "x")
                assert table.starts[first] >= body
                assert start < FRAME_BYTES
                assert at + len(value) <= sum(table.wholes[first:stop])
                assert stop - first <= -(-(len(value) + start) // FRAME_BYTES)
            else:
                assert os.pread(raw.fileno(), len(value), position) == value
    os.unlink(file.path)


def test_pages_are_bounded_and_a_large_value_is_one() -> None:
    values = [text(n, n) for n in (100, 70_000, 70_000, 500_000, 40_000, 40_000, 40_000, 40_000)]
    page, lengths = page_of(values)
    packed = pack_contents(page, lengths).packed
    assert packed is not None
    assert [p.rows for p in packed] == [2, 1, 1, 3, 1]
    assert [len(p.frames) for p in packed] == [1, 1, 4, 1, 1]
    assert all(p.size <= FRAME_BYTES or p.rows == 1 for p in packed)


def test_what_does_not_get_smaller_stays_as_it_is() -> None:
    page, lengths = page_of([os.urandom(10_000) for _ in range(50)])
    assert pack_contents(page, lengths) is page
    # A little is not worth a decoder.
    page, lengths = page_of([os.urandom(9_500) + bytes(500) for _ in range(50)])
    assert pack_contents(page, lengths) is page
    page, lengths = page_of([os.urandom(5_000) + bytes(5_000) for _ in range(50)])
    assert pack_contents(page, lengths).packed
    assert is_worth(text(100_000))
    assert not is_worth(os.urandom(100_000))
    assert not is_worth(b"")


def test_other_engines_read_it(tmp_path: Path) -> None:
    """Frames that follow each other in a page are Zstandard data to everybody."""
    sizes = [400_000, 20, None, 1 << 20, 5000, None, 131_072, 3] * 4
    rows = [file_row(2, os.urandom(70_000), b"noise"), *rows_of(sizes)]
    file = as_packed_file(tmp_path, 3, rows, 8)
    expected = [b"" if r.content is None else bytes(r.content.data or b"") for r in rows]
    with duckdb.connect() as connection:
        found = connection.execute(
            "select content from read_parquet(?) order by seq", [file.path]
        ).fetchall()
    assert [value for (value,) in found] == expected
    assert pl.read_parquet(file.path).sort("seq")["content"].to_list() == expected
    context = SessionContext()
    context.register_parquet("t", file.path)
    batches = context.sql("select content from t order by seq").to_arrow_table()
    assert batches["content"].to_pylist() == expected
