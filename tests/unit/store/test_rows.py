import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pondfs.entry import encode_name
from pondfs.extent import Content
from pondfs.node import FILE_TYPES, ROOT, Version, format_node_id
from pondfs.oplog import Row
from pondfs.store.datafile import write_data_file
from pondfs.store.rows import COPY_BELOW_BYTES, commit_row, encode
from pondfs.store.schema import SCHEMA
from tests.unit.store.support import DIRECTORY, FILE, SYMLINK, attr, make_cut

int64 = st.integers(-(2**63), 2**63 - 1)
ids = st.integers(1, 2**63 - 1)
attrs = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from([FILE, DIRECTORY, SYMLINK]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**63 - 1),
        int64,
        int64,
        int64,
    ),
)
contents = st.one_of(st.none(), st.binary(min_size=1, max_size=9))
times = st.integers(-(10**18), 4 * 10**18)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    data = draw(contents)
    return Row(
        op=draw(st.sampled_from(["create", "update", "extent"])),
        time_ns=draw(times),
        part=draw(ids),
        node=draw(ids),
        mode=draw(st.sampled_from([FILE, DIRECTORY, SYMLINK])),
        name=draw(st.one_of(st.none(), st.binary(min_size=1, max_size=9))),
        removed=draw(st.booleans()),
        attr=draw(attrs),
        valid_below=draw(st.one_of(st.none(), st.integers(0, 2**62))),
        metadata=draw(st.one_of(st.none(), st.just('{"ä": 1}'))),
        offset=None if data is None else draw(st.integers(0, 2**62)),
        content=None if data is None else Content(data, len(data)),
    )


def plain(row: Row, version: int, seq: int) -> dict[str, Any]:
    """What the columns must hold, said as plainly as can be."""
    text, raw = encode_name(row.name) if row.name is not None else (None, None)
    values = row.attr or (None,) * 9
    data = None if row.content is None else row.content.data
    return {
        "version": version,
        "seq": seq,
        "timestamp": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row.time_ns // 1000),
        "op": row.op,
        "part_id": format_node_id(row.part),
        "node_id": format_node_id(row.node),
        "file_type": FILE_TYPES[row.mode & 0o170000],
        "name": text,
        "name_bytes": raw,
        "removed": row.removed,
        **dict(
            zip(
                "mode uid gid nlink rdev size atime_ns mtime_ns ctime_ns".split(),
                values,
                strict=True,
            )
        ),
        "valid_below": row.valid_below,
        "metadata": row.metadata,
        "offset": row.offset,
        "length": None if data is None else len(data),
        "content": data or b"",
    }


def read_back(tmp_path: Path, some: list[Row], first_seq: int = 0) -> pa.Table:
    """The rows after a trip through a file, as pyarrow reads it."""
    written = write_data_file(os.fspath(tmp_path), Version(42), first_seq, some)
    path = tmp_path / written.name
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        table = parquet.read()
    path.unlink()
    table.validate(full=True)
    return table


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(rows(), min_size=1, max_size=20), st.integers(0, 1000))
def test_columns_hold_what_the_rows_say(tmp_path: Path, some: list[Row], first_seq: int) -> None:
    table = read_back(tmp_path, some, first_seq)
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == [plain(row, 42, first_seq + i) for i, row in enumerate(some)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 127, 128, 5000])
def test_columns_of_every_pattern_of_nulls(tmp_path: Path, count: int) -> None:
    """Levels and bits come in groups of eight, run lengths in sevens of bits."""
    for step in (1, 2, 3, count):
        some = [
            Row(
                "update", 0, 1, 2 + i, FILE,
                None if i % step else b"n" * (i % 300), i % step == 0,
                None if i % step else attr(size=i), None if i % step else i,
            )
            for i in range(count)
        ]  # fmt: skip
        assert read_back(tmp_path, some).to_pylist() == [
            plain(r, 42, i) for i, r in enumerate(some)
        ]


@pytest.mark.parametrize("length", [1, COPY_BELOW_BYTES - 1, COPY_BELOW_BYTES, 100_000])
def test_contents_copied_or_not(tmp_path: Path, length: int) -> None:
    some = [
        Row("extent", 0, 1, 2, FILE, offset=i, content=Content(bytes([i]) * length, length))
        for i in range(5)
    ]
    assert read_back(tmp_path, some)["content"].to_pylist() == [
        bytes([i]) * length for i in range(5)
    ]


def test_a_content_that_is_not_as_long_as_it_says_is_refused() -> None:
    for content in (Content(b"abc", 4), Content(None, 3)):
        with pytest.raises(ValueError, match="no data of that length"):
            encode(Version(1), 0, [Row("extent", 0, 1, 2, FILE, offset=0, content=content)])


def test_the_commit_row_says_who_why_and_how_much() -> None:
    cut = make_cut(7, [], message="weekly ✓")
    row = commit_row(cut)
    assert (row.op, row.part, row.node, row.attr, row.name) == ("commit", ROOT, ROOT, None, None)
    assert row.time_ns == cut.time_ns
    facts = json.loads(row.metadata or "")
    assert (facts["message"], facts["user"], facts["host"]) == ("weekly ✓", "ada", "lab")


def test_content_may_be_a_memoryview(tmp_path: Path) -> None:
    for size in (3, 5000):
        data = memoryview(bytes(range(256)) * 40)[1 : 1 + size]
        row = Row("extent", 0, 1, 2, FILE, offset=0, content=Content(data, size))
        assert read_back(tmp_path, [row])["content"].to_pylist() == [bytes(data)]
