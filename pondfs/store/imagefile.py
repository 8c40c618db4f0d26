"""The newest image in a local file: opening a pond then reads what came after it, and no more.

Five tables, mapped into memory: nodes, entries, extents, symlinks' targets, xattrs. Folding a
million nodes takes 2 s; mapping them 30 ms (measured 2026-11), and they cost memory only where they
are looked at.

It is believed only as far as it goes: the checksums are right, each data file it was folded from is
one the table has, it is of the newest version those hold, and it could be a tree: what is to be
in order is, and nothing leads beyond the end of what it leads to. What is wrong is told in the log,
and everything is folded.
``_pond/image`` may be deleted at any time.
"""

import json
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pondfs.node import ROOT, Version
from pondfs.store.content import UNKNOWN_VERSION, DataFile
from pondfs.store.image import ATTRS, Blob, Columns, Ints, TableImage, are_names
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
    path = path_of(store)
    try:
        return _load(path, files, up_to)
    except FileNotFoundError:
        return None
    except TROUBLE as error:
        log.warning("%s is not used, the oplog is read instead: %s", path, error)
        return None


def find_trouble(store: str, files: Sequence[DataFile]) -> str:
    """Return what is wrong with the file; "" when it is as it was written, or not there."""
    try:
        _load(path_of(store), files, None)
    except FileNotFoundError:
        return ""
    except TROUBLE as error:
        return str(error)
    return ""


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
    newest = max((file.max_version for file in under), default=0)
    if version != newest and newest != UNKNOWN_VERSION:
        raise BadRecordError("it is of another version than its data files")
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
    _check(columns, len(under))
    mapped.madvise(mmap.MADV_DONTNEED)  # all of it was looked at
    return TableImage(version, columns, under, mapped), later


def _check(columns: Columns, files: int) -> None:
    """Refuse what would lead astray. 5 ms for a million nodes. Raises: BadRecordError."""
    c = columns
    nodes = len(c.ids)
    ends = c.name_ends
    is_sound = (
        nodes > 0
        and c.ids[0] == ROOT
        and (c.ids[1:] > c.ids[:-1]).all()
        and _is_below(nodes, c.parents, c.entry_dirs, c.entry_nodes, c.extent_nodes)
        and _is_below(files, c.extent_file)
        and (c.entry_dirs[1:] >= c.entry_dirs[:-1]).all()
        and (c.extent_nodes[1:] >= c.extent_nodes[:-1]).all()
        and len(ends) == len(c.entry_dirs) + 1
        and 0 == ends[0]
        and (ends[1:] > ends[:-1]).all()
        and ends[-1] <= len(c.names)
        and are_names(c.names, ends)
        and all(0 <= place < nodes for place in (*c.targets, *c.metadata))
    )
    if not is_sound:
        raise BadRecordError("no tree can be like that")


def _is_below(limit: int, *columns: Ints) -> bool:
    return all(not len(each) or (0 <= each.min() and each.max() < limit) for each in columns)


def save(store: str, image: TableImage) -> None:
    """Write the image of the newest version; only the holder of the writer lock may.

    Never fails: what could not be written is folded the next time.
    """
    path = path_of(store)
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


def path_of(store: str) -> str:
    """Return where the saved image of a pond is."""
    return os.path.join(store, POND_DIR, "image")
