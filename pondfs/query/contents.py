"""Tables that are files of the pond: ``read('/sensors/*.csv')`` and ``'/sensors/a.csv'``."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
from datafusion import Expr
from datafusion.catalog import Table

from pondfs.errors import UsageError
from pondfs.query.dataset import Ask, Filter, Piece, PondTable, batches_of
from pondfs.query.expand import Files, find_files
from pondfs.query.formats import BATCH_ROWS, FORMATS, Parquet, look
from pondfs.query.rewrite import MARK
from pondfs.query.source import Options, Source, make_source

PATH = "path"
"""What the column that tells the file is called, when it is asked for by ``path => true``."""

SCHEMAS_KEPT = 10_000
"""Files of which a session remembers the columns."""


class Trees(Protocol):
    """What is needed of a session."""

    def tree(self, at: str | None) -> Files:
        """Return the tree at *at*, or as the session has it; the session closes it."""

    def failed(self, error: BaseException) -> None:
        """Be told of what went wrong: DataFusion only passes on a text of it."""


@dataclass(frozen=True, slots=True)
class _File:
    source: Source
    schema: pa.Schema

    @property
    def path(self) -> str:
        return "/" + self.source.name.decode("utf-8", "backslashreplace")


class Contents:
    """The files of a session's trees as tables. Thread-safe."""

    def __init__(self, session: Trees) -> None:
        self._session = session
        self._known: dict[object, pa.Schema] = {}
        self._lock = threading.Lock()

    def read(self, *args: Expr) -> Table:
        """Return the table that ``read(…)`` means, as a table function of DataFusion.

        Raises: UsageError, NoSuchPath, NoSuchVersion, StoreDamaged, OSError.
        """
        return self._table(*_arguments([_value(argument) for argument in args]))

    def table(self, name: str) -> Table | None:
        """Return the table that a quoted path means; None when *name* is no path.

        Raises: as `read`.
        """
        if not name.startswith("/"):
            return None
        try:
            return self._table([name], {})
        except BaseException as error:
            self._session.failed(error)
            raise

    def _look(self, source: Source) -> pa.Schema:
        info = source.tree.lstat(source.where)
        # A node never has the same times with other bytes, in no version.
        key = (info.ino, info.size_bytes, info.mtime_ns, info.ctime_ns, source.format, source.codec,
               source.options)  # fmt: skip
        with self._lock:
            found = self._known.get(key)
        if found is None:
            found, _ = look(source, count=False)
            with self._lock:
                if len(self._known) >= SCHEMAS_KEPT:
                    self._known.clear()
                self._known[key] = found
        return found

    def _table(self, paths: list[str], named: dict[str, Any]) -> Table:
        options, at, path_column = _options(named)
        tree = self._session.tree(at)
        found = [file for path in paths for file in find_files(tree, path)]
        sources = [make_source(tree, name, where, options) for name, where in found]
        files = [_File(source, self._look(source)) for source in sources]
        schema = unify(files)
        if path_column is not None:
            if path_column in schema.names:
                raise UsageError(
                    f"there is a column '{path_column}' in the files: call the one for their paths "
                    "otherwise, such as path => 'file'"
                )
            schema = schema.append(pa.field(path_column, pa.string()))
        reading = Reading(files, schema, path_column)
        return Table(PondTable(schema, reading.pieces, self._session.failed))


