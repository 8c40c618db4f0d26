"""Giving DataFusion a table of ours, with projection and filters pushed down to it.

DataFusion takes a Python subclass of `pyarrow.dataset.Dataset`: it asks for `schema`, for the
fragments that a filter may need (once, while planning), and each fragment for its batches. A filter
that it could translate to Arrow it leaves to us altogether, so what we return is filtered exactly.
"""

import atexit
import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

Filter: TypeAlias = Any
"""An expression of Arrow's, or None for all rows."""

Failed = Callable[[BaseException], None]
"""Told of what went wrong inside, as DataFusion turns it into a long text."""

_EMIT_NULL = 2  # SetLookupOptions::NullMatchingBehavior


@dataclass(frozen=True, slots=True)
class Ask:
    """What a query wants of a table.

    Attributes:
        columns: names, in order; there may be none.
        filter: rows that count, or None for all.
        batch_rows: most rows in a batch.
    """

    columns: list[str]
    filter: Filter
    batch_rows: int


Piece = Callable[[Ask], Iterable[pa.RecordBatch]]
"""A part of a table that can be read beside the others; blocks, in any thread."""


class _Guests:
    """DataFusion's threads: they are to stay away from a Python that is being taken down.

    One that asks for it then aborts the process ("FATAL: exception not rethrown"), and a query that
    failed or was given up goes on for a while. So Python's end waits until they have nothing to do.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._is_used = self._is_closed = False
        self._lock = threading.Lock()
        atexit.register(self._close)

    def batches(self, piece: Piece, ask: Ask) -> Iterator[pa.RecordBatch]:
        """Yield what *piece* gives, until Python ends."""
        self._is_used = True
        batches = iter(piece(ask))
        while not self._is_closed:
            self._count(1)
            try:
                batch = next(batches, None)
            finally:
                self._count(-1)
            if batch is None:
                return
            yield batch

    def _count(self, change: int) -> None:
        with self._lock:
            self._inside += change

    def _close(self) -> None:
        self._is_closed = True
        deadline = time.monotonic() + _LAST_WAIT_S
        idle_looks = 0 if self._is_used else _IDLE_LOOKS
        while idle_looks < _IDLE_LOOKS and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            idle_looks = 0 if self._inside or _is_running() else idle_looks + 1


_LAST_WAIT_S = 5.0
_LOOK_S, _IDLE_LOOKS = 0.003, 4
"""How often to look, and how often in a row nothing must be seen."""

_THREADS = b"tokio"
"""How the names of DataFusion's threads begin."""


def _is_running() -> bool:
    """Return whether one of DataFusion's threads has something to do."""
    for task in os.scandir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it ended
            with open(f"{task.path}/stat", "rb") as file:
                _, _, rest = file.read().partition(b"(")
            name, _, after = rest.rpartition(b")")
            if name.startswith(_THREADS) and after.split()[0] in (b"R", b"D"):
                return True
    return False


_guests = _Guests()


class PondTable(ds.Dataset):  # type: ignore[misc]  # pyarrow has no types
    """A table whose pieces are known when it is planned, and read when it runs."""

    def __init__(
        self, schema: pa.Schema, pieces: Callable[[Filter], Sequence[Piece]], failed: Failed
    ) -> None:
        """Take over *pieces*: what has to be read for a filter; called once for each plan."""
        self._schema = schema
        self._pieces = pieces
        self._failed = failed

    @property
    def schema(self) -> pa.Schema:
        """Return the columns."""
        return self._schema

    def get_fragments(self, filter: Any = None) -> list["_Fragment"]:  # noqa: A002
        """Return the pieces that may hold rows for *filter*."""
        try:
            found = self._pieces(exact(filter))
        except BaseException as error:
            self._failed(error)
            raise
        # A plan over no piece at all is one that DataFusion refuses to sort.
        return [_Fragment(piece, self._failed) for piece in found or [lambda _: ()]]

    def scanner(self, columns: list[str] | None = None, **_: Any) -> "_Scanner":
        """Return what tells the schema of *columns*: DataFusion reads by the fragments."""
        return _Scanner(self._schema, columns, iter(()))


