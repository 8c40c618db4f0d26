"""What another process committed: the log entries behind a place, and the rows they brought.

Only the new data files are read, so that keeping up costs what changed, not what is stored. Where
an entry does more than add a version (a prune or a compaction exchanges files, another program
appends), only a new fold can show what is there now, and the answer says so.
"""

import json
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.interfaces import News, NewVersion
from pondfs.node import Version
from pondfs.oplog import AttrRow, Row
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.deltalog import (
    APP_ID,
    FACTS,
    LOG_DIR,
    BadEntryError,
    Snapshot,
    entry_name,
    list_log,
    read_entry,
)
from pondfs.store.existence import is_there
from pondfs.store.files import data_files
from pondfs.store.fold import fold_rows
from pondfs.store.history import History
from pondfs.store.image import TableImage
from pondfs.store.lock import ReaderLock
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import in_order, read_rows
from pondfs.store.table import POND_DIR, open_table

_ATTRS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")

MOST_ENTRIES = 256
MOST_ROWS = 20_000
"""How much one `read` returns: what takes the reader's event loop about 0.1 s to apply. A single
version with more rows is folded: that happens in a thread, and costs no Python objects."""


class _Entry(NamedTuple):
    """A log entry that only adds: one version, several, or nothing that concerns the tree.

    Attributes:
        first_version: the first of them; 0 when it adds nothing.
        version: the last.
        time_ns: when that was cut.
        files: their data files.
        rows: how many those have.
    """

    first_version: Version
    version: Version
    time_ns: int
    files: list[DataFile]
    rows: int


class LogFeed:
    """A place in a pond's log. Implements `interfaces.Feed`."""

    def __init__(
        self, store: str, reader: ContentReader, files: Iterable[DataFile], next_entry: int
    ) -> None:
        self._store = store
        self._log_dir = os.path.join(store, LOG_DIR)
        self._reader = reader
        self._files = list(files)
        self._seen_mtime_ns = -1
        self._reloaded_before = -1
        self._go_to(next_entry)

    def _go_to(self, entry: int) -> None:
        self._next = entry
        self._next_path = os.path.join(self._log_dir, entry_name(entry))

    def has_news(self) -> bool:
        """Return whether the log goes on, or may have lost the entry we wait for."""
        try:
            os.stat(self._next_path)
        except FileNotFoundError:
            return os.stat(self._log_dir).st_mtime_ns != self._seen_mtime_ns
        return True

    def read(self) -> News:
        """Return what came. See `interfaces.Feed.read`."""
        # Before looking: what comes meanwhile has another time, or is found by its name.
        mtime_ns = os.stat(self._log_dir).st_mtime_ns
        found: list[_Entry] = []
        number, rows, reload, trouble = self._next, 0, False, ""
        while len(found) < MOST_ENTRIES:
            try:
                entry = self._read_entry(number)
            except FileNotFoundError:
                reload = number == self._next and self._is_left_behind()
                break
            except (BadEntryError, StoreDamaged) as error:
                trouble = f"log entry {entry_name(number)} in {self._log_dir}: {error}"
                break
            if entry is None or entry.rows > MOST_ROWS:
                reload = True
                break
            rows += entry.rows
            if found and rows > MOST_ROWS:
                break
            found.append(entry)
            number += 1
        files = [file for entry in found for file in entry.files]
        try:
            versions = self._versions(found, files)
        except StoreDamaged:
            gone = any(not is_there(file.path) for file in files)
            if not gone or self._reloaded_before == self._next:
                raise
            # Exchanged by an entry further on.
            return News([], reload=True)
        self._files.extend(files)
        self._seen_mtime_ns = mtime_ns
        self._go_to(number)
        return News(versions, reload, trouble)

    def fold(self, version: Version) -> TableImage:
        """Return the image of a version that was read. See `interfaces.Feed.fold`."""
        return self._fold(list(self._files), version)

    def reload(self) -> TableImage:
        """Return the newest image, and go on behind it. See `interfaces.Feed.reload`."""
        # So that no file goes between the look at the log and the fold.
        lock = ReaderLock(os.path.join(self._store, POND_DIR))
        try:
            snapshot = open_table(self._store, writable=False).snapshot
            files = data_files(self._store, snapshot)
            image = self._fold(files, None)
        finally:
            lock.release()
        if image.version < snapshot.pond_version:
            raise StoreDamaged(
                f"pond {self._store} has rows up to version {image.version} only, but its log says "
                f"{snapshot.pond_version}: restore it from a backup"
            )
        self._files = files
        self._go_to(snapshot.version + 1)
        self._reloaded_before = self._next
        return image

    def _fold(self, files: list[DataFile], version: Version | None) -> TableImage:
        files = in_order(files, version)
        image = fold_rows(
            read_rows(files, cache=RowCache(self._store)), files, self._reader, version
        )
        pa.default_memory_pool().release_unused()
        return image

    def _is_left_behind(self) -> bool:
        """Whether the entry we wait for was cleaned away: newer ones are there."""
        entries, checkpoints = list_log(self._log_dir)
        if self._next in entries:
            return False  # it came just now
        return max([*entries, *checkpoints], default=-1) >= self._next

    def _read_entry(self, number: int) -> _Entry | None:
        """Return a log entry; None when it does more than add a version.

        Raises: BadEntryError; StoreDamaged for what no pond has; FileNotFoundError.
        """
        actions = read_entry(self._log_dir, number)
        change = Snapshot()
        change.apply(number, actions)
        facts = actions[0].get("commitInfo", {}).get(FACTS) or {}
        if change.removes:
            return None
        if not change.adds and APP_ID not in change.txns:
            return _Entry(Version(0), Version(0), 0, [], 0)
        if APP_ID not in change.txns or "time_ns" not in facts:
            return None
        rows = sum(
            json.loads(add.get("stats") or "{}").get("numRecords", 0)
            for add in change.adds.values()
        )
        return _Entry(
            Version(facts.get("first_version", change.pond_version)),
            Version(change.pond_version),
            facts["time_ns"],
            data_files(self._store, change),
            rows,
        )

    def _versions(self, found: list[_Entry], files: list[DataFile]) -> list[NewVersion]:
        if not files:
            return []
        rows = load_rows(files, self._reader)
        times_ns = {entry.version: entry.time_ns for entry in found}
        if any(entry.first_version < entry.version for entry in found):
            # Of all but the last of an entry, the commit rows tell.
            times_ns = _load_times(files) | times_ns
        return [
            NewVersion(Version(version), times_ns[Version(version)], rows.get(version, []))
            for entry in found
            if entry.version
            for version in range(entry.first_version, entry.version + 1)
        ]


