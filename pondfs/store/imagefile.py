"""The newest image in a local file: opening a pond then reads what came after it, and no more.

Five tables, mapped into memory: nodes, entries, extents, symlinks' targets, xattrs. Folding a
million nodes takes 2 s; mapping them 30 ms (measured 2026-11), and they cost memory only where they
are looked at.

It is believed only as far as it goes: the checksums are right, and each data file it was folded
from is one the table has. What is wrong is told in the log, and everything is folded.
``_pond/image`` may be deleted at any time.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pondfs.node import Version
from pondfs.store.content import DataFile
from pondfs.store.image import ATTRS, Blob, Columns, TableImage
from pondfs.store.records import TROUBLE, BadRecordError, Kind, map_records, replace, write_record
from pondfs.store.table import POND_DIR

log = logging.getLogger("pondfs.store")

_KIND = Kind(b"pondimag", 1)
_ABOUT = b"pond.image"

_NODES = ("ids", *ATTRS, "allocated", "parents")
_ENTRIES = ("entry_dirs", "entry_nodes")
_EXTENTS = (
    "extent_nodes", "extent_offset", "extent_length", "extent_skip", "extent_file", "extent_row",
    "extent_position", "extent_content_length",
)  # fmt: skip


def load(
    store: str, files: Sequence[DataFile], up_to: Version | None
) -> tuple[TableImage, list[DataFile]] | None:
    """Return the image in the file, and those of *files* that came after it.

    Args:
        store: the pond.
        files: all data files its table has.
        up_to: the newest version that is wanted; None for any.
    Returns: None when there is none, or none that would do.
    """
    path = _path(store)
    try:
        return _load(path, files, up_to)
    except FileNotFoundError:
        return None
    except TROUBLE as error:
        log.warning("%s is not used, the oplog is read instead: %s", path, error)
        return None


def _load(
    path: str, files: Sequence[DataFile], up_to: Version | None
) -> tuple[TableImage, list[DataFile]] | None:
    mapped, records = map_records(path, _KIND)
    tables = list(records)
    if len(tables) != 5:
        raise BadRecordError("it does not have the tables of an image")
    nodes, entries, extents, targets, metadata = tables
    about = json.loads(nodes.schema.metadata[_ABOUT])
    version = Version(about["version"])
    if up_to is not None and version > up_to:
        return None
    known = {file.name: file for file in files}
    folded = [known.get(name) for name, _ in about["files"]]
    if any(
        file is None or file.size != size
        for file, (_, size) in zip(folded, about["files"], strict=True)
    ):
        # A prune, or a compaction by another program.
        log.info("%s is outdated: data files were exchanged", path)
        return None
    under = [file for file in folded if file is not None]
    names = {file.name for file in under}
    later = [file for file in files if file.name not in names]
    if any(file.min_version <= version for file in later):
        log.info("%s is outdated: another program added to an old version", path)
        return None
    ends, blob = _binary(entries["name"])
    columns = Columns(
        **_integers(nodes, _NODES),
        **_integers(entries, _ENTRIES),
        names=blob,
        name_ends=ends,
        **_integers(extents, _EXTENTS),
        targets=_by_place(targets),
        metadata={place: value.decode() for place, value in _by_place(metadata).items()},
    )
    return TableImage(version, columns, under, mapped), later


def save(store: str, image: TableImage) -> None:
    """Write the image of the newest version; only the holder of the writer lock may.

    Never fails: what could not be written is folded the next time.
    """
    path = _path(store)
    try:
        replace(path, lambda file: _write(file, image))
    except TROUBLE as error:
        log.warning("%s could not be written: %s", path, error)


def _write(file: BinaryIO, image: TableImage) -> None:
    end = 0
    for table in _tables(image):
        end = write_record(file, end, _KIND, table.schema, [table])


def _tables(image: TableImage) -> Iterator[pa.Table]:
    columns = image.columns
    files = image.places[0]
    about = {"version": image.version, "files": [[file.name, file.size] for file in files]}
    yield _table(columns, _NODES).replace_schema_metadata({_ABOUT: json.dumps(about)})
    yield _table(columns, _ENTRIES).append_column("name", columns.name_array())
    yield _table(columns, _EXTENTS)
    for by_place in (columns.targets, columns.metadata):
        places = pa.array(by_place, pa.int64())
        yield pa.table({"place": places, "value": pa.array(by_place.values(), pa.binary())})


def _table(columns: Columns, names: Sequence[str]) -> pa.Table:
    return pa.table({name: getattr(columns, name) for name in names})


def _integers(table: pa.Table, names: Sequence[str]) -> dict[str, Any]:
    if tuple(table.column_names[: len(names)]) != tuple(names):
        raise BadRecordError("it has other columns than this version of pondfs")
    return {name: _whole(table[name]).to_numpy() for name in names}


def _binary(column: pa.ChunkedArray) -> tuple[Any, Blob]:
    array = _whole(column)
    _, ends, data = array.buffers()
    return np.frombuffer(ends, np.int32)[: len(array) + 1], Blob(data if data is not None else b"")


def _by_place(table: pa.Table) -> dict[int, bytes]:
    return dict(zip(table["place"].to_pylist(), table["value"].to_pylist(), strict=True))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return the one piece a column was written as; none was written of an empty one."""
    if column.num_chunks > 1:
        raise BadRecordError("a column is in pieces")
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _path(store: str) -> str:
    return os.path.join(store, POND_DIR, "image")
