import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pondfs.errors import StoreDamaged
from pondfs.node import ROOT
from pondfs.store import seal
from pondfs.store.scan import open_checked, read_rows
from tests.unit.store.support import (
    committed,
    file_row,
    make_cut,
    new_pond,
    open_pond,
    read_file,
    root_row,
    write_version,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = write_version(tmp_path, 1, [root_row(), file_row(2, b"content" * 9, b"name")])
    return Path(file.path)


def footer_start(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def find(data: bytes) -> seal.Seal | None:
    return seal.find_seal(lambda at, length: data[at : at + length], len(data), "it")


def test_it_is_where_every_parquet_file_names_a_build(path: Path) -> None:
    file = pq.ParquetFile(path)
    assert re.fullmatch(r"pondfs version \S+ \(build pond-[0-9a-f]{16}\)", file.metadata.created_by)
    assert file.read().num_rows == 3


def test_every_byte_but_those_of_contents_counts(tmp_path: Path) -> None:
    file = write_version(tmp_path, 1, [root_row(), file_row(2, b"content" * 9, b"name")])
    path = Path(file.path)
    right = path.read_bytes()
    rows = read_rows([file]).table
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = group.column(group.num_columns - 1)
    assert chunk.path_in_schema == "content"
    contents = range(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size)
    for at in range(4, len(right)):
        if at in contents:
            continue
        path.write_bytes(right[:at] + bytes([right[at] ^ 0x10]) + right[at + 1 :])
        try:
            assert read_rows([file]).table == rows
        except StoreDamaged:
            continue
        # Only the mark is another: what it was for is right.
        assert seal._MARK in right[at - len(seal._MARK) : at + len(seal._MARK)]


def test_a_footer_in_which_anything_differs(path: Path) -> None:
    data = path.read_bytes()
    start = footer_start(data)
    for at in range(start, len(data) - 8):
        mutated = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            found = find(mutated)
        except StoreDamaged:
            continue
        # The mark itself is another: then it is a file without a seal.
        assert found is None
        assert seal._MARK not in mutated[start:]


def test_a_file_without_a_seal_is_read(tmp_path: Path) -> None:
    file = write_version(tmp_path, 1, [root_row(), file_row(2, b"x", b"name")])
    rows = pq.read_table(file.path)
    pq.write_table(rows, file.path)
    path = Path(file.path)
    assert find(path.read_bytes()) is None
    with path.open("rb") as raw:
        assert open_checked(*seal.read_of(raw), file, file.path).metadata.num_rows == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"a (build pond-x)7", b"x"),
        (b"a (build pond-0123456789abcdef)", b"x"),
        (b"a", b" (build pond-12"),
    ],
)
def test_names_and_contents_that_look_like_a_seal(
    tmp_path: Path, name: bytes, content: bytes
) -> None:
    """Another program's rewrite has the smallest and the largest in its footer."""
    path = tmp_path / "pond"
    store = new_pond(path)
    store.commit(make_cut(2, [file_row(2, content, name)]))
    store.close()
    DeltaTable(path).optimize.compact()
    (rewritten,) = committed(path)
    data = (path / rewritten).read_bytes()
    assert seal._MARK in data[footer_start(data) :]
    # Twice: the second time from what is saved.
    for _ in range(2):
        store = open_pond(path)
        image = store.load_image()
        assert name in image.load_entries(ROOT)
        assert read_file(store, image, 2) == content
        store.close()


def test_another_name_of_the_program_does_not_make_it_another_programs(path: Path) -> None:
    data = path.read_bytes()
    at = data.rindex(b"pondfs version")
    with pytest.raises(StoreDamaged, match="its footer"):
        find(data[:at] + b"q" + data[at + 1 :])


def test_a_checkpoint_is_written_under_pyarrows_name_and_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "pond"
    store = new_pond(path)
    assert store.checkpoint(now=True)
    store.close()
    (checkpoint,) = (path / "_delta_log").glob("*.checkpoint.parquet")
    data = checkpoint.read_bytes()
    assert find(data) is not None
    at = data.rindex(seal._MARK) + len(seal._MARK)
    with pytest.raises(StoreDamaged, match="its footer"):
        find(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
