"""Rebuild the tree from the Delta table without pondfs, and look at the mounted tree.

What a stranger with a query engine can do: the folds below know the table's columns and nothing
else of this project. They stay apart from each other too (one in SQL, one in dataframes), so that
one of them being wrong does not go unseen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

ROOT = f"{1:016x}"
FILE_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
}
# Files up to here are compared byte by byte; of larger ones the windows around every end of an
# extent, and those at the start, the end and the middle of the file.
WHOLE_BYTES = 64 << 20
WINDOW_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """What both sides say of one node; ``file_type`` is the table's word for it."""

    file_type: str
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    mtime_ns: int


NODE_COLUMNS = ("file_type", "node_id", "mode", "uid", "gid", "nlink", "rdev", "size", "mtime_ns")

Extent = tuple[int, bytes]
"""(offset, content): later ones in a list lie over earlier ones."""


@dataclass
class Tree:
    """A tree by path (``b""`` is the root); ``extents`` by inode number, oldest first."""

    nodes: dict[bytes, Node] = field(default_factory=dict)
    extents: dict[int, list[Extent]] = field(default_factory=dict)


SQL = """
CREATE TEMP TABLE oplog AS
    SELECT * REPLACE (coalesce("offset", 0) AS "offset"),
           coalesce(name_bytes, encode(name)) AS entry
    FROM read_parquet(getvariable('files'));

CREATE TEMP VIEW nodes AS          -- the last row that carries a node's attributes
    SELECT * FROM oplog WHERE mode IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY node_id ORDER BY version DESC, seq DESC) = 1;

CREATE TEMP VIEW entries AS        -- the last word on each name, unless it is a tombstone
    SELECT * FROM (
        SELECT part_id, entry, node_id, removed FROM oplog WHERE entry IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY part_id, entry ORDER BY version DESC, seq DESC) = 1
    ) WHERE NOT removed;

CREATE TEMP VIEW extents AS        -- each content, up to where later rows cut it
    SELECT node_id, version, seq, "offset",
           content[: greatest(0, least(length, coalesce(cut - "offset", length)))] AS content
    FROM (SELECT *, min(valid_below) FILTER (mode IS NOT NULL) OVER (
              PARTITION BY node_id ORDER BY version, seq
              ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS cut
          FROM oplog)
    WHERE length IS NOT NULL;

CREATE TEMP VIEW tree AS
    WITH RECURSIVE found(path, node) AS (
        SELECT ''::BLOB, '0000000000000001'
        UNION ALL
        SELECT CASE path WHEN ''::BLOB THEN entry ELSE path || '/'::BLOB || entry END, node_id
        FROM found JOIN entries ON part_id = node)
    SELECT * FROM found LEFT JOIN nodes ON node_id = node;
"""


def fold_by_sql(files: Sequence[Path]) -> Tree:
    """Fold the data files with DuckDB, which reads the Parquet itself."""
    with duckdb.connect() as database:
        database.execute("SET VARIABLE files = ?", [[str(path) for path in files]])
        database.execute(SQL)
        nodes = database.execute(f"SELECT path, {', '.join(NODE_COLUMNS)} FROM tree").fetchall()
        extents = database.execute(
            'SELECT node_id, "offset", content FROM extents ORDER BY version, seq'
        ).fetchall()
    return _tree(((path, columns) for path, *columns in nodes), extents)


def fold_by_dataframe(oplog: pl.DataFrame) -> Tree:
    """Fold the table's rows with Polars."""
    never = 2**63 - 1
    rows = oplog.sort("version", "seq").with_columns(
        pl.col("offset").fill_null(0),
        entry=pl.coalesce("name_bytes", pl.col("name").cast(pl.Binary)),
    )
    nodes = rows.filter(pl.col("mode").is_not_null()).group_by("node_id").last()
    entries = rows.filter(pl.col("entry").is_not_null()).group_by("part_id", "entry").last()
    extents = (
        rows.reverse()  # so that "the least of all later rows" is a running minimum
        .with_columns(cut=pl.when(pl.col("mode").is_not_null()).then("valid_below"))
        .with_columns(pl.col("cut").fill_null(never).cum_min().over("node_id"))
        .with_columns(pl.col("cut").shift(1).fill_null(never).over("node_id"))
        .reverse()
        .filter(pl.col("length").is_not_null())
        .with_columns(kept=pl.min_horizontal("length", pl.col("cut") - pl.col("offset")).clip(0))
        .with_columns(pl.col("content").bin.slice(0, pl.col("kept")))
    )
    by_id = {row[1]: row for row in nodes.select(NODE_COLUMNS).iter_rows()}
    children: dict[str, list[tuple[bytes, str]]] = {}
    live = entries.filter(~pl.col("removed"))
    for directory, name, node_id in live.select("part_id", "entry", "node_id").iter_rows():
        children.setdefault(directory, []).append((name, node_id))
    found = ((path, by_id[node_id]) for path, node_id in _descend(children, b"", ROOT))
    return _tree(found, extents.select("node_id", "offset", "content").iter_rows())


