"""What each format does: say the columns and rows of a file, and read some of its columns."""

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from pondfs.query.source import Source
from pondfs.query.text import Csv, JsonLines

_FILE_MAGIC = b"ARROW1"
_FRAME_BYTES = 8
"""The magic and what fills up the word."""


class Format(Protocol):
    """One way to hold a table in a file. Errors are those of pyarrow: see `Source.telling`."""

    def look(self, source: Source, *, count: bool) -> tuple[pa.Schema, int | None]:
        """Return the columns and, if it costs nothing more or *count*, the number of rows."""

    def read(
        self, source: Source, schema: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield *columns*, of which there may be none.

        Args:
            source: what to read.
            schema: the file's, as `look` returned it.
            columns: names in *schema*, in its order.
        """


class Parquet:
    """Parquet: the footer says all."""

    def look(self, source: Source, *, count: bool) -> tuple[pa.Schema, int | None]:
        """As `Format.look`."""
        with source.open() as file:
            fragment = ds.ParquetFileFormat().make_fragment(file)
            return fragment.physical_schema.remove_metadata(), fragment.metadata.num_rows

    def read(
        self, source: Source, schema: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """As `Format.read`."""
        yield from self.scan(source, schema, columns, None)

    def scan(
        self,
        source: Source,
        schema: pa.Schema,
        columns: list[str],
        expression: ds.Expression | None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield *columns* of the rows for which a filter is true, whose types are the file's.

        Row groups that can't have any are not read; a column in *schema* that the file has not is
        null.
        """
        fragment = ds.ParquetFileFormat().make_fragment(source.open())
        yield from fragment.scanner(
            schema=schema, columns=columns, filter=expression, batch_size=BATCH_ROWS
        ).to_batches()


BATCH_ROWS = 1 << 17
"""In DataFusion's own batches of 8,192 rows, handing them over takes as long as decoding them."""


class Arrow:
    """Arrow IPC: a file, or a stream."""

    def look(self, source: Source, *, count: bool) -> tuple[pa.Schema, int | None]:
        """As `Format.look`."""
        if source.codec is None and count and _is_file(source):
            with source.open() as file:
                fragment = ds.IpcFileFormat().make_fragment(file)
                return fragment.physical_schema.remove_metadata(), fragment.count_rows()
        with _stream(source) as file, pa.ipc.open_stream(file) as stream:
            rows = sum(batch.num_rows for batch in stream) if count else None
            return stream.schema.remove_metadata(), rows

    def read(
        self, source: Source, schema: pa.Schema, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """As `Format.read`."""
        # Without any, all would be read.
        fields = [schema.names.index(name) for name in columns] or [0]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        if source.codec is None and _is_file(source):
            with source.open() as file, pa.ipc.open_file(file, options=options) as batches:
                for number in range(batches.num_record_batches):
                    yield batches.get_batch(number).select(columns)
            return
        with _stream(source) as file, pa.ipc.open_stream(file, options=options) as stream:
            for batch in stream:
                yield batch.select(columns)


def _is_file(source: Source) -> bool:
    with source.open_stream() as file:
        return bool(file.read(len(_FILE_MAGIC)) == _FILE_MAGIC)


def _stream(source: Source) -> pa.NativeFile:
    """Return a file where the stream begins, of which an IPC file is one with a frame around it."""
    skip = _FRAME_BYTES if _is_file(source) else 0
    file = source.open_stream()
    file.read(skip)
    return file


def look(source: Source, *, count: bool) -> tuple[pa.Schema, int | None]:
    """Return the columns of a file and, with *count*, the number of its rows.

    Raises: UsageError for a file that is not what it should be; NoSuchPath, StoreDamaged, OSError.
    """
    with source.telling():
        if not source.tree.lstat(source.where).size_bytes:
            raise source.wrong("it is empty")
        return FORMATS[source.format].look(source, count=count)


FORMATS: dict[str, Format] = {
    "csv": Csv(","),
    "tsv": Csv("\t"),
    "parquet": Parquet(),
    "arrow": Arrow(),
    "json": JsonLines(),
}
