"""Planning a prune: which rows no kept version needs, and what that frees. Changes nothing.

One pass over all rows but their content writes what the rules need of each (50 bytes) into
nameless files, apart by node and by entry; each part is then judged by itself (`prune_rows`). So
memory follows the largest part and two bytes a row, not the pond.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pondfs.errors import NoSuchVersion, UsageError
from pondfs.node import Version
from pondfs.oplog import VersionInfo
from pondfs.store.content import DataFile
from pondfs.store.files import data_files
from pondfs.store.history import ints, node_ids
from pondfs.store.image import Ints
from pondfs.store.log import read_versions
from pondfs.store.prune_rows import EntryRows, Flags, NodeRows, needed_of_entries, needed_of_nodes
from pondfs.store.rewrite import ROW_BYTES
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import in_order, read_rows
from pondfs.store.table import POND_DIR, open_table

PART_ROWS = 500_000
"""Rows judged at once, about: 250 MB."""

BATCH_ROWS = 200_000
"""Rows read at once, unless one file has more."""

FILE_BYTES = 4096
"""What a data file costs beside its rows, about."""

Progress = Callable[[str, float], None]
"""Is told what is being done, and how much of it is done, from 0 to 1."""

_COLUMNS = (
    "version", "seq", "op", "part_id", "node_id", "name", "name_bytes", "removed", "mode", "nlink",
    "valid_below", "offset", "length",
)  # fmt: skip

_ATTR, _LINKED, _NAME, _GONE, _CONTENT = 1, 2, 4, 8, 16
_NODE = np.dtype(
    [("node", "i8"), ("version", "i8"), ("seq", "i4"), ("row", "i8"), ("flags", "u1"),
     ("below", "i8"), ("offset", "i8"), ("length", "i8")]
)  # fmt: skip
_ENTRY = np.dtype(
    [("part", "i8"), ("high", "u8"), ("low", "u8"), ("version", "i8"), ("seq", "i4"),
     ("row", "i8"), ("removed", "?")]
)  # fmt: skip
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(slots=True)
class Plan:
    """What a prune would do.

    Shape: *keep* and *strip* say for each row, file by file, whether it stays and whether it loses
    its content; the rows of ``files[i]`` begin at ``starts[i]``. *touched* are numbers of files.

    Attributes:
        store: the pond's directory.
        kept: the versions that stay, ascending.
        forgotten: those that go.
        files: the table's data files, in the order of their versions.
        live_bytes: content that stays, by file.
        freed_bytes: what the disk gets back, about.
    """

    store: str
    kept: list[VersionInfo]
    forgotten: list[Version]
    files: list[DataFile]
    starts: Ints
    keep: Flags
    strip: Flags
    touched: list[int]
    live_bytes: Ints
    freed_bytes: int

    @property
    def newest(self) -> Version:
        """The newest version the plan knows; later ones stay whole."""
        return self.kept[-1].version

    def rows_of(self, number: int) -> slice:
        """Return where the rows of a file stand in *keep* and *strip*."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))


def make_plan(
    store: str | os.PathLike[str],
    keep: Sequence[Version],
    progress: Progress = lambda what, share: None,
    part_rows: int = PART_ROWS,
    seen: Version | None = None,
) -> Plan:
    """Return what it takes to forget all versions but *keep* and those after *seen*.

    *seen* is the newest version that whoever chose knew; nobody decided about later ones. The
    newest version stays in any case. Whoever asks sees to it that no data file goes meanwhile (the
    lock for readers, or for the writer).

    Raises: NoSuchVersion; UsageError when another prune is at work; StoreDamaged.
    """
    path = os.path.abspath(os.fspath(store))
    versions = read_versions(path, None)[::-1]
    newest = versions[-1].version
    wanted = {*keep, newest}
    if seen is not None:
        wanted.update(info.version for info in versions if info.version > seen)
    if lost := wanted - {info.version for info in versions}:
        raise NoSuchVersion(f"there is no version {min(lost)}: see pond log")
    kept = [info for info in versions if info.version in wanted]
    forgotten = [info.version for info in versions if info.version not in wanted]
    files = in_order(data_files(path, open_table(path, writable=False).snapshot), None)
    judge = _Judge(path, np.array([info.version for info in kept]), files, part_rows)
    judge.read(progress)
    if not wanted <= judge.seen:
        # Another prune between our two looks at the log, or damage.
        raise UsageError(
            f"version {min(wanted - judge.seen)} is gone from the pond: prune again; if this "
            "stays, a data file was lost: restore the store from a backup"
        )
    judge.judge(progress)
    return judge.plan(path, kept, forgotten)


