import gc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pondfs.store.layout import FileBytes, find_groups
from pondfs.store.scan import read_rows
from tests.unit.store.support import as_file, extent_row, file_row

TABLE = pa.table({"content": [b"abc", b"de"], "other": [1, 2]})


def groups_of(path: Path) -> list[tuple[int, int, int, int]]:
    with pq.ParquetFile(path) as parquet:
        return [tuple(group) for group in find_groups(parquet)]  # type: ignore[misc]  # four ints


def test_our_own_files_can_be_read_by_position(tmp_path: Path) -> None:
    rows = [extent_row(5, i << 20, bytes(1 << 20)) for i in range(20)]
    found = groups_of(Path(as_file(tmp_path, 1, rows).path))
    assert [(first, count) for first, count, _, _ in found] == [(0, 8), (8, 8), (16, 4)]
    assert all(0 < start < stop for _, _, start, stop in found)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "NONE", "use_dictionary": True},
        # Optional column: its pages start with definition levels.
        {"compression": "NONE", "use_dictionary": False},
    ],
)
def test_foreign_layouts_must_be_decoded(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(TABLE, path, **options)
    assert groups_of(path) == [(0, 2, -1, -1)]


def test_a_file_without_contents_is_no_data_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(TABLE.select(["other"]), path)
    with pytest.raises(KeyError, match="no column content"):
        groups_of(path)


def test_metadata_rows_share_a_row_group(tmp_path: Path) -> None:
    rows = [file_row(i + 2, None, b"n%d" % i) for i in range(1000)]
    assert len(groups_of(Path(as_file(tmp_path, 1, rows).path))) == 1


def test_file_bytes_are_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data := bytes(range(256)) * 20)
    with path.open("rb") as file:
        seen = FileBytes(file.fileno(), 5000)
        assert bytes(seen[i] for i in range(5000)) == data[:5000]
        assert seen[0] == 0
        with pytest.raises(IndexError):
            seen[5000]


def test_what_was_read_of_a_file_goes_without_the_collector(tmp_path: Path) -> None:
    """The metadata, 80 KB of it, and its schema held each other: a daemon grew with every file."""
    file = as_file(tmp_path, 1, [file_row(2, b"x", b"name")])
    gc.collect()
    gc.disable()
    try:
        read_rows([file])
        left = [type(thing).__name__ for thing in gc.get_objects()]
    finally:
        gc.enable()
    assert not {"FileMetaData", "ParquetSchema"} & set(left)