def _value(argument: Expr) -> Any:
    try:
        value = argument.python_value()
    except Exception:
        raise UsageError(
            "read() takes texts, numbers, true and false: see docs/reference/sql-files.md"
        ) from None
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _arguments(values: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the paths, and the arguments that have a name: see `rewrite`."""
    paths: list[str] = []
    named: dict[str, Any] = {}
    todo = iter(values)
    for value in todo:
        if isinstance(value, str) and value.endswith(MARK):
            name = value.removesuffix(MARK)
            if name in named:
                raise UsageError(f"read() has two arguments {name}")
            named[name] = next(todo, None)
        elif isinstance(value, str):
            paths.append(value)
        else:
            raise UsageError(f"read() takes paths, and arguments with a name: not {value!r}")
    if not paths:
        raise UsageError("read() takes a path, such as read('/sensors/*.csv')")
    return paths, named


_KINDS: dict[str, tuple[type, ...]] = {
    "at": (str, int), "path": (bool, str), "format": (str,), "header": (bool,), "delimiter": (str,),
    "nulls": (str,), "encoding": (str,), "all_text": (bool,),
}  # fmt: skip


_CALLED: dict[type, str] = {str: "a text", int: "a number", bool: "true or false"}


def _options(named: dict[str, Any]) -> tuple[Options, str | None, str | None]:
    """Return how to read, when, and the name of the column with the path. Raises: UsageError."""
    for name, value in named.items():
        kinds = _KINDS.get(name)
        if kinds is None:
            raise UsageError(f"read() knows no {name}: it knows {', '.join(_KINDS)}")
        if type(value) not in kinds:
            takes = " or ".join(_CALLED[kind] for kind in kinds)
            raise UsageError(f"read()'s {name} is {takes}, not {value!r}")
    rest = dict(named)
    at, path = rest.pop("at", None), rest.pop("path", False)
    options = Options(**rest)
    if options.format is not None and options.format not in FORMATS:
        raise UsageError(f"there is no format '{options.format}': there are {', '.join(FORMATS)}")
    if options.delimiter is not None and len(options.delimiter.encode()) != 1:
        raise UsageError(f"read()'s delimiter is one ASCII character, not '{options.delimiter}'")
    try:
        "".encode(options.encoding)
    except LookupError:
        raise UsageError(f"there is no encoding '{options.encoding}'") from None
    column = PATH if path is True else path or None
    return options, None if at is None else str(at), column


# --- one schema for all ---------------------------------------------------------------------------


def unify(files: Sequence[_File]) -> pa.Schema:
    """Return all columns of all *files*, each with the widest of its types.

    Raises: UsageError naming the column and a file of each kind.
    """
    found: dict[str, tuple[pa.Field, _File]] = {}
    for file in files:
        if len(set(file.schema.names)) < len(file.schema):
            raise file.source.wrong("two columns have the same name")
        for field in file.schema:
            known, first = found.get(field.name, (field, file))
            if known.type != field.type:
                try:
                    known = _unify(known, field)
                except pa.ArrowException:
                    is_text = file.source.format in ("csv", "tsv")
                    raise UsageError(
                        f"column '{field.name}' is {known.type} in {first.source.label} and "
                        f"{field.type} in {file.source.label}: read them one by one and cast"
                        + (", or say all_text => true" if is_text else "")
                    ) from None
            found[field.name] = known.with_nullable(True), first
    return pa.schema([field for field, _ in found.values()])


def _unify(some: pa.Field, other: pa.Field) -> pa.Field:
    both = [
        # Another file's dictionary is another one.
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in (some, other)
    ]
    if {both[0].type, both[1].type} <= {pa.date32(), pa.timestamp("s"), pa.timestamp("ns")}:
        return some.with_type(max((field.type for field in both), key=str))
    schemas = [pa.schema([field]) for field in both]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0)


# --- reading --------------------------------------------------------------------------------------


class Reading:
    """Files as the pieces of one table. *schema* has all their columns, and maybe one for paths."""

    def __init__(self, files: Sequence[_File], schema: pa.Schema, path_column: str | None) -> None:
        self._files = files
        self._schema = schema
        self._path_column = path_column

    def pieces(self, _: Filter) -> list[Piece]:
        """Return as many as there are processors, each for some of the files in their order.

        One for each file would have DataFusion open them all at once.
        """
        count = min(len(self._files), os.cpu_count() or 1)
        cuts = [len(self._files) * number // count for number in range(count + 1)]
        return [self._piece(self._files[start:stop]) for start, stop in itertools.pairwise(cuts)]

    def _piece(self, files: Sequence[_File]) -> Piece:
        def read(ask: Ask) -> Iterator[pa.RecordBatch]:
            ask = replace(ask, batch_rows=max(ask.batch_rows, BATCH_ROWS))
            for file in files:
                with file.source.telling():
                    yield from self._read(file, ask)

        return read

    def _read(self, file: _File, ask: Ask) -> Iterator[pa.RecordBatch]:
        # The text of a filter has the names of its columns; one that is there by chance is read in
        # vain.
        expression: Any = ask.filter
        text = "" if expression is None else str(expression)
        needed = pa.schema(
            [field for field in self._schema if field.name in ask.columns or field.name in text]
        )
        present = [field for field in file.schema if field.name in needed.names]
        is_same = all(needed.field(field.name).type == field.type for field in present)
        form = FORMATS[file.source.format]
        if isinstance(form, Parquet) and is_same and self._path_column not in needed.names:
            yield from form.scan(file.source, self._schema, ask.columns, expression)
            return
        batches = self._conformed(
            file, needed, form.read(file.source, file.schema, [field.name for field in present])
        )
        for batch in batches:
            # Not by a scanner over all of them: it would have Arrow's threads wait for batches that
            # take Arrow's threads to be made.
            if expression is None:
                yield batch.select(ask.columns)
            else:
                yield from batches_of(pa.Table.from_batches([batch]), ask)

    def _conformed(
        self, file: _File, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        """Yield *batches* with the columns of *schema*."""
        makers = [self._column(file, field) for field in schema]
        for batch in batches:
            columns = [make(batch) for make in makers]
            if columns:
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
            else:
                yield batch

    def _column(self, file: _File, field: pa.Field) -> Callable[[pa.RecordBatch], pa.Array]:
        name = field.name
        if name == self._path_column:
            return lambda batch: pa.repeat(file.path, batch.num_rows)
        if name not in file.schema.names:
            return lambda batch: pa.nulls(batch.num_rows, field.type)

        def cast(batch: pa.RecordBatch) -> pa.Array:
            column = batch.column(name)
            if column.type == field.type:
                return column
            try:
                return column.cast(field.type)
            except pa.ArrowInvalid as error:
                raise UsageError(
                    f"column '{name}' of {file.source.label} is no {field.type}, as in other "
                    f"files: {error}"
                ) from error

        return cast