class _Fragment:
    def __init__(self, piece: Piece, failed: Failed) -> None:
        self._piece = piece
        self._failed = failed

    def scanner(
        self,
        schema: pa.Schema,
        columns: list[str] | None = None,
        filter: Any = None,  # noqa: A002
        batch_size: int = 8192,
    ) -> "_Scanner":
        names = schema.names if columns is None else columns
        return _Scanner(schema, names, self._batches(Ask(names, exact(filter), batch_size)))

    def _batches(self, ask: Ask) -> Iterator[pa.RecordBatch]:
        try:
            yield from _guests.batches(self._piece, ask)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failed(error)
            raise


class _Scanner:
    def __init__(
        self, schema: pa.Schema, columns: list[str] | None, batches: Iterator[pa.RecordBatch]
    ) -> None:
        names = schema.names if columns is None else columns
        self.projected_schema = pa.schema([schema.field(name) for name in names])
        self._batches = batches

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        return self._batches


def exact(expression: Any) -> Filter:
    """Return a filter of DataFusion's as SQL means it.

    For SQL ``null NOT IN (…)`` is null, but DataFusion asks Arrow for a membership in which nulls
    take part. The text of an expression can't be changed, so it is done in how it is pickled.
    """
    if expression is None or isinstance(expression, pc.Expression):
        if expression is None or "is_in(" not in str(expression):
            return expression
    else:
        # A filter without a column; null is of a type of its own unless one is said.
        return pc.scalar(pa.scalar(expression.as_py(), pa.bool_()))
    rebuild, (data,) = expression.__reduce__()
    batch = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0)
    for at, field in enumerate(batch.schema):
        if pa.types.is_struct(field.type) and field.type.get_field_index(_NULLS) >= 0:
            parts = [
                pa.array([_EMIT_NULL], part.type)
                if part.name == _NULLS
                else batch.column(at).field(part.name)
                for part in field.type
            ]
            options = pa.StructArray.from_arrays(parts, fields=list(field.type))
            batch = batch.set_column(at, field, options)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return rebuild(sink.getvalue())


_NULLS = "null_matching_behavior"


def batches_of(table: pa.Table, ask: Ask) -> Iterator[pa.RecordBatch]:
    """Yield what is asked of a table in memory."""
    if ask.filter is not None:
        table = table.filter(ask.filter)
    for batch in table.select(ask.columns).to_batches(max_chunksize=ask.batch_rows):
        yield _own(batch)


def _own(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return *batch* with memory of its own, when it is a small part of much.

    DataFusion takes a part's memory to be all of it, and what sorts or joins would soon have none.
    """
    if batch.get_total_buffer_size() < 2 * batch.nbytes + _SMALL_BYTES:
        return batch
    if any(pa.types.is_nested(kind) or pa.types.is_dictionary(kind) for kind in batch.schema.types):
        return batch.take(pa.array(range(batch.num_rows)))
    return pa.ipc.read_record_batch(batch.serialize(), batch.schema)


_SMALL_BYTES = 64 << 10


class LoadedTable:
    """Pieces of a table that is loaded when it is first read, as far as its columns are asked for.

    Called with a filter it returns the pieces, which share what is loaded.
    """

    def __init__(
        self, schema: pa.Schema, load: Callable[[frozenset[str]], pa.Table], parts: int = 1
    ) -> None:
        """Take *load*: it gets the columns that are needed, and returns a table with these."""
        self._names = frozenset(schema.names)
        self._load = load
        self._parts = parts

    def __call__(self, _: Filter) -> list[Piece]:
        """Return the pieces."""
        lock = threading.Lock()
        known: dict[frozenset[str], pa.Table] = {}

        def once(columns: frozenset[str]) -> pa.Table:
            with lock:
                if columns not in known:
                    known[columns] = self._load(columns)
                return known[columns]

        def piece(number: int) -> Piece:
            def read(ask: Ask) -> Iterator[pa.RecordBatch]:
                table = once(frozenset(ask.columns) | self._looked_at(ask.filter))
                start, stop = (table.num_rows * at // self._parts for at in (number, number + 1))
                return batches_of(table.slice(start, stop - start), ask)

            return read

        return [piece(number) for number in range(self._parts)]

    def _looked_at(self, expression: Filter) -> frozenset[str]:
        """Return the columns a filter needs, and perhaps one more that its text has a word of."""
        return self._names.intersection(
            re.findall(r"\w+", "" if expression is None else str(expression))
        )
