"""Tables that are text: CSV and JSON lines, whose types are nowhere written.

They are inferred from the whole file, so that a column that looks like numbers for a million rows
and then is not is text from the first row on. That reads a file twice; what was found is kept by
who asks. Nothing is dropped or made null that the file does not leave empty.
"""

import io
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from pondfs.query.source import Source

CSV_BLOCK_BYTES = 4 << 20
"""What is parsed at a time; the longest row there may be."""

JSON_CHUNK_BYTES = 8 << 20
"""What is parsed at a time, to the end of its last line."""

_MISFIT = re.compile(r"In CSV column #(\d+): .*?conversion error to (.+?): (.*)", re.DOTALL)
_VALUE = re.compile(r"'(.*)'\s*$", re.DOTALL)


class Csv:
    """CSV, and the like with another delimiter. Quoted values may span lines."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def look(self, source: Source, *, count: bool) -> tuple[pa.Schema, int | None]:
        """As `Format.look`."""
        names = self._names(source)
        if source.options.all_text and not count:
            return pa.schema([(name, pa.string()) for name in names]), None
        types = dict.fromkeys(names, pa.string()) if source.options.all_text else {}
        while True:
            rows = 0
            try:
                with self._open(source, names, types, names) as reader:
                    schema = reader.schema
                    for batch in reader:
                        rows += batch.num_rows
            except pa.ArrowInvalid as error:
                name, had, value = self._misfit(source, names, error)
                types[name] = had if had is None else _wider(had, value)
                continue
            break
        fields = []
        for field in schema:
            if pa.types.is_binary(field.type):
                raise source.wrong(_not_text(field.name))
            # Of a column that is empty throughout, nothing is known.
            fields.append(field.with_type(pa.string()) if pa.types.is_null(field.type) else field)
        return pa.schema(fields), rows

    def read(
        self, source: Source, schema: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """As `Format.read`."""
        types = dict(zip(schema.names, schema.types, strict=True))
        try:
            # Without any, all would be read.
            with self._open(source, schema.names, types, columns or schema.names[:1]) as reader:
                for batch in reader:
                    yield batch.select(columns)
        except pa.ArrowInvalid as error:
            name, had, value = self._misfit(source, schema.names, error)
            raise source.wrong(
                f"{value!r} in column '{name}' is no {had}: did it change just now? "
                "all_text => true reads every column as text"
            ) from error

    def _misfit(
        self, source: Source, names: list[str], error: Exception
    ) -> tuple[str, pa.DataType, str]:
        """Return the column that did not fit, the type it had, and the value.

        Raises: *error* when it was something else.
        """
        found = _MISFIT.search(str(error))
        if found is None:
            raise error
        name = names[int(found[1])]
        if "UTF8" in found[3]:
            raise source.wrong(_not_text(name)) from error
        value = _VALUE.search(found[3])
        return name, _TYPES.get(found[2], pa.string()), value[1] if value else found[3]

    def _names(self, source: Source) -> list[str]:
        """Return the columns' names, each once: a second ``a`` becomes ``a_1``."""
        with source.open_stream() as file:
            reader = pa.csv.open_csv(
                file,
                pa.csv.ReadOptions(
                    block_size=CSV_BLOCK_BYTES,
                    encoding=source.options.encoding,
                    autogenerate_column_names=not source.options.header,
                ),
                self._parsing(source),
            )
            found = reader.schema.names if source.options.header else [""] * len(reader.schema)
        names: dict[str, None] = {}
        for number, name in enumerate(found, 1):
            name = plain = name or f"column_{number}"
            again = 0
            while name in names or (again and name in found):
                again += 1
                name = f"{plain}_{again}"
            names[name] = None
        return list(names)

    def _open(
        self, source: Source, names: list[str], types: dict[str, pa.DataType], columns: list[str]
    ) -> pa.csv.CSVStreamingReader:
        options = source.options
        return pa.csv.open_csv(
            source.open_stream(),
            pa.csv.ReadOptions(
                block_size=CSV_BLOCK_BYTES,
                encoding=options.encoding,
                column_names=names,
                skip_rows_after_names=1 if options.header else 0,
            ),
            self._parsing(source),
            pa.csv.ConvertOptions(
                column_types=types,
                include_columns=columns,
                # Not the usual dozen: an 'NA' may be a name.
                null_values=["", options.nulls],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _parsing(self, source: Source) -> pa.csv.ParseOptions:
        return pa.csv.ParseOptions(
            delimiter=source.options.delimiter or self._delimiter, newlines_in_values=True
        )


def _not_text(name: str) -> str:
    return f"column '{name}' is no UTF-8: say encoding => 'latin-1', or what it is"


_TYPES = {
    str(kind): kind
    for kind in (
        pa.null(), pa.int64(), pa.bool_(), pa.date32(), pa.time32("s"), pa.float64(),
        pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"),
    )
}  # fmt: skip
"""What is inferred from text, by its name in messages."""


def _wider(had: pa.DataType, value: str) -> pa.DataType:
    """Return the narrowest type for what was a *had* until *value* came; text if there is none."""
    text = b'"%s"\n' % value.encode().replace(b'"', b'""')
    options = pa.csv.ReadOptions(column_names=["value"])
    try:
        new = pa.csv.read_csv(io.BytesIO(text), options).schema.types[0]
    except pa.ArrowInvalid:
        return pa.string()
    if pa.types.is_null(had):
        wider = new
    elif {had, new} == {pa.int64(), pa.float64()}:
        wider = pa.float64()
    elif pa.types.is_timestamp(had) and pa.types.is_timestamp(new) and had.tz == new.tz:
        wider = pa.timestamp("ns", had.tz)
    elif had == pa.date32() and new in (pa.timestamp("s"), pa.timestamp("ns")):
        wider = new
    else:
        wider = pa.string()
    return pa.string() if wider in (had, pa.null()) else wider


class JsonLines:
    """JSON lines: an object on each."""

    def look(self, source: Source, *, count: bool) -> tuple[pa.Schema, int | None]:
        """As `Format.look`."""
        schema = pa.schema([])
        rows = 0
        for first_line, chunk in _chunks(source):
            table = self._parse(source, first_line, chunk, pa.json.ParseOptions())
            rows += table.num_rows
            schema = self._join(source, schema, table.schema)
        if not len(schema):
            raise source.wrong("there is no object in it")
        return pa.schema([_known(field) for field in schema]), rows

    def read(
        self, source: Source, schema: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """As `Format.read`."""
        wanted = pa.schema([schema.field(name) for name in columns or schema.names[:1]])
        options = pa.json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore")
        for first_line, chunk in _chunks(source):
            table = self._parse(source, first_line, chunk, options)
            for batch in table.to_batches():
                yield batch.select(columns)

    def _parse(
        self, source: Source, first_line: int, chunk: bytes, options: pa.json.ParseOptions
    ) -> pa.Table:
        try:
            return pa.json.read_json(
                pa.BufferReader(chunk), pa.json.ReadOptions(block_size=len(chunk) + 1), options
            )
        except pa.ArrowInvalid as error:
            hint = ""
            if chunk.lstrip().startswith(b"["):
                hint = " (it looks like one array; an object on each line is needed)"
            raise source.wrong(f"from line {first_line} on, {error}{hint}") from error

    def _join(self, source: Source, some: pa.Schema, other: pa.Schema) -> pa.Schema:
        fields = {field.name: field for field in some}
        for field in other:
            known = fields.get(field.name, field)
            if known.type != field.type and _are_text(known.type, field.type):
                # A text that looked like a time until now.
                fields[field.name] = known.with_type(pa.string())
                continue
            try:
                fields[field.name] = pa.unify_schemas(
                    [pa.schema([known]), pa.schema([field])], promote_options="permissive"
                ).field(0)
            except pa.ArrowException as error:
                raise source.wrong(
                    f"column '{field.name}' is {known.type} first and {field.type} later"
                ) from error
        return pa.schema(list(fields.values()))


def _are_text(some: pa.DataType, other: pa.DataType) -> bool:
    return {str(some), str(other)} <= {"string", "timestamp[s]", "timestamp[ns]"}


def _known(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if pa.types.is_null(field.type) else field


def _chunks(source: Source) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, with the number of the first; blank lines at the edges may be missing."""
    line = 1
    with source.open_stream() as stream, io.BufferedReader(stream, JSON_CHUNK_BYTES) as file:
        while chunk := file.read(JSON_CHUNK_BYTES):
            chunk += file.readline()
            if not chunk.isspace():
                yield line, chunk
            line += chunk.count(b"\n")