class _Judge:
    """The rows of a pond, on their way through the rules."""

    def __init__(self, store: str, kept: Ints, files: list[DataFile], part_rows: int) -> None:
        self._store = store
        self._kept = kept
        self._files = files
        parts = 1 + sum(map(_row_count, files)) // part_rows
        self._nodes = _Parts(store, _NODE, parts)
        self._entries = _Parts(store, _ENTRY, parts)
        self._counts: list[int] = []
        self._stay: list[Flags] = []
        self._content_bytes: list[int] = []
        # Versions with a commit row.
        self.seen: set[int] = set()
        self.keep: Flags = np.zeros(0, bool)
        self.strip: Flags = np.zeros(0, bool)

    def read(self, progress: Progress) -> None:
        """Take from all rows what the rules need."""
        cache = RowCache(self._store)
        done = 0
        for batch in _batches(self._files):
            progress("reading", done / len(self._files))
            scan = read_rows(batch, _COLUMNS, cache)
            table = scan.table
            self._counts.extend(np.bincount(scan.file, minlength=len(batch)).tolist())
            length = ints(table, "length")
            self._content_bytes.extend(
                np.bincount(scan.file, length, minlength=len(batch)).astype(np.int64).tolist()
            )
            self._take(table, length)
            done += len(batch)

    def _take(self, table: pa.Table, length: Ints) -> None:
        version, seq = ints(table, "version"), ints(table, "seq")
        node = node_ids(table, "node_id")
        removed = table["removed"].to_numpy()
        is_commit = pc.equal(table["op"], "commit").to_numpy()
        has_name = pc.is_valid(table["name"]).to_numpy()
        has_attr = pc.is_valid(table["mode"]).to_numpy()
        has_content = pc.is_valid(table["length"]).to_numpy()
        gone = removed & ~has_name
        below = np.where(has_attr, ints(table, "valid_below", -1), -1)
        says = has_name | has_attr | has_content | gone
        newer = version > self._kept[-1]
        self.seen.update(version[is_commit].tolist())
        # What says nothing we know of is not ours to judge.
        self._stay.append(np.where(is_commit, np.isin(version, self._kept) | newer, newer | ~says))
        row = np.arange(len(version)) + (sum(map(len, self._stay)) - len(version))
        judged = ~is_commit & ~newer

        some = np.flatnonzero(judged & (has_attr | has_content | gone))
        records = np.empty(len(some), _NODE)
        flags = (
            has_attr * _ATTR + (ints(table, "nlink") > 0) * _LINKED + has_name * _NAME
            + gone * _GONE + has_content * _CONTENT
        )  # fmt: skip
        for name, column in (
            ("node", node), ("version", version), ("seq", seq), ("row", row), ("flags", flags),
            ("below", below), ("offset", ints(table, "offset")), ("length", length),
        ):  # fmt: skip
            records[name] = column[some]
        self._nodes.add(records, records["node"].view(np.uint64))

        some = np.flatnonzero(judged & has_name)
        records = np.empty(len(some), _ENTRY)
        part = node_ids(table, "part_id")
        for name, column in (
            ("part", part), ("version", version), ("seq", seq), ("row", row), ("removed", removed),
        ):  # fmt: skip
            records[name] = column[some]
        records["high"], records["low"] = _digests(table, some)
        self._entries.add(records, records["part"].view(np.uint64) ^ records["high"])

    def judge(self, progress: Progress) -> None:
        """Decide for each row whether it stays, and with its content."""
        self.keep = np.concatenate([np.zeros(0, bool), *self._stay])
        self._stay.clear()
        self.strip = np.zeros(len(self.keep), bool)
        parts = len(self._nodes)
        for number, records in enumerate(self._nodes):
            progress("judging", number / parts / 2)
            self._judge_nodes(records)
        # After all nodes: a removal is needed if what it removes stays, for whatever reason.
        for number, records in enumerate(self._entries):
            progress("judging", (parts + number) / parts / 2)
            self._judge_entries(records)

    def _judge_nodes(self, records: NDArray[Any]) -> None:
        records = records[np.lexsort((records["seq"], records["version"], records["node"]))]
        flags = records["flags"]
        rows = NodeRows(
            records["node"],
            self._epoch(records),
            (flags & _ATTR) > 0,
            (flags & _LINKED) > 0,
            (flags & _NAME) > 0,
            (flags & _GONE) > 0,
            records["below"],
            (flags & _CONTENT) > 0,
            records["offset"],
            records["length"],
        )
        needed, content = needed_of_nodes(rows)
        self.keep[records["row"][needed]] = True
        dead = (rows.length > 0) & rows.has_content & ~content
        self.strip[records["row"][dead]] = True
        starts = np.cumsum([0, *self._counts])
        file = np.searchsorted(starts, records["row"][dead], "right") - 1
        lost = np.bincount(file, records["length"][dead], minlength=len(self._counts))
        for number in np.flatnonzero(lost).tolist():
            self._content_bytes[number] -= int(lost[number])

    def _judge_entries(self, records: NDArray[Any]) -> None:
        keys = ("part", "high", "low")
        order = np.lexsort(
            (records["seq"], records["version"], *(records[key] for key in reversed(keys)))
        )
        records = records[order]
        first = np.ones(len(records), bool)
        if len(records):
            first[1:] = np.any([records[key][1:] != records[key][:-1] for key in keys], axis=0)
        kept = self.keep[records["row"]]
        rows = EntryRows(first, self._epoch(records), records["removed"], kept)
        self.keep[records["row"][needed_of_entries(rows)]] = True

    def _epoch(self, records: NDArray[Any]) -> Ints:
        return np.searchsorted(self._kept, records["version"])

    def plan(self, store: str, kept: list[VersionInfo], forgotten: list[Version]) -> Plan:
        """Return what was found."""
        starts = np.cumsum([0, *self._counts])
        self.strip &= self.keep
        changed = np.append(0, np.cumsum(~self.keep | self.strip))
        touched = np.flatnonzero(changed[starts[1:]] > changed[starts[:-1]]).tolist()
        stays = np.append(0, np.cumsum(self.keep))
        live = np.array(self._content_bytes, np.int64)
        freed = before = left = 0
        for number in touched:
            rows = int(stays[starts[number + 1]] - stays[starts[number]])
            before += self._files[number].size
            left += rows * ROW_BYTES + int(live[number])
        if left:
            left += FILE_BYTES
        freed = max(0, before - left)
        return Plan(
            store, kept, forgotten, self._files, starts, self.keep, self.strip, touched, live, freed
        )


