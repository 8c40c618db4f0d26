"""The oplog as it is: every row of every data file, and of the coming version.

Data files are skipped by their statistics in the Delta log, row groups by those in the files:
whatever a filter says of ``part_id``, ``node_id``, ``version`` and ``timestamp``. Few rows are in
memory at a time, however many there are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs

from pondfs.query.dataset import Ask, Filter, Piece, batches_of
from pondfs.query.pond import Pond
from pondfs.store.content import DataFile
from pondfs.store.damage import damage_of
from pondfs.store.rowcache import CACHED_SCHEMA, Place
from pondfs.store.schema import SCHEMA, STATISTICS
from pondfs.store.seal import check_footer

PENDING = "pending"
_MARK = pa.field(PENDING, pa.bool_(), False)
SCHEMA_WITH_PENDING = SCHEMA.append(_MARK)

_FEW_ROWS = 20_000
"""Up to here a file is read from the cache of rows, if it is there: opening it costs more."""

_READAHEAD = 1
"""Batches, and files, that are read before they are asked for: a batch may hold 8 MiB."""

_BATCH_BYTES = 4 << 20
"""About what a batch with contents may hold: one alone has up to 1 MiB."""

_BUFFER_BYTES = 256 << 10


@dataclass(slots=True)
class Stats:
    """What was skipped, of all reads of the oplog in one query.

    Attributes:
        files: data files there are.
        files_skipped: those that the filter needs none of.
        row_groups: in the files that are read.
        row_groups_skipped: those that the filter needs none of.
    """

    files: int = 0
    files_skipped: int = 0
    row_groups: int = 0
    row_groups_skipped: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.files = self.files_skipped = self.row_groups = self.row_groups_skipped = 0

    def line(self) -> str:
        """Return it as the plan shows it."""
        return (
            f"data files: {self.files}, skipped: {self.files_skipped}; "
            f"row groups in the others: {self.row_groups}, skipped: {self.row_groups_skipped}"
        )


class Oplog:
    """The rows of data files, and of the coming version."""

    def __init__(self, pond: Pond, parts: int) -> None:
        """Take a pond's rows, to be read in so many *parts* side by side."""
        self._pond = pond
        pending = pond.pending
        self._staged = frozenset[str]()
        files = list(pond.files)
        promises = [bounds(file.stats) for file in files]
        self._parts = parts
        self._lock = Lock()
        self._pending = None
        if pending is not None:
            marks = pa.repeat(pa.scalar(True), pending.rows.num_rows)
            self._pending = pending.rows.append_column(_MARK, marks)
            self._staged = frozenset(file.path for file in pending.staged)
            files += pending.staged
            promises += [pc.field(PENDING) == pc.scalar(True) for _ in pending.staged]
        self._files = {file.path: file for file in files}
        form = ds.ParquetFileFormat(
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(
                use_buffered_stream=True,
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        )
        disk = fs.LocalFileSystem()
        self._dataset = ds.FileSystemDataset(
            [
                form.make_fragment(file.path, disk, partition_expression=promise)
                for file, promise in zip(files, promises, strict=True)
            ],
            SCHEMA_WITH_PENDING,
            form,
            disk,
        )

    def pieces(self, only: Filter, stats: Stats) -> Any:
        """Return what gives the pieces of a table of those rows for which *only* holds."""

        def find(asked: Filter) -> list[Piece]:
            combined = _both(only, asked)
            found = list(self._dataset.get_fragments(combined))
            with self._lock:
                stats.files += len(self._files)
                stats.files_skipped += len(self._files) - len(found)
            pieces: list[Piece] = [_bind(self._read, lot, only, stats) for lot in self._lots(found)]
            pending = self._pending
            if pending is not None:
                pieces.append(lambda ask: batches_of(pending, _narrowed(ask, only)))
            return pieces

        return find

    def _lots(self, fragments: list[Any]) -> Iterator[list[Any]]:
        """Yield fragments in so many lots as are read side by side, of about as many rows."""
        rows = [1 + (self._files[f.path].row_count or 0) for f in fragments]
        share = sum(rows) / self._parts
        lot: list[Any] = []
        held = done = 0
        for fragment, count in zip(fragments, rows, strict=True):
            lot.append(fragment)
            held += count
            if held >= share * (done + 1):
                yield lot
                lot = []
                done += 1
        if lot:
            yield lot

    def _read(
        self, lot: list[Any], only: Filter, stats: Stats, ask: Ask
    ) -> Iterator[pa.RecordBatch]:
        ask = _narrowed(ask, only)
        is_cached = frozenset([*CACHED_SCHEMA.names, PENDING]).issuperset
        use_cache = is_cached(ask.columns) and not _mentions(ask.filter, ("file_type", "content"))
        run: list[Place] = []
        for fragment in lot:
            file = self._files[fragment.path]
            place = None
            is_small = (file.row_count or _FEW_ROWS + 1) <= _FEW_ROWS
            if use_cache and is_small and file.path not in self._staged:
                place = self._pond.cache.find(file)
            if place is not None:
                run.append(place)
                if sum(place.rows for place in run) > _FEW_ROWS:
                    yield from _cached(run, ask)
                    run = []
                continue
            yield from self._scan(fragment, file, stats, ask)
        yield from _cached(run, ask)

    def _scan(
        self, fragment: Any, file: DataFile, stats: Stats, ask: Ask
    ) -> Iterator[pa.RecordBatch]:
        rows = ask.batch_rows
        if file.row_count and ("content" in ask.columns or _mentions(ask.filter, ("content",))):
            rows = min(rows, max(1, _BATCH_BYTES * file.row_count // file.size))
        with damage_of(file):
            check_footer(file.path)
            groups = fragment.num_row_groups
            needed = fragment
            if ask.filter is not None:
                needed = fragment.subset(ask.filter, schema=SCHEMA_WITH_PENDING)
            with self._lock:
                stats.row_groups += groups
                stats.row_groups_skipped += groups - needed.num_row_groups
            yield from needed.scanner(
                schema=SCHEMA_WITH_PENDING,
                columns=ask.columns,
                filter=ask.filter,
                batch_size=rows,
                batch_readahead=_READAHEAD,
                fragment_readahead=_READAHEAD,
                use_threads=False,
            ).to_batches()


def _bind(read: Any, lot: list[Any], only: Filter, stats: Stats) -> Piece:
    return lambda ask: read(lot, only, stats, ask)


def _both(one: Filter, other: Filter) -> Filter:
    return one if other is None else other if one is None else one & other


def _narrowed(ask: Ask, only: Filter) -> Ask:
    return Ask(ask.columns, _both(only, ask.filter), ask.batch_rows)


def _mentions(expression: Filter, names: Sequence[str]) -> bool:
    """Return whether a filter looks at one of *names*, or may."""
    return expression is not None and any(name in str(expression) for name in names)


def _cached(run: list[Place], ask: Ask) -> Iterator[pa.RecordBatch]:
    """Yield the rows of files that are in the cache."""
    if not run:
        return
    parts: list[pa.Table] = []
    at = 0
    while at < len(run):
        record, first = run[at].record, run[at].first
        stop = first
        while at < len(run) and run[at].record is record and run[at].first == stop:
            stop += run[at].rows
            at += 1
        parts.append(record.slice(first, stop - first))
    table = pa.concat_tables(parts)
    marks = pa.repeat(pa.scalar(False), table.num_rows)
    yield from batches_of(table.append_column(_MARK, marks), ask)


def bounds(stats: str) -> pc.Expression:
    """Return what the Delta statistics of a data file promise of all its rows."""
    promise: pc.Expression = pc.field(PENDING) == pc.scalar(False)
    parsed = json.loads(stats) if stats else {}
    low, high = parsed.get("minValues") or {}, parsed.get("maxValues") or {}
    for name in STATISTICS:
        if low.get(name) is not None and high.get(name) is not None:
            column = pc.field(name)
            kind = SCHEMA.field(name).type
            promise &= (column >= _value(low[name], kind)) & (column <= _value(high[name], kind))
    return promise


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _value(value: Any, kind: pa.DataType) -> pc.Expression:
    if pa.types.is_timestamp(kind):
        moment = datetime.fromisoformat(value)
        return pc.scalar(pa.scalar((moment - _EPOCH) // timedelta(microseconds=1), kind))
    return pc.scalar(pa.scalar(value, kind))
