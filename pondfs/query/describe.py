"""What a file that holds a table says of itself: its columns and how many rows."""

from dataclasses import dataclass

from pondfs.query.expand import Files
from pondfs.query.formats import look
from pondfs.query.source import Options, formats_of, make_source


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table in a file.

    Attributes:
        format: ``csv``, ``tsv``, ``parquet``, ``arrow`` or ``json``.
        codec: ``gzip``, ``bz2``, ``zstd``, ``lz4`` or ``xz``; None when it is not compressed.
        columns: names and types, in the file's order.
        rows: how many.
    """

    format: str
    codec: str | None
    columns: list[tuple[str, str]]
    rows: int


def describe_table(tree: Files, name: bytes, where: bytes) -> TableFacts | None:
    """Return what regular file *name* holds; None if its name does not say that it is a table.

    Of Parquet and uncompressed Arrow files it is in the footer; others are read to the end.

    Args:
        tree: where the file is.
        name: its path as it is called.
        where: its path with symlinks followed.
    Raises: UsageError for a file that is not what its name says; StoreDamaged, OSError.
    """
    if formats_of(name)[0] is None:
        return None
    source = make_source(tree, name, where, Options())
    schema, rows = look(source, count=True)
    assert rows is not None, source
    columns = [(field.name, str(field.type)) for field in schema]
    return TableFacts(source.format, source.codec, columns, rows)
