"""Rows and ponds for the store's tests."""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from deltalake import DeltaTable

from pondfs.extent import Content
from pondfs.interfaces import Image
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import AttrRow, Cut, Row, Settled, Summary
from pondfs.store import faults
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.datafile import write_data_file, write_groups
from pondfs.store.delta import DeltaStore
from pondfs.store.packing import pack_contents
from pondfs.store.rows import Encoded, commit_row, encode

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
SYMLINK = stat.S_IFLNK | 0o777


def attr(mode: int = FILE, size: int = 0, nlink: int = 1) -> AttrRow:
    return mode, 1000, 100, nlink, 0, size, 10**18 + 1, 10**18 + 2, 10**18 + 3


def file_row(node: int, data: bytes | None, name: bytes | None = None, *, part: int = ROOT) -> Row:
    """A new file: entry, attributes and content on one row."""
    return Row(
        "create", time.time_ns(), part, node, FILE, name,
        attr=attr(size=len(data or b"")),
        offset=None if data is None else 0,
        content=None if data is None else Content(data, len(data)),
    )  # fmt: skip


def extent_row(node: int, offset: int, data: bytes, *, part: int = ROOT) -> Row:
    return Row(
        "extent", 5, part, node, FILE, offset=offset, content=Content(data, len(data), offset)
    )


def size_row(node: int, size: int, valid_below: int | None = None, *, part: int = ROOT) -> Row:
    return Row("update", 5, part, node, FILE, attr=attr(size=size), valid_below=valid_below)


def root_row() -> Row:
    return Row("create", 1, ROOT, ROOT, DIRECTORY, attr=attr(DIRECTORY, nlink=2))


def directory_rows(node: int, name: bytes, *, part: int = ROOT) -> list[Row]:
    return [
        Row("create", 5, part, node, DIRECTORY, name),
        Row("create", 5, node, node, DIRECTORY, attr=attr(DIRECTORY, nlink=2)),
    ]


def make_cut(
    version: int,
    rows: Iterable[Row],
    *,
    message: str = "",
    first_seq: int = 0,
    staged: Iterable[DataFile] = (),
) -> Cut:
    rows = list(rows)
    summary = Summary(message=message, user="ada", host="lab", operations=len(rows))
    return Cut(Version(version), time.time_ns(), rows, summary, first_seq, list(staged))


def adopt(settled: Settled) -> None:
    """Do what the committer does after a commit."""
    for content, row, position in zip(
        settled.contents, settled.row_numbers, settled.positions, strict=True
    ):
        content.settle(settled.file, row, position)


def new_pond(path: Path) -> DeltaStore:
    DeltaStore.create(path)
    return open_pond(path)


def open_pond(path: Path) -> DeltaStore:
    return DeltaStore.open_writer(path, mountpoint="/mnt/test", socket="/run/test.sock")


def read_bytes(
    store: DeltaStore | ContentReader, content: Content, skip: int, length: int
) -> bytes:
    data = bytearray(length)
    store.read(content, skip, memoryview(data))
    return bytes(data)


def read_nowait(
    store: DeltaStore | ContentReader, content: Content, skip: int, length: int
) -> bytes | None:
    data = bytearray(length)
    return bytes(data) if store.read_nowait(content, skip, memoryview(data)) else None


def read_file(store: DeltaStore, image: Image, node: int) -> bytes:
    """The file's bytes as the image has them, holes as zeros."""
    found = image.find_node(NodeId(node))
    assert found is not None
    data = bytearray(found.attr[5])
    end = 0
    for extent in image.load_extents(NodeId(node)):
        assert extent.length > 0
        assert extent.offset >= end
        end = extent.offset + extent.length
        data[extent.offset : end] = read_bytes(store, extent.content, extent.skip, extent.length)
    assert end <= len(data)
    return bytes(data)


def write_version(directory: Path, version: int, rows: list[Row]) -> DataFile:
    """One version's data file, without a table around it."""
    cut = make_cut(version, rows)
    return as_file(directory, version, [*rows, commit_row(cut)])


def as_file(directory: Path, version: int, rows: list[Row], first_seq: int = 0) -> DataFile:
    written = write_data_file(os.fspath(directory), Version(version), first_seq, rows)
    return DataFile(os.fspath(directory), written.name, written.size, written.stats, 0)


def as_packed_file(
    directory: Path, version: int, rows: list[Row], group_rows: int = 1 << 16
) -> DataFile:
    """A data file as a compaction writes it, in the order that *rows* have."""
    groups = []
    for start in range(0, len(rows), group_rows):
        some = rows[start : start + group_rows]
        pages, places = encode(Version(version), start, some)
        lengths = np.array([0 if r.content is None else r.content.length for r in some])
        pages[-1] = pack_contents(pages[-1], lengths)
        groups.append((len(some), Encoded(pages, places)))
    name, size, _ = write_groups(os.fspath(directory), groups, rewritten=True)
    return DataFile(os.fspath(directory), name, size, "", 0)


def new_reader() -> ContentReader:
    return ContentReader(max_open=8)


def log_entry(path: Path, number: int) -> Path:
    return path / "_delta_log" / f"{number:020d}.json"


def committed(path: Path) -> set[str]:
    """Data files the table has, by delta-rs."""
    return {os.path.basename(uri) for uri in DeltaTable(path).file_uris()}


def names(store: DeltaStore) -> set[bytes]:
    return set(store.load_image().load_entries(ROOT))


def data_file_names(path: Path) -> set[str]:
    return {name for name in os.listdir(path) if name.endswith(".parquet")}


@contextmanager
def fault(point: str, *action: str) -> Iterator[None]:
    """Make a named point fail while inside."""
    faults._faults[point] = list(action)
    try:
        yield
    finally:
        faults._faults.pop(point, None)
