"""Breaking one thing in a small pond, and nothing else."""

import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from pondfs.node import ROOT, Version
from pondfs.oplog import Row
from pondfs.store import imagefile, records, rowcache
from pondfs.store.checkpoint import write_checkpoint
from pondfs.store.delta import DeltaStore
from pondfs.store.deltalog import LAST_CHECKPOINT, checkpoint_name, read_snapshot
from pondfs.store.files import data_files
from pondfs.store.journal import Journal, journal_path
from pondfs.store.records import map_records, write_record
from pondfs.store.scan import in_order, read_rows
from pondfs.store.schema import SCHEMA
from pondfs.store.tags import tag_entry
from tests.unit.store.support import (
    DIRECTORY,
    FILE,
    SYMLINK,
    attr,
    directory_rows,
    extent_row,
    file_row,
    log_entry,
    make_cut,
    open_pond,
)

D, F, A, S, X, Y = 10, 11, 12, 13, 20, 21
"""Nodes: the directory d, files d/f and a, the symlink s; two directories that a test may make."""


def make_pond(path: Path) -> Path:
    """Make the pond that is broken: four versions, a file each."""
    DeltaStore.create(path)
    store = open_pond(path)
    target = file_row(S, b"d/f", b"s")
    add(
        store,
        [
            *directory_rows(D, b"d"),
            file_row(F, b"eleven", b"f", part=D),
            file_row(A, b"twelve", b"a"),
            target._replace(mode=SYMLINK, attr=attr(SYMLINK, size=3)),
            update(ROOT, attr(DIRECTORY, nlink=3)),
        ],
    )
    add(store, [update(A, attr(FILE & ~0o044, size=6))])
    add(store, [extent_row(F, 2, b"EV", part=D), update(F, attr(size=6), part=D)])
    store.close()
    return path


def add(store: DeltaStore, rows: Sequence[Row]) -> None:
    store.commit(make_cut(store.version + 1, rows))


def update(node: int, attrs: Any, *, part: int = ROOT, mode: int | None = None) -> Row:
    is_dir = stat.S_ISDIR(attrs[0])
    part = node if is_dir else part
    return Row("update", 5, part, node, attrs[0] if mode is None else mode, attr=attrs)


def link(node: int, name: bytes, part: int = ROOT, mode: int = FILE, attrs: Any = None) -> Row:
    return Row("link", 5, part, node, mode, name, attr=attrs)


Break = Callable[[Path], None]


def rows(*some: Row) -> Break:
    """Return what commits these rows, as a bug in pondfs would have."""

    def do(path: Path) -> None:
        store = open_pond(path)
        add(store, some)
        store.close()

    return do


# --- the data files ---


def data_file(path: Path, version: int) -> Path:
    """Return the data file of a version."""
    (name,) = [
        file.name
        for file in data_files(os.fspath(path), read_snapshot(os.fspath(path / "_delta_log")))
        if file.min_version == version
    ]
    return path / name


def edit_entry(path: Path, number: int, change: Callable[[list[Any]], list[Any]]) -> None:
    entry = log_entry(path, number)
    actions = change([json.loads(line) for line in entry.read_text().splitlines()])
    actions[0]["commitInfo"].setdefault("pondfs", {})["lines"] = len(actions)
    entry.write_text("".join(json.dumps(action) + "\n" for action in actions))


def table(version: int, change: Callable[[pa.Table], pa.Table], **options: Any) -> Break:
    """Return what writes the rows of a version otherwise, and the log to match."""

    def do(path: Path) -> None:
        file = data_file(path, version)
        options_ = {"compression": "none", "use_dictionary": False, **options}
        pq.write_table(change(pq.read_table(file)).cast(SCHEMA), file, **options_)

        def resize(actions: list[Any]) -> list[Any]:
            for action in actions:
                if "add" in action:
                    action["add"]["size"] = file.stat().st_size
            return actions

        edit_entry(path, version, resize)

    return do


