import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pondfs.errors import StoreDamaged
from pondfs.node import Version
from pondfs.store import scan
from pondfs.store.scan import FOLD_COLUMNS, in_order, read_rows
from tests.unit.store.support import as_file, extent_row, file_row, size_row


@pytest.mark.parametrize("small_file_bytes", [0, 1 << 20])
def test_rows_know_where_they_and_their_contents_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_file_bytes: int
) -> None:
    monkeypatch.setattr(scan, "SMALL_FILE_BYTES", small_file_bytes)
    some = [as_file(tmp_path, 1, [file_row(2, b"abc", b"n"), size_row(2, 9)]),
            as_file(tmp_path, 2, [size_row(2, 9)]),
            as_file(tmp_path, 3, [extent_row(2, 0, b"defg"), extent_row(2, 4, b"hi")])]  # fmt: skip
    found = read_rows(some)
    assert found.table.column_names == list(FOLD_COLUMNS)
    assert found.file.tolist() == [0, 0, 1, 2, 2]
    assert found.row.tolist() == [0, 1, 0, 0, 1]
    assert found.table["version"].to_pylist() == [1, 1, 2, 3, 3]
    data = []
    for file, position, length in zip(
        found.file.tolist(), found.position.tolist(), found.table["length"].to_pylist(), strict=True
    ):
        if length is not None:
            with open(some[file].path, "rb") as raw:
                data.append(os.pread(raw.fileno(), length, position))
    assert data == [b"abc", b"defg", b"hi"]


def test_a_rewrite_with_other_types_reads_the_same(tmp_path: Path) -> None:
    file = as_file(tmp_path, 1, [file_row(2, b"abc", b"n"), size_row(2, 9)])
    before = read_rows([file])
    table = pq.read_table(file.path)
    large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    fields = [pa.field(f.name, large.get(f.type, f.type)) for f in table.schema][::-1]
    pq.write_table(table.select(table.column_names[::-1]).cast(pa.schema(fields)), file.path)
    after = read_rows([file])
    assert after.table.equals(before.table)
    assert after.position.tolist() == [-1, -1]


def test_no_files_no_rows() -> None:
    assert read_rows([]).table.num_rows == 0


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = as_file(tmp_path, 1, [file_row(2, b"abc", b"n")])
    pq.write_table(pa.table({"content": [b"x"]}), file.path)
    with pytest.raises(StoreDamaged, match=file.name):
        read_rows([file])
    with open(file.path, "wb") as raw:
        raw.write(b"PAR1 no")
    with pytest.raises(StoreDamaged, match=file.name):
        read_rows([file])
    os.unlink(file.path)
    with pytest.raises(StoreDamaged, match="is gone"):
        read_rows([file])


def test_rows_of_many_small_files_are_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later step costs time for each piece of a column; a large one is not copied."""
    monkeypatch.setattr(scan, "_CHUNK_ROWS", 4)
    sizes = [1, 1, 6, 1, 2, 1, 1, 1]
    files = [as_file(tmp_path, at, [size_row(2, at)] * count) for at, count in enumerate(sizes, 1)]
    found = read_rows(files)
    assert [len(chunk) for chunk in found.table["version"].chunks] == [2, 6, 4, 2]
    assert found.table["version"].to_pylist() == [
        at for at, count in enumerate(sizes, 1) for _ in range(count)
    ]


def test_files_are_read_in_the_order_of_versions(tmp_path: Path) -> None:
    files = [as_file(tmp_path, version, [size_row(2, 9)]) for version in (3, 1, 2)]
    assert in_order(files, None) == [files[1], files[2], files[0]]
    assert in_order(files, Version(2)) == [files[1], files[2]]