def _load_times(files: list[DataFile]) -> dict[Version, int]:
    """Return when each version with a commit row in *files* was cut, nanoseconds since 1970."""
    table = read_rows(files, ("version", "timestamp", "op")).table
    table = table.filter(pc.equal(table["op"], "commit"))
    times_us = table["timestamp"].cast(pa.int64()).to_pylist()
    versions = table["version"].to_pylist()
    return {Version(v): time * 1000 for v, time in zip(versions, times_us, strict=True)}


def load_rows(files: list[DataFile], reader: ContentReader) -> dict[int, list[Row]]:
    """Return the rows in *files* by version, in order. See `interfaces.NewVersion`.

    Raises: StoreDamaged, OSError.
    """
    history = History(read_rows(files), None)
    every = np.arange(history.count)
    columns: list[list[int]] = [history.take(name, every).tolist() for name in _ATTRS]
    rows: dict[int, list[Row]] = {}
    for (
        version, part, node, removed, name, raw, has_attr, attr, below, metadata, offset,
        has_content, length, file, number, position,
    ) in zip(
        history.take("version", every).tolist(),
        history.part.tolist(),
        history.node.tolist(),
        history.removed.tolist(),
        history.arrow("name", every).cast(pa.binary()).to_pylist(),
        history.arrow("name_bytes", every).to_pylist(),
        history.has_attr.tolist(),
        zip(*columns, strict=True),
        history.arrow("valid_below", every).to_pylist(),
        history.arrow("metadata", every).to_pylist(),
        history.take("offset", every).tolist(),
        history.has_content.tolist(),
        history.take("length", every).tolist(),
        history.file.tolist(),
        history.row.tolist(),
        history.position.tolist(),
        strict=True,
    ):  # fmt: skip
        attrs: AttrRow | None = attr if has_attr else None
        mode = attr[0] if has_attr else 0
        content = None
        if has_content:
            content = Content.stored(files[file], number, length)
            content.position = position
            if stat.S_ISLNK(mode):
                content = _load(reader, content)
        rows.setdefault(version, []).append(
            Row(
                "", 0, part, node, mode, name if raw is None else raw, removed, attrs,
                below if has_attr else None, metadata if has_attr else None,
                offset if has_content else None, content,
            )
        )  # fmt: skip
    return rows


def _load(reader: ContentReader, stored: Content) -> Content:
    """Return the same content in memory."""
    data = bytearray(stored.length)
    reader.read(stored, 0, memoryview(data))
    loaded = Content(bytes(data), len(data))
    loaded.fresh = False
    return loaded
