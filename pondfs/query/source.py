"""One file that holds a table: how it is called, opened, decompressed; what goes wrong."""

import contextlib
import io
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pondfs.errors import PondError, UsageError
from pondfs.query.expand import Files
from pondfs.store.tree import shown

FORMATS = {
    "csv": "csv", "tsv": "tsv", "tab": "tsv", "parquet": "parquet", "pq": "parquet",
    "arrow": "arrow", "arrows": "arrow", "feather": "arrow", "ipc": "arrow",
    "json": "json", "jsonl": "json", "ndjson": "json",
}  # fmt: skip
"""What the end of a name says of a file."""

CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4", "xz": "xz"}

_DECOMPRESSED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a file, where its name does not say so.

    Attributes:
        format: ``csv``, ``tsv``, ``parquet``, ``arrow`` or ``json``; None: as the name says.
        header: whether the first row of a CSV has the columns' names.
        delimiter: what stands between the values of a CSV; None: as the format has it.
        nulls: what stands for null in a CSV, besides nothing.
        encoding: of a CSV.
        all_text: take every column of a CSV as text.
    """

    format: str | None = None
    header: bool = True
    delimiter: str | None = None
    nulls: str = ""
    encoding: str = "utf8"
    all_text: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file.

    Attributes:
        tree: where it is.
        name: its path as it was asked for, without the leading slash.
        where: its path with symlinks followed.
        format: one of the values of `FORMATS`.
        codec: one of the values of `CODECS`; None when it is not compressed.
        options: how to read it.
    """

    tree: Files = field(repr=False)
    name: bytes
    where: bytes
    format: str
    codec: str | None
    options: Options

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"'/{shown(self.name)}'"

    def open(self) -> pa.NativeFile:
        """Return the bytes for reading anywhere in them, decompressed.

        What is compressed goes into a temporary file without a name first.

        Raises: NoSuchPath, UsageError, StoreDamaged, OSError.
        """
        if self.codec is None:
            return _native(self.tree.open(self.where))
        with tempfile.TemporaryFile() as spool, self.open_stream() as stream:
            shutil.copyfileobj(stream, spool, _DECOMPRESSED_BYTES)
            spool.flush()
            return pa.OSFile(f"/proc/self/fd/{spool.fileno()}")

    def open_stream(self) -> pa.NativeFile:
        """Return the bytes for reading from the start, decompressed. Raises: as `open`."""
        raw = self.tree.open(self.where)
        if self.codec is None:
            return _native(raw)
        if self.codec == "xz":
            return pa.PythonFile(_Xz(io.BufferedReader(raw, _DECOMPRESSED_BYTES)), "r")
        return pa.CompressedInputStream(_native(raw), self.codec)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Turn what is wrong with the content into one line that names the file.

        Raises: UsageError; PondError and what the system says as they are.
        """
        try:
            yield
        except PondError:
            raise
        except OSError as error:
            if error.errno is not None:
                # As it is, but for a path that may be one into /proc.
                error.filename = "/" + shown(self.name)
                raise
            raise self.wrong(error) from error
        except (pa.ArrowException, EOFError, lzma.LZMAError, UnicodeError) as error:
            raise self.wrong(error) from error

    def wrong(self, error: BaseException | str) -> UsageError:
        """Return what to raise when the content is not what the format says."""
        line = " ".join(str(error).split()).rstrip(".")
        if len(line) > _MOST_CHARACTERS:
            line = line[:_MOST_CHARACTERS] + "…"
        return UsageError(f"{self.label} can't be read as {_shown_format(self)}: {line}")


_MOST_CHARACTERS = 300


class _Xz(lzma.LZMAFile):
    """Closes what it reads from, which LZMAFile leaves open."""

    def __init__(self, raw: io.BufferedReader) -> None:
        super().__init__(raw)
        self._raw_file = raw

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._raw_file.close()


def _native(raw: io.RawIOBase) -> pa.NativeFile:
    if isinstance(raw, io.FileIO):
        # By its descriptor, whatever its name means by now: without Python, it reads in parallel.
        with raw:
            return pa.OSFile(f"/proc/self/fd/{raw.fileno()}")
    return pa.PythonFile(raw, "r")


def _shown_format(source: Source) -> str:
    name = {"arrow": "Arrow", "json": "JSON lines", "parquet": "Parquet"}.get(source.format)
    return (name or source.format.upper()) + (f" ({source.codec})" if source.codec else "")


def formats_of(name: bytes) -> tuple[str | None, str | None]:
    """Return the format and the codec that the end of a file's name says it has."""
    parts = re.split(r"\.", os.fsdecode(os.path.basename(name)).lower())[1:]
    codec = CODECS.get(parts[-1]) if parts else None
    if codec is not None:
        parts.pop()
    return FORMATS.get(parts[-1]) if parts else None, codec


def make_source(tree: Files, name: bytes, where: bytes, options: Options) -> Source:
    """Return the file *name*, which is at *where*. Raises: UsageError for an unknown format."""
    found, codec = formats_of(name)
    if options.format is None and found is None:
        raise UsageError(
            f"'/{shown(name)}' does not say by its name what it is: say "
            f"read('/{shown(name)}', format => 'csv'), or tsv, parquet, arrow, json"
        )
    return Source(tree, name, where, options.format or found or "", codec, options)
