import errno
import json
import os
import resource
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pondfs.node import Version, format_node_id
from pondfs.oplog import Row
from pondfs.store import datafile
from pondfs.store.datafile import write_data_file
from pondfs.store.schema import SCHEMA, STATISTICS
from tests.unit.store.support import extent_row, fault, file_row, size_row


def check(directory: Path, rows: list[Row]) -> pq.FileMetaData:
    """Write *rows*; every content must lie where it is said to, and Parquet must agree."""
    written = write_data_file(os.fspath(directory), Version(3), 10, rows)
    path = directory / written.name
    assert written.size == path.stat().st_size
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        table = parquet.read()
        metadata = parquet.metadata
    assert table.schema.names == SCHEMA.names
    assert table["seq"].to_pylist() == list(range(10, 10 + len(rows)))
    expected = [b"" if r.content is None else bytes(r.content.data or b"") for r in rows]
    assert table["content"].to_pylist() == expected
    numbers = [i for i, row in enumerate(rows) if row.content is not None]
    assert written.row_numbers == numbers
    assert written.contents == [rows[i].content for i in numbers]
    with path.open("rb") as file:
        for number, position in zip(numbers, written.positions, strict=True):
            found = os.pread(file.fileno(), len(expected[number]), position)
            assert found == expected[number]
    path.unlink()
    return metadata


content = st.one_of(st.none(), st.binary(min_size=1, max_size=5000))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(content, min_size=1, max_size=30))
def test_small_files(tmp_path: Path, contents: list[bytes | None]) -> None:
    check(tmp_path, [file_row(i + 2, data, b"n%d" % i) for i, data in enumerate(contents)])


def test_one_row(tmp_path: Path) -> None:
    check(tmp_path, [file_row(2, b"x" * 4096, b"n")])


def test_rows_of_many_sizes_streamed_to_the_file(tmp_path: Path) -> None:
    rows = [extent_row(2, i, os.urandom(1 + i * 977 % 70_000)) for i in range(700)]
    metadata = check(tmp_path, rows)
    assert metadata.num_row_groups > 1


def test_a_row_larger_than_a_row_group(tmp_path: Path) -> None:
    big = os.urandom(datafile.ROW_GROUP_CONTENT_BYTES + 5)
    metadata = check(tmp_path, [file_row(2, b"a"), file_row(3, big), file_row(4, b"b")])
    assert metadata.num_row_groups == 3


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    metadata = check(tmp_path, [size_row(i + 2, 0) for i in range(100_000)])
    assert metadata.num_row_groups == 2


def test_a_write_cut_short_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def short(fd: int, parts: list[bytes]) -> int:
        return real(fd, [b"".join(parts)[:1000]])

    monkeypatch.setattr(os, "writev", short)
    check(tmp_path, [extent_row(2, i, os.urandom(3000)) for i in range(2000)])


def test_only_what_files_are_skipped_by_has_statistics(tmp_path: Path) -> None:
    group = check(tmp_path, [file_row(2, b"x", b"n")]).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if c.is_stats_set} == set(STATISTICS)


def test_delta_statistics(tmp_path: Path) -> None:
    rows = [
        file_row(500, b"x", b"n", part=7)._replace(time_ns=1_750_420_800_123_456_789),
        file_row(2, None, b"m", part=9)._replace(time_ns=1_750_420_801_000_000_999),
    ]
    stats = json.loads(write_data_file(os.fspath(tmp_path), Version(3), 0, rows).stats)
    assert stats == {
        "numRecords": 2,
        "minValues": {
            "version": 3,
            "timestamp": "2025-06-20T12:00:00.123Z",
            "part_id": format_node_id(7),
            "node_id": format_node_id(2),
        },
        "maxValues": {
            "version": 3,
            "timestamp": "2025-06-20T12:00:01.000Z",
            "part_id": format_node_id(9),
            "node_id": format_node_id(500),
        },
        "nullCount": {"version": 0, "timestamp": 0, "part_id": 0, "node_id": 0},
    }


def test_delta_statistics_shut_out_no_microsecond(tmp_path: Path) -> None:
    rows = [file_row(2, b"x", b"n")._replace(time_ns=1_750_420_800_123_001_000)]
    stats = json.loads(write_data_file(os.fspath(tmp_path), Version(3), 0, rows).stats)
    assert stats["minValues"]["timestamp"] == "2025-06-20T12:00:00.123Z"
    assert stats["maxValues"]["timestamp"] == "2025-06-20T12:00:00.124Z"


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_a_failing_fsync_leaves_no_file(tmp_path: Path, size: int) -> None:
    rows = [file_row(2, bytes(size), b"n")]
    with fault("data-file:fsync", "EIO"), pytest.raises(OSError, match="Input/output") as caught:
        write_data_file(os.fspath(tmp_path), Version(1), 0, rows)
    assert caught.value.errno == errno.EIO
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [100_000, 3 << 20])
def test_a_write_that_does_not_fit_tells_its_errno_and_leaves_no_file(
    tmp_path: Path, size: int
) -> None:
    rows = [file_row(2, bytes(size), b"n")]
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            write_data_file(os.fspath(tmp_path), Version(1), 0, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []
