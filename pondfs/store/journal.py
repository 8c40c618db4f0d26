"""The journal: versions that are durable before the Delta commit that will carry them.

A program that syncs all the time (a database, a logger) would make a data file and a log entry of
each fsync: four syncs of the disk, 2 ms. Here an fsync costs one: its version is appended to
``_pond/journal`` and synced, and the next Delta commit carries all the versions since the last one.

The file is a run of records: a header (`_HEADER`, zeros up to 64 bytes), then the version's rows,
its commit row last, as one Arrow IPC record batch with the columns of `schema.SCHEMA`, padded to 64
bytes. Once a Delta commit has carried them, the next record is written over the first: blocks that
are there already need no sync of the filesystem's own records, half of what an fsync costs.

What a crash leaves: whole records, and perhaps a torn one behind them that nobody was told of.
Opening the pond for writing takes those later than the table into one Delta commit (`load`), and
removes the file. What follows the newest record is older, or no record at all: versions count up
without a gap, and a version is appended once only.

Source: "Atomic Commit" and WAL of SQLite, for writing over a log that is done with.
"""

import errno
import json
import os
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from pondfs.errors import PondError, StoreDamaged
from pondfs.extent import Content
from pondfs.node import Version
from pondfs.oplog import Cut, Row, Summary
from pondfs.store.batch import BATCH, encode_batch
from pondfs.store.datafile import unlink_quietly
from pondfs.store.existence import open_plain
from pondfs.store.faults import fault
from pondfs.store.lock import acting_as, find_owner, open_own
from pondfs.store.row_tables import decode
from pondfs.store.rows import commit_row
from pondfs.store.schema import CONTENT
from pondfs.store.table import POND_DIR, SET_ASIDE_DIR, fsync_path, open_table

_MAGIC = b"pondjrn1"
_HEADER = struct.Struct("<8s16sQII")  # magic, table, version, bytes of the batch, checksum
_HEADER_BYTES = _ALIGNED_BYTES = 64
AHEAD_BYTES = 256 << 10
"""Zeros written behind a record that makes the file longer, so that the next ones do not."""

_MOST_BATCH_BYTES = 1 << 31


class Journal:
    """The journal of a pond that is open for writing; one call at a time.

    Attributes:
        used_bytes: what the records have that no Delta commit carries yet.
    """

    def __init__(self, store: str, table_id: str) -> None:
        self._path = journal_path(store)
        self._store = store
        self._table = uuid.UUID(table_id).bytes
        self._fd = -1
        self._size = 0
        self.used_bytes = 0

    def append(self, cut: Cut) -> None:
        """Make *cut* durable as the next version.

        Durability: it is on return. After an error it may be, or not: make it a Delta commit
        then, and go on with `reset`.
        Raises: OSError as the disk says.
        """
        if cut.staged:
            raise ValueError("a version of which a part is in data files can't be journaled")
        batch = encode_batch(cut.version, cut.first_seq, [*cut.rows, commit_row(cut)])
        padding = -len(batch) % _ALIGNED_BYTES
        start = self.used_bytes
        end = start + _HEADER_BYTES + len(batch) + padding
        header = _header(self._table, cut.version, batch)
        parts = [header, batch, bytes(padding)]
        if self._fd < 0:
            self._open()
        if end > self._size:
            parts.append(bytes(AHEAD_BYTES))
        fault("journal:write")
        done = os.pwritev(self._fd, parts, start)
        whole = sum(map(len, parts))
        while done < whole:
            # Rare: the disk is nearly full, or a signal came. The next call tells which.
            done += os.pwrite(self._fd, b"".join(parts)[done:], start + done)
        fault("journal:sync")
        os.fdatasync(self._fd)
        fault("journal:done")
        self._size = max(self._size, start + whole)
        self.used_bytes = end

    def reset(self) -> None:
        """Begin anew: a Delta commit that is durable carries all there is. Touches no disk."""
        self.used_bytes = 0

    def close(self) -> None:
        """Let go of the file, and remove it if nothing in it is still wanted."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        self._size = 0
        if not self.used_bytes:
            unlink_quietly(self._path)

    def _open(self) -> None:
        fd = open_own(self._path, os.O_RDWR | os.O_CREAT)
        try:
            self._size = os.fstat(fd).st_size
            # Its name, too, must be there after a power cut, and that of the directory it is in.
            fault("journal:dir-fsync")
            fsync_path(os.path.dirname(self._path))
            fsync_path(self._store)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd


@dataclass(frozen=True, slots=True)
class Found:
    """What a journal holds that the table does not.

    Attributes:
        cuts: versions, without a gap from the one after the table's on.
        trouble: why there may have been more, which is lost; "" when there was not.
    """

    cuts: list[Cut]
    trouble: str = ""

    @property
    def versions(self) -> str:
        """How people call them: ``version 7``, ``versions 7 to 9``; "" for none."""
        if not self.cuts:
            return ""
        first, last = self.cuts[0].version, self.cuts[-1].version
        return f"version {first}" if first == last else f"versions {first} to {last}"


def journal_path(store: str) -> str:
    """Return where a pond's journal is, if it has one."""
    return os.path.join(store, POND_DIR, "journal")


def load(store: str, table_id: str, after: Version) -> Found:
    """Return the versions later than *after* in the journal of *store*.

    A torn record at the end was acknowledged to nobody and is passed over.

    Raises: OSError as the disk says; StoreDamaged when a record is whole and makes no rows.
    """
    try:
        with open(journal_path(store), "rb", opener=open_plain) as file:
            data = memoryview(file.read())
    except FileNotFoundError:
        return Found([])
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreDamaged(f"{journal_path(store)}: {error.strerror}") from None
    table = uuid.UUID(table_id).bytes
    cuts: list[Cut] = []
    at, version = 0, 0
    while (record := _record(data, at, table)) and (not at or record[0] == version + 1):
        version, batch, next_at = record
        if version > after:
            if not cuts and version != after + 1:
                return Found([], f"it begins at version {version}, the table ends at {after}")
            cuts.append(_decode(version, batch, store))
        at = next_at
    newest = max(version, after)
    # Each record was synced before the next was written: whole ones behind a bad one were told of.
    lost = [v for v in _versions_behind(data, at, table) if v > newest]
    if lost:
        return Found(cuts, f"version {newest + 1} is damaged, and so {max(lost)} is not readable")
    return Found(cuts)


def find_waiting(store: str) -> str:
    """Return what is to be said of versions that only the journal of *store* has; "" for none.

    Never fails: what can't be read is said as well.
    """
    try:
        snapshot = open_table(store, writable=False).snapshot
        found = load(store, snapshot.metadata["id"], Version(snapshot.pond_version))
    except (OSError, PondError) as error:
        return f"the journal that a crash left can't be read: {error}"
    if found.trouble:
        return f"the journal that a crash left is not whole: {found.trouble}"
    if not found.cuts:
        return ""
    return (
        f"only the journal that a crash left has {found.versions}: mount it, or 'pond recover "
        f"--pond {store}'"
    )


def set_aside(store: str) -> str:
    """Put a journal that is not whole out of the way, for people to look at; return where."""
    path = journal_path(store)
    aside = os.path.join(store, POND_DIR, SET_ASIDE_DIR)
    with acting_as(find_owner(store)):
        os.makedirs(aside, 0o700, exist_ok=True)
    target = os.path.join(aside, f"journal.{uuid.uuid4()}")
    os.rename(path, target)
    fault("aside:journal")
    fsync_path(aside)
    fsync_path(os.path.dirname(path))
    return target


def remove(store: str) -> None:
    """Remove the journal, of which a durable Delta commit carries all.

    Durability: whether it is gone after a crash or not, opening finds the same.
    """
    unlink_quietly(journal_path(store))


# --- records ---


def _header(table: bytes, version: int, batch: bytes) -> bytes:
    size = len(batch)
    if size > _MOST_BATCH_BYTES:
        raise ValueError(f"a version of {size} bytes can't be journaled")
    header = _HEADER.pack(_MAGIC, table, version, size, _checksum(table, version, batch))
    return header.ljust(_HEADER_BYTES, b"\0")


def _checksum(table: bytes, version: int, batch: bytes | memoryview) -> int:
    start = crc32(struct.pack("<16sQI", table, version, len(batch)))
    return crc32(batch, start)


def _record(data: memoryview, at: int, table: bytes) -> tuple[int, memoryview, int] | None:
    """Return the version of the record at *at*, its batch and its end; None without a whole one."""
    start = at + _HEADER_BYTES
    if len(data) < start:
        return None
    magic, whose, version, size, expected = _HEADER.unpack(data[at : at + _HEADER.size])
    if magic != _MAGIC or whose != table or start + size > len(data):
        return None
    batch = data[start : start + size]
    if _checksum(table, version, batch) != expected:
        return None
    return version, batch, start + size + -size % _ALIGNED_BYTES


def _versions_behind(data: memoryview, start: int, table: bytes) -> Iterator[int]:
    """Yield the versions of whole records from *start* on, wherever they begin."""
    whole = bytes(data[start:])
    at = -1
    while (at := whole.find(_MAGIC, at + 1)) >= 0:
        if record := _record(data, start + at, table):
            yield record[0]


def _decode(version: int, batch: memoryview, store: str) -> Cut:
    try:
        table = pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(batch), BATCH)])
        rows = list(_rows(table))
        first_seq = table["seq"][0].as_py()
        if rows[-1].op != "commit":
            raise ValueError("it does not end as a version does")
        *rows, last = rows
        return Cut(Version(version), last.time_ns, rows, _summary(last.metadata or "{}"), first_seq)
    except (pa.ArrowException, ValueError, IndexError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"version {version} in {journal_path(store)} makes no rows ({error}): restore the pond "
            "from a backup, or move that file away to go on without what is in it"
        ) from error


def _rows(table: pa.Table) -> Iterator[Row]:
    lengths: Sequence[int | None] = table["length"].to_pylist()
    for row, length, data in zip(decode(table), lengths, table[CONTENT], strict=True):
        if length is None:
            yield row
            continue
        content = Content(memoryview(data.as_buffer()), length, row.offset or 0)
        if len(data.as_buffer()) != length:
            raise ValueError("a content has not the length its row says")
        content.fresh = False
        yield row._replace(content=content)


def _summary(text: str) -> Summary:
    facts: dict[str, Any] = json.loads(text)
    return Summary(**{field.name: facts[field.name] for field in fields(Summary)})