def _descend(
    children: dict[str, list[tuple[bytes, str]]], path: bytes, node_id: str
) -> Iterator[tuple[bytes, str]]:
    yield path, node_id
    for name, child in children.get(node_id, []):
        yield from _descend(children, path + b"/" + name if path else name, child)


def _tree(nodes: Iterable[tuple[bytes, Sequence[Any]]], extents: Iterable[Sequence[Any]]) -> Tree:
    tree = Tree()
    for path, (file_type, node_id, mode, *rest) in nodes:
        assert path not in tree.nodes, f"{path!r} is there twice"
        assert node_id is not None, f"{path!r} has no row with attributes"
        # The table may keep the type in the mode, as the kernel does, or in file_type alone.
        tree.nodes[path] = Node(file_type, int(node_id, 16), stat.S_IMODE(mode), *rest)
    for node_id, offset, content in extents:
        tree.extents.setdefault(int(node_id, 16), []).append((offset, content))
    return tree


def bytes_at(extents: Iterable[Extent], offset: int, length: int) -> bytes:
    """Return a window of a file made of *extents*; what none covers is a hole and reads as 0."""
    window = bytearray(length)
    for start, content in extents:
        first, last = max(start, offset), min(start + len(content), offset + length)
        if first < last:
            window[first - offset : last - offset] = content[first - start : last - start]
    return bytes(window)


def walk(mnt: Path) -> dict[bytes, Node]:
    """Return every node of the mounted tree by its path below *mnt*."""
    found: dict[bytes, Node] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        status = os.lstat(os.path.join(os.fsencode(mnt), path))
        found[path] = Node(
            FILE_TYPES[stat.S_IFMT(status.st_mode)],
            status.st_ino,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_rdev,
            status.st_size,
            status.st_mtime_ns,
        )
        if stat.S_ISDIR(status.st_mode):
            names = os.listdir(os.path.join(os.fsencode(mnt), path))
            todo.extend(path + b"/" + name if path else name for name in names)
    return found


def assert_same(folded: Tree, mnt: Path) -> None:
    """Fail unless *folded* and the tree mounted at *mnt* agree in every name, number and byte.

    Directory sizes are left out: POSIX leaves them to the implementation.
    """
    seen = walk(mnt)
    assert sorted(folded.nodes) == sorted(seen)
    for path, node in seen.items():
        left_out = {"size"} if node.file_type == "directory" else set()
        assert _fields(folded.nodes[path], left_out) == _fields(node, left_out), path
    _assert_same_contents(folded, mnt, seen)


def assert_equivalent(folded: Tree, twin: Path) -> None:
    """Fail unless *folded* is what the same program made of an ordinary directory.

    Inode numbers and times differ there, of course; all else must not.
    """
    seen = walk(twin)
    assert sorted(folded.nodes) == sorted(seen)
    for path, node in seen.items():
        left_out = {"ino", "mtime_ns"} | ({"size"} if node.file_type == "directory" else set())
        assert _fields(folded.nodes[path], left_out) == _fields(node, left_out), path
    _assert_same_contents(folded, twin, seen)


def _fields(node: Node, left_out: set[str]) -> dict[str, object]:
    return {name: getattr(node, name) for name in Node.__slots__ if name not in left_out}


def _assert_same_contents(folded: Tree, root: Path, seen: dict[bytes, Node]) -> None:
    for path, node in seen.items():
        extents = folded.extents.get(folded.nodes[path].ino, [])
        full = os.path.join(os.fsencode(root), path)
        if node.file_type == "symlink":
            assert extents[-1][1] == os.readlink(full), path
        elif node.file_type == "file":
            _assert_same_bytes(extents, full, node.size)


def _assert_same_bytes(extents: list[Extent], full: bytes, size: int) -> None:
    with open(full, "rb", buffering=0) as file:
        for offset in _windows(extents, size):
            length = min(WINDOW_BYTES, size - offset)
            same = bytes_at(extents, offset, length) == os.pread(file.fileno(), length, offset)
            assert same, f"{full!r} differs in the {length} bytes at {offset}"


def _windows(extents: list[Extent], size: int) -> list[int]:
    """Return the offsets of the windows to compare, sorted, multiples of the window's size."""
    if size <= WHOLE_BYTES:
        return list(range(0, size, WINDOW_BYTES))
    points = {0, size // 2, size - 1}
    for offset, content in extents:
        points |= {offset - 1, offset, offset + len(content) - 1, offset + len(content)}
    return sorted({point - point % WINDOW_BYTES for point in points if 0 <= point < size})