class _Parts:
    """Records, apart by a number of theirs; on disk when they are many."""

    def __init__(self, store: str, kind: np.dtype[Any], parts: int) -> None:
        self._kind = kind
        self._held: list[NDArray[Any]] = []
        self._files: list[IO[bytes]] = []
        if parts > 1:
            where = os.path.join(store, POND_DIR)
            self._files = [tempfile.TemporaryFile(dir=where) for _ in range(parts)]  # noqa: SIM115 # closed when read

    def __len__(self) -> int:
        return max(1, len(self._files))

    def add(self, records: NDArray[Any], number: NDArray[np.uint64]) -> None:
        if not self._files:
            self._held.append(records)
            return
        part = (number * _MIX >> np.uint64(32)) % np.uint64(len(self._files))
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(len(self._files) + 1, dtype=np.uint64))
        for file, start, stop in zip(self._files, bounds[:-1], bounds[1:], strict=True):
            file.write(records[order[start:stop]].tobytes())

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield each part once, and let go of it."""
        if not self._files:
            held, self._held = self._held, []
            yield np.concatenate([np.empty(0, self._kind), *held])
        for file in self._files:
            with file:
                size = file.tell()
                file.seek(0)
                yield np.fromfile(file, self._kind, size // self._kind.itemsize)


def _batches(files: list[DataFile]) -> Iterator[list[DataFile]]:
    batch: list[DataFile] = []
    rows = 0
    for file in files:
        count = _row_count(file)
        if batch and rows + count > BATCH_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(file)
        rows += count
    if batch:
        yield batch


def _row_count(file: DataFile) -> int:
    return file.row_count if file.row_count is not None else file.size // 100


def _digests(table: pa.Table, some: Ints) -> tuple[Ints, Ints]:
    """Return 128 bits for each row's name, by which names are told apart from here on.

    A cryptographic hash: names of one digest do not happen, not even on purpose.
    """
    rows = pa.array(some)
    names = table["name"].take(rows).cast(pa.binary())
    codes = pc.coalesce(table["name_bytes"].take(rows), names).combine_chunks().dictionary_encode()
    if isinstance(codes, pa.ChunkedArray):
        codes = codes.combine_chunks()
    digests = np.frombuffer(
        b"".join(
            hashlib.blake2b(name, digest_size=16).digest() for name in codes.dictionary.to_pylist()
        ),
        np.uint64,
    ).reshape(-1, 2)
    chosen = digests[codes.indices.to_numpy()]
    return chosen[:, 0], chosen[:, 1]