def value(row: int, column: str, new: Any) -> Callable[[pa.Table], pa.Table]:
    """Return what puts another value into one row."""

    def change(found: pa.Table) -> pa.Table:
        values = found[column].to_pylist()
        values[row] = new
        at = found.column_names.index(column)
        return found.set_column(
            at, SCHEMA.field(column), pa.array(values, SCHEMA.field(column).type)
        )

    return change


def flip(version: int, column: str) -> Break:
    """Return what flips a bit in the middle of a column of a version's data file."""

    def do(path: Path) -> None:
        file = data_file(path, version)
        with pq.ParquetFile(file) as parquet:
            group = parquet.metadata.row_group(0)
            (chunk,) = [
                group.column(at)
                for at in range(group.num_columns)
                if group.column(at).path_in_schema == column
            ]
            at = chunk.data_page_offset + chunk.total_compressed_size - 1
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)

    return do


def remove_file(path: Path) -> None:
    data_file(path, 3).unlink()


def link_file(path: Path) -> None:
    file = data_file(path, 3)
    elsewhere = path.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def forget_version(path: Path) -> None:
    edit_entry(path, 3, lambda actions: [action for action in actions if "add" not in action])


def misnumber(path: Path) -> None:
    def change(actions: list[Any]) -> list[Any]:
        for action in actions:
            if "txn" in action:
                action["txn"]["version"] = 7
        return actions

    edit_entry(path, 3, change)


def miscount(path: Path) -> None:
    def change(actions: list[Any]) -> list[Any]:
        for action in actions:
            if "add" in action:
                stats = json.loads(action["add"]["stats"])
                action["add"]["stats"] = json.dumps({**stats, "numRecords": 77})
        return actions

    edit_entry(path, 3, change)


def misplace(path: Path) -> None:
    def change(actions: list[Any]) -> list[Any]:
        for action in actions:
            if "add" in action:
                stats = json.loads(action["add"]["stats"])
                stats["maxValues"]["node_id"] = "0000000000000001"
                action["add"]["stats"] = json.dumps(stats)
        return actions

    edit_entry(path, 3, change)


def bounds(version: int, new: object) -> Break:
    """Return what writes other bounds into the statistics of a version's data file."""

    def change(actions: list[Any]) -> list[Any]:
        for action in actions:
            if "add" in action:
                stats = json.loads(action["add"]["stats"])
                stats["minValues"] = stats["maxValues"] = new
                action["add"]["stats"] = json.dumps(stats)
        return actions

    return lambda path: edit_entry(path, version, change)


def unreadable_target(path: Path) -> None:
    """The symlink's target in a file as another program wrote it, damaged."""
    table(2, lambda found: found, compression="snappy")(path)
    flip(2, "content")(path)


# --- the log ---


def truncate_newest(path: Path) -> None:
    entry = log_entry(path, 4)
    entry.write_bytes(entry.read_bytes()[:-40])


def rot_newest(path: Path) -> None:
    entry = log_entry(path, 4)
    entry.write_bytes(entry.read_bytes().replace(b'"size":', b'"sizd":'))


def lose_newest_file(path: Path) -> None:
    data_file(path, 4).unlink()


def truncate_older(path: Path) -> None:
    entry = log_entry(path, 3)
    entry.write_bytes(entry.read_bytes()[:-40])


def remove_older(path: Path) -> None:
    log_entry(path, 3).unlink()


def checkpoint(path: Path) -> None:
    store = open_pond(path)
    store.checkpoint(now=True)
    store.close()


def wrong_checkpoint(path: Path) -> None:
    snapshot = read_snapshot(os.fspath(path / "_delta_log"))
    for body in snapshot.adds.values():
        body["stats"] = "{}"
        break
    write_checkpoint(os.fspath(path / "_delta_log"), snapshot)


