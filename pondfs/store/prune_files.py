"""Carrying out a plan up to the point where it counts: new data files, and where each row went.

Only files that lose something are written anew; what follows each other is put together. Rows keep
their version, number and time, so a fold of what is left gives what it gave. Nothing refers to the
new files before `prune_swap` publishes them: until then they are strays.
"""

import contextlib
import json
import os
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pondfs.extent import Content
from pondfs.node import FILE_TYPES, Version
from pondfs.oplog import Row, VersionInfo
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.datafile import (
    ROW_GROUP_CONTENT_BYTES,
    statistics,
    unlink_quietly,
    write_groups,
)
from pondfs.store.faults import fault
from pondfs.store.history import ints, node_ids
from pondfs.store.image import Ints
from pondfs.store.lock import ONESELF, acting_as, find_owner
from pondfs.store.parquet import Page
from pondfs.store.prune import ROW_BYTES, Plan, Progress
from pondfs.store.rows import Encoded, encode
from pondfs.store.scan import read_rows
from pondfs.store.schema import CONTENT, SCHEMA
from pondfs.store.table import POND_DIR, fsync_path

FULL_BYTES = 64 << 20
"""New data files are about this large, if what follows each other is as much."""

GROUP_ROWS = 1 << 14
"""Rows in a new row group at most: they are Python objects while it is written (1 KB each)."""

