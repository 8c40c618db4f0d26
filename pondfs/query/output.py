"""Results as files and streams: batch by batch, so that memory does not follow their length.

What a format has no word for is text: times are ISO 8601, binary values are hex digits after a
backslash and an x in CSV and base64 in JSON, decimals in JSON are strings, so that they stay exact.
"""

import base64
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from pondfs.errors import UsageError

Show = Callable[[bytes], str]

_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 64 << 20
"""A Parquet row group has up to so many rows and bytes: a batch alone would make a poor one."""


class Writer(ABC):
    """Writes one result: `write` each batch, then `close`."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch."""

    @abstractmethod
    def close(self) -> None:
        """Write what ends it; the sink stays open."""


def write_result(writer: Writer, batches: Iterable[pa.RecordBatch]) -> int:
    """Write all of a result and end it; return how many rows it has.

    Raises: UsageError for types that the format does not have; OSError as the sink says.
    """
    rows = 0
    try:
        for batch in batches:
            writer.write(batch)
            rows += batch.num_rows
        writer.close()
    except pa.ArrowNotImplementedError as error:
        raise _cannot_hold("the format", error) from error
    return rows


def open_writer(form: str, sink: BinaryIO, schema: pa.Schema, *, seekable: bool) -> Writer:
    """Return what writes *form*: ``csv`` ``json`` ``ndjson`` ``parquet`` ``arrow``.

    Arrow is the IPC file format (Feather 2) where *sink* is *seekable*, a file; else the stream.
    """
    if form == "csv":
        return _Csv(sink, schema)
    if form in ("json", "ndjson"):
        return _Json(sink, schema, lines=form == "ndjson")
    try:
        return _Parquet(sink, schema) if form == "parquet" else _Arrow(sink, schema, seekable)
    except pa.ArrowNotImplementedError as error:
        raise _cannot_hold(form, error) from error


def _cannot_hold(what: str, error: Exception) -> UsageError:
    return UsageError(f"{what} can't hold it ({error}): cast the column in the query")


class _Csv(Writer):
    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        kinds = [plain(pa.nulls(0, field.type), _hex).type for field in schema]
        self._flat = [_is_nested(kind) for kind in kinds]
        kinds = [pa.string() if flat else k for k, flat in zip(kinds, self._flat, strict=True)]
        self._schema = pa.schema(list(zip(schema.names, kinds, strict=True)))
        self._writer = csv.CSVWriter(sink, self._schema)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [plain(column, _hex) for column in batch.columns]
        for at, flat in enumerate(self._flat):
            if flat:
                values = [None if v is None else _dumps(v) for v in columns[at].to_pylist()]
                columns[at] = pa.array(values, pa.string())
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


class _Json(Writer):
    def __init__(self, sink: BinaryIO, schema: pa.Schema, *, lines: bool) -> None:
        self._sink = sink
        self._names = _distinct(schema.names)
        self._lines = lines
        self._is_first = True

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [plain(column, _base64).to_pylist() for column in batch.columns]
        rows = zip(*columns, strict=True) if columns else ((),) * batch.num_rows
        texts = [_dumps(dict(zip(self._names, row, strict=True))) for row in rows]
        if not texts:
            return
        if self._lines:
            text = "\n".join(texts) + "\n"
        else:
            text = ("[\n" if self._is_first else ",\n") + ",\n".join(texts)
        self._is_first = False
        self._sink.write(text.encode())

    def close(self) -> None:
        if not self._lines:
            self._sink.write(b"[]\n" if self._is_first else b"\n]\n")


class _Arrow(Writer):
    def __init__(self, sink: BinaryIO, schema: pa.Schema, seekable: bool) -> None:
        self._schema = portable(schema)
        new = pa.ipc.new_file if seekable else pa.ipc.new_stream
        self._writer = new(_KeptOpen(sink), self._schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch.cast(self._schema))

    def close(self) -> None:
        self._writer.close()


class _Parquet(Writer):
    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        self._schema = portable(schema)
        self._writer = pq.ParquetWriter(_KeptOpen(sink), self._schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch.cast(self._schema))
        self._rows += batch.num_rows
        self._bytes += batch.get_total_buffer_size()
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        self._waiting = []
        self._rows = self._bytes = 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _KeptOpen:
    """A sink that Arrow may close as it likes."""

    closed = False

    def __init__(self, sink: BinaryIO) -> None:
        self.write = sink.write
        self.flush = sink.flush


# --- values ---------------------------------------------------------------------------------------


def portable(schema: pa.Schema) -> pa.Schema:
    """Return *schema* with types that any reader knows: DataFusion likes views."""
    return pa.schema([field.with_type(_portable(field.type)) for field in schema])


def _portable(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_portable(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_portable(field.type)) for field in kind])
    return kind


def plain(array: pa.Array, show: Show) -> pa.Array:
    """Return *array* with no other leaves than bools, numbers and text.

    Args:
        array: of any type.
        show: makes text of a binary value.
    """
    kind = array.type
    types = pa.types
    if types.is_dictionary(kind):
        return plain(array.dictionary_decode(), show)
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return array
    if types.is_string(kind) or types.is_large_string(kind):
        return array
    if types.is_timestamp(kind):
        text = pc.cast(array, pa.string())
        return pc.replace_substring(text, " ", "T", max_replacements=1)
    if types.is_duration(kind):
        return pc.binary_join_element_wise(pc.cast(array, pa.string()), kind.unit, " ")
    if (
        types.is_date(kind)
        or types.is_time(kind)
        or types.is_decimal(kind)
        or types.is_string_view(kind)
        or types.is_null(kind)
    ):
        return pc.cast(array, pa.string())
    if types.is_map(kind):
        pairs = pa.struct([kind.key_field, kind.item_field])
        return plain(array.cast(pa.list_(pairs)), show)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        # Of a slice the offsets can't be taken over.
        lengths = pc.cast(pc.fill_null(pc.list_value_length(array), 0), pa.int64())
        offsets = pa.concat_arrays([pa.array([0]), pc.cumulative_sum(lengths)])
        values = plain(array.flatten(), show)
        return pa.LargeListArray.from_arrays(offsets, values, mask=pc.is_null(array))
    if types.is_struct(kind):
        parts = [plain(part, show) for part in array.flatten()]
        return pa.StructArray.from_arrays(
            parts, names=[field.name for field in kind], mask=pc.is_null(array)
        )
    is_binary = (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )
    to_text: Callable[[Any], str] = show if is_binary else _interval
    return pa.array([None if v is None else to_text(v) for v in array.to_pylist()], pa.string())


def _interval(value: Any) -> str:
    """Return an interval as ISO 8601 has it: ``P1M2DT0.5S``; anything else as Python has it."""
    if not isinstance(value, pa.MonthDayNano):
        return str(value)
    months, days, nanoseconds = value
    seconds = f"{nanoseconds / 1e9:.9f}".rstrip("0").rstrip(".")
    return f"P{months}M{days}DT{seconds}S"


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _hex(value: bytes) -> str:
    return "\\x" + value.hex()


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _distinct(names: list[str]) -> list[str]:
    """Return *names* so that no two are the same: an object can't have a key twice."""
    taken = set(names)
    found: list[str] = []
    for name in names:
        number, free = 2, name
        while free in found or (free != name and free in taken):
            free, number = f"{name}_{number}", number + 1
        found.append(free)
    return found


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    """Return *value* with null for what JSON has no number for: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return value
