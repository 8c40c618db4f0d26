"""Writing one data file: row groups of rows, and where each content ended up."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from zlib_ng.zlib_ng import crc32

from pondfs.extent import Content
from pondfs.node import Version, format_node_id
from pondfs.oplog import Row
from pondfs.store.faults import fault
from pondfs.store.frames import pack_position, table_bytes
from pondfs.store.parquet import Packed, ParquetWriter, Part
from pondfs.store.rows import Encoded, encode, renumber
from pondfs.store.schema import STATISTICS
from pondfs.store.sums import BlockSums

ROW_GROUP_CONTENT_BYTES = 8 << 20
"""Content per row group: what a reader without our positions has to read for one value."""

ROW_GROUP_ROWS = 1 << 16
"""Most rows in a row group, so that groups of small rows can still be skipped by statistics."""

_BUFFER_BYTES = 1 << 20
"""Small files are written by one system call, larger ones in pieces of at least this."""

_MOST_PARTS = 1024  # IOV_MAX


@dataclass(frozen=True, slots=True)
class Written:
    """A data file that is on disk.

    Shape: *contents*, *row_numbers* and *positions* are parallel; *contents* are those of the
    rows that carry one, in row order.
    """

    name: str
    size: int
    stats: str
    contents: list[Content]
    row_numbers: list[int]
    positions: list[int]


class Run(NamedTuple):
    """Rows of one version that follow each other, and the number of the first."""

    version: Version
    first_seq: int
    rows: Sequence[Row]


def write_data_file(store: str, version: Version, first_seq: int, rows: Sequence[Row]) -> Written:
    """Write *rows* as a new data file. See `write_runs`."""
    return write_runs(store, [Run(version, first_seq, rows)])


def write_runs(store: str, runs: Sequence[Run]) -> Written:
    """Write the rows of *runs*, in order, as a new data file in the directory *store*.

    Durability: the file's bytes are fsynced; its directory is not.
    Raises: OSError as the disk says; the partial file is gone then.
    """
    rows: Sequence[Row] = runs[0].rows
    if len(runs) > 1:
        rows = [row for run in runs for row in run.rows]
        versions = [run.version for run in runs for _ in run.rows]
        seqs = [run.first_seq + at for run in runs for at in range(len(run.rows))]

    def encoded(start: int, stop: int) -> Encoded:
        made = encode(runs[0].version, runs[0].first_seq + start, rows[start:stop])
        if len(runs) > 1:
            made = renumber(made, versions[start:stop], seqs[start:stop])
        return made

    groups = ((stop - start, encoded(start, stop)) for start, stop in row_groups(rows))
    name, size, positions = write_groups(store, groups)
    numbers = [i for i, row in enumerate(rows) if row.content is not None]
    contents = [row.content for row in rows if row.content is not None]
    stats = statistics(
        [run.version for run in runs],
        [row.time_ns // 1000 for row in rows],
        [row.part for row in rows],
        [row.node for row in rows],
    )
    return Written(name, size, stats, contents, numbers, positions)


def write_groups(
    store: str,
    groups: Iterable[tuple[int, Encoded]],
    name: str | None = None,
    *,
    rewritten: bool = False,
) -> tuple[str, int, list[int]]:
    """Write a new data file from row groups: how many rows each has, and the rows.

    Behind them come the checksums of the file's blocks. Contents may be compressed: then a table of
    their frames comes as well. With *rewritten* it does even if it is empty: it has been tried.

    Returns: its name, its size, and the position of each content.
    Durability and errors: as `write_data_file`.
    """
    name = name or new_name()
    path = os.path.join(store, name)
    positions: list[int] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        sink = _Sink(fd)
        writer = ParquetWriter(sink.write)
        frames = _Frames()
        for count, (pages, places) in groups:
            bodies = writer.write_group(count, pages)
            packed = pages[-1].packed
            if packed is None:
                positions.extend([bodies[0] + place for place in places])
            else:
                positions.extend(frames.add(packed, bodies, places))
            frames.rows += count
        writer.finish(sink.sums.table() + (frames.table() if frames or rewritten else b""))
        sink.flush()
        fault("data-file:fsync")
        os.fsync(fd)
    except BaseException:
        unlink_quietly(path)
        raise
    finally:
        os.close(fd)
    return name, writer.offset, positions


class _Frames:
    """Collects the table of a file's frames.

    Attributes:
        rows: how many rows the file has by now.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._pages: list[tuple[int, int, int, int, int]] = []
        self._frames: list[tuple[int, int]] = []

    def add(
        self, packed: Sequence[Packed], bodies: Sequence[int], places: Sequence[int]
    ) -> list[int]:
        """Take down a row group's pages; return the positions of its contents.

        Args:
            packed: the content column.
            bodies: where its pages begin, behind their headers.
            places: where contents begin in all of it before compression, rising.
        """
        row = self.rows
        positions: list[int] = []
        stop = at = 0
        for page, body in zip(packed, bodies, strict=True):
            self._pages.append((row, body, page.rows, page.size, len(page.frames)))
            self._frames += [(len(frame), crc32(frame)) for frame in page.frames]
            row += page.rows
            start, stop = stop, stop + page.size
            while at < len(places) and places[at] < stop:
                positions.append(pack_position(body, places[at] - start))
                at += 1
        return positions

    def __bool__(self) -> bool:
        return bool(self._pages)

    def table(self) -> bytes:
        return table_bytes(self._pages, self._frames)