_OPEN_FILES = 64
_REQUEST = "prune-"
_COLUMNS = tuple(name for name in SCHEMA.names if name != CONTENT)
_KINDS = {name: kind for kind, name in FILE_TYPES.items()}
_ATTRS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Files that are ready to take the place of others.

    Attributes:
        request: name, in ``_pond/``, of the file that says so to whoever has the writer lock.
        files: names of the new data files.
        added_bytes: what the new ones take.
        freed_bytes: what the old ones take less that.
    """

    request: str
    files: list[str]
    added_bytes: int
    freed_bytes: int


@dataclass(slots=True)
class _Rows:
    """Rows that stay, of several old files, in the order of time.

    Shape: all parallel to *table*; *file* counts in the plan's files.
    """

    table: pa.Table
    file: Ints
    row: Ints
    position: Ints
    length: Ints
    """Of the content that stays; 0 where none does."""

    def take(self, some: Ints) -> "_Rows":
        return _Rows(
            self.table.take(pa.array(some)), self.file[some], self.row[some], self.position[some],
            self.length[some],
        )  # fmt: skip


def write_files(plan: Plan, progress: Progress = lambda what, share: None) -> Rewritten:
    """Write what stays of the plan's files, and the request to put it in their place.

    Durability: the new data files and their names are fsynced on return.
    Raises: OSError, StoreDamaged; what was written is gone then.
    """
    writer = _Writer(plan)
    request = f"{_REQUEST}{uuid.uuid4()}.npz"
    pond = os.path.join(plan.store, POND_DIR)
    remove_requests(plan.store)
    try:
        for done, batch in _batches(plan):
            progress("writing", done)
            writer.write(batch)
        fault("prune:store-dir-fsync")
        fsync_path(plan.store)
        writer.save(os.path.join(pond, request))
        fault("prune:written")
    except BaseException:
        writer.discard()
        unlink_quietly(os.path.join(pond, request))
        raise
    finally:
        writer.close()
    before = sum(plan.files[number].size for number in plan.touched)
    after = sum(file["size"] for file in writer.added)
    return Rewritten(request, [file["name"] for file in writer.added], after, before - after)


def discard(store: str, rewritten: Rewritten) -> None:
    """Remove new files that came to nothing.

    Only when it is certain that no log entry has them, and that nobody is about to write one.
    """
    for name in rewritten.files:
        unlink_quietly(os.path.join(store, name))
    unlink_quietly(os.path.join(store, POND_DIR, rewritten.request))


def remove_requests(store: str) -> None:
    """Remove requests that a process left which did not get to its end."""
    pond = os.path.join(store, POND_DIR)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(pond):
            if name.startswith(_REQUEST):
                unlink_quietly(os.path.join(pond, name))


def _batches(plan: Plan) -> Iterator[tuple[float, list[int]]]:
    """Yield numbers of touched files with nothing in between, each lot up to one full file."""
    batch: list[int] = []
    size = 0
    kept = np.append(0, np.cumsum(plan.keep))
    for at, number in enumerate(plan.touched):
        rows = plan.rows_of(number)
        count = int(kept[rows.stop] - kept[rows.start])
        new = int(plan.live_bytes[number]) + count * ROW_BYTES
        # What stays as it is between two would come to lie inside the new file's versions.
        apart = at > 0 and number > plan.touched[at - 1] + 1
        if batch and (apart or size + new > FULL_BYTES):
            yield at / len(plan.touched), batch
            batch, size = [], 0
        if count:
            batch.append(number)
            size += new
    if batch:
        yield 1.0, batch


class _Writer:
    """Writes new files and notes where each content went."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._reader = ContentReader(max_open=_OPEN_FILES)
        self._owner = find_owner(plan.store)
        self.added: list[dict[str, Any]] = []
        # For each content that stays: old file and row, new file and row, position there.
        self._moves = [array("q") for _ in range(5)]

    def write(self, batch: list[int]) -> None:
        """Write the rows that stay of the files *batch*."""
        rows = self._load(batch)
        lot: list[tuple[int, int]] = []
        size = 0
        for start, stop in _row_groups(rows):
            new = (stop - start) * ROW_BYTES + int(rows.length[start:stop].sum())
            if lot and size + new > FULL_BYTES:
                self._write_file(rows, lot)
                lot, size = [], 0
            lot.append((start, stop))
            size += new
        self._write_file(rows, lot)

    def _load(self, batch: list[int]) -> _Rows:
        parts: list[_Rows] = []
        for number in batch:
            scan = read_rows([self._plan.files[number]], _COLUMNS)
            span = self._plan.rows_of(number)
            length = np.where(self._plan.strip[span], 0, ints(scan.table, "length"))
            all_rows = _Rows(
                scan.table, np.full(len(length), number), scan.row, scan.position, length
            )
            some = np.flatnonzero(self._plan.keep[span])
            parts.append(all_rows if len(some) == len(length) else all_rows.take(some))
        rows = _Rows(
            pa.concat_tables([part.table for part in parts]),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("file", "row", "position", "length")
            ),
        )
        version, seq = ints(rows.table, "version"), ints(rows.table, "seq")
        order = np.lexsort((seq, version))
        return rows if (order[1:] > order[:-1]).all() else rows.take(order)

    def _write_file(self, rows: _Rows, lot: list[tuple[int, int]]) -> None:
        fault("prune:data-file")
        groups = ((stop - start, self._encode(rows, start, stop)) for start, stop in lot)
        with acting_as(self._owner):
            name, size, positions = write_groups(self._plan.store, groups)
        first, end = lot[0][0], lot[-1][1]
        whole = slice(first, end)
        version = ints(rows.table, "version")[whole]
        stats = statistics(
            int(version.min()),
            int(version.max()),
            node_ids(rows.table, "part_id")[whole].tolist(),
            node_ids(rows.table, "node_id")[whole].tolist(),
        )
        some = np.flatnonzero(rows.length[whole] > 0)
        new = np.full(len(some), len(self.added))
        self.added.append({"name": name, "size": size, "stats": stats})
        for column, values in zip(
            self._moves,
            (rows.file[whole][some], rows.row[whole][some], new, some, np.array(positions)),
            strict=True,
        ):
            column.frombytes(values.astype(np.int64).tobytes())

    def _encode(self, rows: _Rows, start: int, stop: int) -> Encoded:
        """Return one row group, the contents in memory."""
        with acting_as(ONESELF if self._owner else None):
            return self._encode_part(rows, start, stop)

    def _encode_part(self, rows: _Rows, start: int, stop: int) -> Encoded:
        part = slice(start, stop)
        records = self._records(rows.table.slice(start, stop - start))
        versions = ints(rows.table, "version")[part]
        seqs = ints(rows.table, "seq")[part]
        new: list[Row] = []
        for record, file, row, position, length in zip(
            records,
            rows.file[part].tolist(),
            rows.row[part].tolist(),
            rows.position[part].tolist(),
            rows.length[part].tolist(),
            strict=True,
        ):
            if length:
                content = self._read(self._plan.files[file], row, position, length)
                record = record._replace(content=content)
            else:
                record = record._replace(offset=None)
            new.append(record)
        pages, places = encode(Version(0), 0, new)
        low, high = (
            int(v).to_bytes(8, "little", signed=True) for v in (min(versions), max(versions))
        )
        pages[SCHEMA.get_field_index("version")] = Page([versions.tobytes()], 0, low, high)
        pages[SCHEMA.get_field_index("seq")] = Page([seqs.astype("i4").tobytes()])
        return Encoded(pages, places)

    def _records(self, table: pa.Table) -> Iterator[Row]:
        """Yield the rows without their content."""
        columns = {name: table[name] for name in table.column_names}
        times = columns.pop("timestamp").cast(pa.int64())
        lists = {name: column.to_pylist() for name, column in columns.items()}
        attrs = list(zip(*(lists[name] for name in _ATTRS), strict=True))
        parts, nodes = node_ids(table, "part_id").tolist(), node_ids(table, "node_id").tolist()
        for at, time_us in enumerate(times.to_pylist()):
            raw, name = lists["name_bytes"][at], lists["name"][at]
            attr = attrs[at]
            has_attr = attr[0] is not None
            yield Row(
                lists["op"][at],
                time_us * 1000,
                parts[at],
                nodes[at],
                _KINDS[lists["file_type"][at]],
                raw if raw is not None else None if name is None else name.encode(),
                lists["removed"][at],
                attr if has_attr else None,
                lists["valid_below"][at],
                lists["metadata"][at],
                lists["offset"][at],
            )

    def _read(self, file: DataFile, row: int, position: int, length: int) -> Content:
        old = Content.stored(file, row, length)
        old.position = position
        data = bytearray(length)
        self._reader.read(old, 0, memoryview(data))
        return Content(memoryview(data), length)

    def save(self, path: str) -> None:
        """Write the request."""
        plan = self._plan
        touched = np.array(plan.touched, np.int64)
        facts = {
            "kept": [version_facts(info) for info in plan.kept],
            "forgotten": len(plan.forgotten),
            "removed": [plan.files[number].name for number in plan.touched],
            "added": self.added,
        }
        old_file, old_row, new_file, new_row, position = (
            np.frombuffer(column, np.int64) for column in self._moves
        )
        with acting_as(self._owner):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            np.savez(
                file,
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                old_file=np.searchsorted(touched, old_file),
                old_row=old_row,
                new_file=new_file,
                new_row=new_row,
                position=position,
            )

    def discard(self) -> None:
        """Remove what was written."""
        for added in self.added:
            unlink_quietly(os.path.join(self._plan.store, added["name"]))

    def close(self) -> None:
        """Let go of the old files."""
        self._reader.close()


def version_facts(info: VersionInfo) -> dict[str, Any]:
    """Return a version as a log entry carries it."""
    facts = asdict(info)
    del facts["timestamp"]
    return {**facts, "time_ns": info.time_ns}


def _row_groups(rows: _Rows) -> Iterator[tuple[int, int]]:
    start = held = 0
    for at, length in enumerate(rows.length.tolist()):
        if at > start and (held + length > ROW_GROUP_CONTENT_BYTES or at - start >= GROUP_ROWS):
            yield start, at
            start, held = at, 0
        held += length
    yield start, len(rows.length)
