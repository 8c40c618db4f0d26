"""Our Parquet, read by those who did not write it."""

import os
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pondfs.node import format_node_id
from pondfs.oplog import Row
from pondfs.store import datafile
from pondfs.store.schema import SCHEMA
from pondfs.store.sums import BLOCK_BYTES
from tests.unit.store.support import as_file, extent_row, file_row, size_row

NODES = range(10, 210)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of several row groups."""
    monkeypatch.setattr(datafile, "ROW_GROUP_ROWS", 70)
    rows: list[Row] = []
    for node in NODES:
        data = os.urandom(node * 13) if node % 2 else None
        new = file_row(node, data, b"n%d" % node, part=node // 50 + 1)
        rows.append(new if node % 3 else size_row(node, node))
    return as_file(tmp_path, 7, rows).path


def test_the_footer_is_what_pyarrow_expects(path: str) -> None:
    with pq.ParquetFile(path) as parquet:
        metadata = parquet.metadata
        assert parquet.schema_arrow.equals(SCHEMA)
    assert (metadata.num_rows, metadata.num_row_groups, metadata.num_columns) == (200, 3, 24)
    assert metadata.created_by.startswith("pondfs version ")
    end = 4
    for number in range(3):
        group = metadata.row_group(number)
        for index in range(24):
            chunk = group.column(index)
            assert chunk.data_page_offset == end, "one column follows the other"
            assert chunk.num_values == group.num_rows
            assert chunk.total_compressed_size == chunk.total_uncompressed_size
            assert chunk.path_in_schema == SCHEMA.names[index]
            end += chunk.total_compressed_size
        assert group.total_byte_size > 0
    size = os.stat(path).st_size
    sums = 4 * -(-end // BLOCK_BYTES) + 16  # ours, which the footer does not know
    assert end + sums + metadata.serialized_size + 8 == size


def test_statistics_are_believed(path: str) -> None:
    with pq.ParquetFile(path) as parquet:
        group = parquet.metadata.row_group(0)
    of = {group.column(i).path_in_schema: group.column(i).statistics for i in range(24)}
    assert (of["version"].min, of["version"].max) == (7, 7)
    assert (of["node_id"].min, of["node_id"].max) == (format_node_id(10), format_node_id(79))
    assert of["node_id"].null_count == 0
    assert of["uid"] is None
    fragment = next(ds.dataset(path).get_fragments())
    wanted = pc.field("node_id") == format_node_id(100)
    assert fragment.subset(wanted).row_groups[0].id == 1
    assert len(fragment.subset(wanted).row_groups) == 1


def test_other_engines_agree_with_pyarrow(path: str) -> None:
    table = pq.read_table(path)
    frame = pl.read_parquet(path)
    assert frame.to_arrow().cast(SCHEMA).to_pylist() == table.to_pylist()
    one = format_node_id(101)
    found = pl.scan_parquet(path).filter(pl.col("node_id") == one).select("content").collect()
    assert found["content"].to_list() == [
        r["content"] for r in table.to_pylist() if r["node_id"] == one
    ]
    with duckdb.connect() as connection:
        names = ", ".join(f'"{name}"' for name in SCHEMA.names if name != "timestamp")
        rows = connection.execute(f"select {names} from read_parquet(?)", [path]).fetchall()
        assert rows == [tuple(r.values()) for r in table.drop(["timestamp"]).to_pylist()]
        (count,) = connection.execute(
            "select count(*) from read_parquet(?) where node_id = ?", [path, one]
        ).fetchone() or (None,)
        assert count == 1


def test_a_damaged_page_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    file = as_file(tmp_path, 1, [extent_row(5, 0, b"precious" * 1000)])
    data = Path(file.path).read_bytes()
    at = data.index(b"precious" * 10) + 44
    Path(file.path).write_bytes(data[:at] + b"X" + data[at + 1 :])
    with (
        pq.ParquetFile(file.path, page_checksum_verification=True) as parquet,
        pytest.raises(OSError, match="checksum"),
    ):
        parquet.read()