def new_name() -> str:
    """Return a name for a data file that no other has, or will have."""
    return f"{uuid.uuid4()}.parquet"


class _Sink:
    """Collects what is to be written and hands it over in few system calls, uncopied.

    Attributes:
        sums: the checksums of it.
    """

    def __init__(self, fd: int) -> None:
        self.sums = BlockSums()
        self._fd = fd
        self._parts: list[Part] = []
        self._size = 0

    def write(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self.sums.add(part)
        self._parts.extend(parts)
        self._size += sum(map(len, parts))
        if self._size >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        for start in range(0, len(parts), _MOST_PARTS):
            some = parts[start : start + _MOST_PARTS]
            left = sum(map(len, some)) - os.writev(self._fd, some)
            if left:
                # Rare: the disk is nearly full, or a signal came. The next call tells which.
                rest = memoryview(b"".join(some))[-left:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]


def unlink_quietly(path: str) -> None:
    """Remove a file nothing refers to; if that fails it stays as a stray, which is harmless."""
    try:
        os.unlink(path)
    except OSError:
        pass


def row_groups(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Yield the half-open row ranges of the row groups."""
    start = held = 0
    for i, row in enumerate(rows):
        size = 0 if row.content is None else row.content.length
        full = held and held + size > ROW_GROUP_CONTENT_BYTES
        if full or i - start >= ROW_GROUP_ROWS:
            yield start, i
            start, held = i, 0
        held += size
    yield start, len(rows)


def statistics(
    versions: Sequence[int],
    times_us: Sequence[int],
    parts: Sequence[int],
    nodes: Sequence[int],
    *,
    count: int | None = None,
) -> str:
    """Return the Delta statistics, as JSON: what readers skip files by.

    Args:
        versions: those among the rows.
        times_us: the rows' times, microseconds since 1970 UTC.
        parts: the rows' directories.
        nodes: the rows' nodes, parallel.
        count: how many rows there are, if the others only tell their bounds.
    """

    def bounds(of: Any, time: str) -> dict[str, Any]:
        return {
            "version": of(versions),
            "timestamp": time,
            "part_id": format_node_id(of(parts)),
            "node_id": format_node_id(of(nodes)),
        }

    stats = {
        "numRecords": len(parts) if count is None else count,
        # Times have milliseconds there (Delta protocol, "Per-file Statistics"), which must not
        # shut out what lies between two of them.
        "minValues": bounds(min, _iso(min(times_us) // 1000)),
        "maxValues": bounds(max, _iso(-(-max(times_us) // 1000))),
        "nullCount": dict.fromkeys(STATISTICS, 0),
    }
    return json.dumps(stats, separators=(",", ":"))


def _iso(time_ms: int) -> str:
    when = _EPOCH + timedelta(milliseconds=time_ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