def bad_checkpoint(path: Path) -> None:
    checkpoint(path)
    file = path / "_delta_log" / checkpoint_name(4)
    file.write_bytes(file.read_bytes()[:-100])


def dangling_last_checkpoint(path: Path) -> None:
    (path / "_delta_log" / LAST_CHECKPOINT).write_text(json.dumps({"version": 3, "size": 1}))


def bad_last_checkpoint(path: Path) -> None:
    (path / "_delta_log" / LAST_CHECKPOINT).write_text("")


def allow_deletes(path: Path) -> None:
    store = open_pond(path)
    allow_deletes_by(store)
    store.close()
    # Long ago: else it may be of a prune that is under way.
    os.utime(max((path / "_delta_log").glob("*.json")), (0, 0))


def allow_deletes_by(store: DeltaStore) -> None:
    metadata = read_snapshot(os.path.join(store.path, "_delta_log")).metadata
    configuration = {**metadata["configuration"], "delta.appendOnly": "false"}
    action = {"metaData": {**metadata, "configuration": configuration}}
    store._publisher.publish_entry(
        json.dumps({"commitInfo": {}}).encode() + b"\n" + json.dumps(action).encode() + b"\n"
    )


def forget_lost_file(path: Path) -> None:
    """Have another program take a lost data file out of the table."""
    DeltaTable(path).alter.set_table_properties({"delta.appendOnly": "false"})
    data_file(path, 4).unlink()
    DeltaTable(path).repair()
    open_pond(path).close()


def loose_tag(path: Path) -> None:
    store = open_pond(path)
    store._publisher.publish_entry(tag_entry("gone", Version(99)))
    store.close()


# --- what is beside it ---


def fifo(name: str) -> Break:
    """Return what puts a FIFO in the place of a file: whoever opens it to read waits for ever."""

    def do(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)

    return do


def wrong_image(column: str, add: Sequence[int]) -> Break:
    """Return what adds to a column of the saved image: a number for each node."""

    def do(path: Path) -> None:
        store = open_pond(path)
        assert store.save_image() is not None
        store.close()
        where = imagefile.path_of(os.fspath(path))
        tables = list(map_records(where, imagefile._KIND)[1])
        found = tables[0][column].to_numpy()
        at = tables[0].column_names.index(column)
        wrong = pa.array(found + np.array(add, found.dtype))
        tables[0] = tables[0].set_column(at, column, wrong)

        def write(file: Any) -> None:
            end = 0
            for each in tables:
                end = write_record(file, end, imagefile._KIND, each.schema, [each])

        records.replace(where, write)

    return do


def wrong_rows(path: Path) -> None:
    files = in_order(
        data_files(os.fspath(path), read_snapshot(os.fspath(path / "_delta_log"))), None
    )
    scan = read_rows(files)
    found = scan.table.append_column(rowcache.CACHED_SCHEMA.field("position"), [scan.position])
    found = value_of_cache(found)
    counts = np.bincount(scan.file, minlength=len(files)).tolist()
    listed = [(file.name, file.size, rows) for file, rows in zip(files, counts, strict=True)]
    rowcache._replace(rowcache._path(os.fspath(path)), [found.combine_chunks()], listed)


def value_of_cache(found: pa.Table) -> pa.Table:
    names = found["name"].to_pylist()
    names = ["other" if name == "a" else name for name in names]
    at = found.column_names.index("name")
    return found.set_column(at, found.schema.field("name"), pa.array(names, pa.string()))


def bad_journal(path: Path) -> None:
    table_id = str(read_snapshot(os.fspath(path / "_delta_log")).metadata["id"])
    written = Journal(os.fspath(path), table_id)
    for version in (5, 6):
        written.append(make_cut(version, [update(A, attr(size=6))]))
    written.close()
    where = Path(journal_path(os.fspath(path)))
    data = bytearray(where.read_bytes())
    data[100] ^= 1
    where.write_bytes(data)
