"""The tree as tables, against a walk of the same tree: random ones, every version of them."""

import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.node import FILE_TYPES, NodeId, format_node_id
from pondfs.query.session import Session
from pondfs.store.delta import DeltaStore
from pondfs.store.preview import PendingRows, read_pending, to_stream
from pondfs.store.tree import NodeStat, StoredTree
from pondfs.xattrs import decode_xattrs
from tests.unit.store.histories import ME, Walk

EXTENTS = 'SELECT node_id, "offset", length FROM extents ORDER BY node_id, "offset"'


@pytest.fixture(params=range(6))
def walk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(tmp_path / "pond", request.param)
    trio.run(walk.run, 150, 0.1)
    yield walk
    walk.close()


def rows(session: Session, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.sql(sql).table().to_pylist()
    return found


def visit(tree: StoredTree) -> dict[bytes, NodeStat]:
    """Everything in a tree by its path, as someone finds it who goes through it."""
    found = {b"": tree.lstat(b"")}
    todo = [b""]
    for directory in todo:
        for name, info in tree.entries(directory):
            path = os.path.join(directory, name)
            found[path] = info
            if stat.S_ISDIR(info.mode):
                todo.append(path)
    return found


def raw_path(row: dict[str, Any]) -> bytes:
    raw = row["path_bytes"] if row["path_bytes"] is not None else row["path"].encode()
    assert isinstance(raw, bytes)
    return raw.lstrip(b"/")


def check_nodes(found: list[dict[str, Any]], tree: StoredTree) -> None:
    expected = visit(tree)
    by_node: dict[int, list[bytes]] = {}
    for path, info in expected.items():
        by_node.setdefault(info.ino, []).append(path)
    assert sorted(row["node_id"] for row in found) == sorted(map(format_node_id, by_node))
    for row in found:
        path = raw_path(row)
        info = expected[path]
        assert path == min(by_node[info.ino])
        assert row["path"] == "/" + path.decode("utf-8", "replace")
        assert (row["path_bytes"] is None) == (path.decode("utf-8", "replace").encode() == path)
        assert row["node_id"] == format_node_id(info.ino)
        above = expected[os.path.dirname(path)]
        assert row["part_id"] == format_node_id(above.ino)
        name = os.path.basename(path).decode("utf-8", "replace")
        assert row["name"] == (name if path else None)
        assert row["file_type"] == FILE_TYPES[stat.S_IFMT(info.mode)]
        assert (
            row["mode"], row["uid"], row["gid"], row["nlink"], row["rdev"], row["size"],
            row["allocated"],
        ) == (
            info.mode, info.uid, info.gid, info.nlink, info.rdev, info.size_bytes,
            info.allocated_bytes,
        )  # fmt: skip
        times = (row["atime"].value, row["mtime"].value, row["ctime"].value)
        assert times == (info.atime_ns, info.mtime_ns, info.ctime_ns)
        target = tree.readlink(path) if stat.S_ISLNK(info.mode) else None
        assert row["target"] == (None if target is None else target.decode("utf-8", "replace"))
        xattrs = json.loads(row["metadata"] or "{}").get("xattrs", {})
        assert {k.encode(): base64.b64decode(v) for k, v in xattrs.items()} == tree.xattrs(path)


def check_entries(found: list[dict[str, Any]], tree: StoredTree) -> None:
    expected = visit(tree)
    del expected[b""]
    assert sorted(map(raw_path, found)) == sorted(expected)
    for row in found:
        path = raw_path(row)
        info = expected[path]
        name = os.path.basename(path)
        assert row["name"] == name.decode("utf-8", "replace")
        assert row["name_bytes"] == (name if row["name"].encode() != name else None)
        assert row["node_id"] == format_node_id(info.ino)
        assert row["part_id"] == format_node_id(tree.lstat(os.path.dirname(path)).ino)
        assert row["file_type"] == FILE_TYPES[stat.S_IFMT(info.mode)]


def open_tree(store: DeltaStore, version: Any) -> StoredTree:
    return StoredTree(store, store.load_image_at(version), decode_xattrs)


def test_every_version_is_what_a_walk_finds(walk: Walk) -> None:
    with Session(walk.path) as session:
        for info in walk.store.list_versions():
            tree = open_tree(walk.store, info.version)
            check_nodes(rows(session, f"SELECT * FROM nodes_at('{info.version}')"), tree)
            check_entries(
                rows(session, f"SELECT * FROM directory_entries_at('{info.version}')"), tree
            )
        check_nodes(rows(session, "SELECT * FROM nodes"), open_tree(walk.store, None))


def test_a_session_at_a_version_shows_that_and_no_later_row(walk: Walk) -> None:
    version = walk.store.list_versions()[0].version // 2
    with Session(walk.path, at=f"v{version}") as session:
        tree = open_tree(walk.store, version)
        check_nodes(rows(session, "SELECT * FROM nodes"), tree)
        check_entries(rows(session, "SELECT * FROM directory_entries"), tree)
        for table in ("oplog", "versions"):
            assert rows(session, f"SELECT max(version) AS v FROM {table}") == [{"v": version}]


def pending_of(walk: Walk) -> PendingRows | None:
    preview = walk.vfs.preview(contents=True)
    if preview is None:
        return None
    staged = [file.name for file in preview.staged]
    return read_pending(walk.path, staged, b"".join(to_stream(preview)))


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_what_is_pending_is_seen_as_it_will_be_committed(walk: Walk, steps: int) -> None:
    async def change() -> None:
        for _ in range(steps):
            await walk.step()

    walk.do(change)
    sql = "SELECT * FROM {} ORDER BY node_id, path"
    tables = ("nodes", "directory_entries")
    with Session(walk.path, pending=pending_of(walk)) as session:
        before = [rows(session, sql.format(table)) for table in tables]
        extents = rows(session, EXTENTS)
    walk.do(walk.vfs.committer.commit)
    check_nodes(before[0], open_tree(walk.store, None))
    with Session(walk.path) as session:
        assert before == [rows(session, sql.format(table)) for table in tables]
        found = rows(session, EXTENTS)
        assert extents == found


def test_pending_rows_that_were_committed_meanwhile_count_once(walk: Walk) -> None:
    walk.do(walk.vfs.make, NodeId(1), b"fresh", stat.S_IFREG | 0o644, 0, ME)
    pending = pending_of(walk)
    assert pending is not None
    walk.do(walk.vfs.committer.commit)
    with Session(walk.path, pending=pending) as session:
        sql = "SELECT count(*) AS n FROM oplog_entries WHERE name = 'fresh'"
        assert rows(session, sql) == [{"n": 1}]
        assert rows(session, "SELECT pending FROM oplog WHERE pending") == []


def test_extents_say_where_the_bytes_lie(walk: Walk) -> None:
    image = walk.store.load_image()
    with Session(walk.path) as session:
        found = rows(session, 'SELECT * FROM extents ORDER BY node_id, "offset"')
        paths = {
            row["node_id"]: row["path"] for row in rows(session, "SELECT node_id, path FROM nodes")
        }
    expected = [
        (format_node_id(node), extent)
        for node in sorted(image.node_ids(), key=format_node_id)
        for extent in image.load_extents(NodeId(node))
        if stat.S_ISREG(image.find_node(NodeId(node)).attr[0])  # type: ignore[union-attr]
    ]
    assert [(row["node_id"], row["offset"], row["length"]) for row in found] == [
        (node, extent.offset, extent.length) for node, extent in expected
    ]
    for row, (node, extent) in zip(found, expected, strict=True):
        assert row["path"] == paths[node]
        data = bytearray(extent.length)
        walk.store.read(extent.content, extent.skip, memoryview(data))
        with open(walk.path / row["data_file"], "rb") as file:
            assert os.pread(file.fileno(), row["length"], row["position"]) == bytes(data)
        assert (row["row"], row["skip"]) == (extent.content.row, extent.skip)


def test_any_columns_in_any_order_with_any_filter_are_those_of_the_whole(walk: Walk) -> None:
    with Session(walk.path) as session:
        whole = rows(session, "SELECT * FROM nodes")
        for name in whole[0]:
            found = rows(session, f"SELECT {name} FROM nodes WHERE {name} IS NOT NULL")
            expected = [row[name] for row in whole if row[name] is not None]
            assert sorted(row[name] for row in found) == sorted(expected)
        size = 700
        found = rows(
            session, f"SELECT size, path FROM nodes WHERE size > {size} AND file_type = 'file'"
        )
        assert sorted((row["path"], row["size"]) for row in found) == sorted(
            (row["path"], row["size"])
            for row in whole
            if row["size"] > size and row["file_type"] == "file"
        )
        assert rows(session, "SELECT count(*) AS n FROM nodes") == [{"n": len(whole)}]


def test_a_deep_chain_of_directories(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "pond", 0)

    async def dig() -> None:
        top = NodeId(1)
        for _ in range(3000):
            top = walk.vfs.make(top, b"d", stat.S_IFDIR | 0o755, 0, ME).id
        await walk.vfs.committer.commit()

    try:
        walk.do(dig)
    finally:
        walk.close()
    with Session(tmp_path / "pond") as session:
        (longest,) = rows(session, "SELECT max(length(path)) AS n FROM nodes")
    assert longest == {"n": 6000}
