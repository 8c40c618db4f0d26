"""The oplog on disk: rows become data files, data files become commits, commits become images.

The only place that imports deltalake (to create a table; what a mounted pond does is done here, to
be fast and durable) and, with `query`, pyarrow (to read data files; writing them is done here too).
No trio: everything here blocks and is called from threads. In reading order:

- ``schema``: the table's columns, each explained
- ``rows``: row records to encoded columns
- ``thrift`` ``parquet`` ``seal`` ``datafile``: encoded columns to one Parquet file, and where each
  content lies in it
- ``commit`` ``publish``: one log entry, whole and durable or not there; trying until it is
- ``deltalog`` ``checkpoint``: reading the log, checking that it is whole; keeping it short;
  ``tombstones``: what it says of files that went
- ``table``: creating and opening the table; what a crash left
- ``lock``: one writer
- ``packing`` ``frames``: contents compressed, in files that are written anew; where each lies then
- ``layout`` ``pages``: where the contents lie in a file that is there already
- ``sums``: checksums of a file's blocks
- ``content`` ``pread``: reading contents by one system call; ``decode`` ``framecache``: those that
  are compressed, and what of them stays in memory
- ``scan`` ``rowcache``: all rows but their bytes, read once; ``records``: files of caches
- ``history`` ``fold`` ``fold_entries`` ``fold_extents`` ``image``: rows to the tree at one version;
  ``imagefile`` ``images``: the newest, saved
- ``tree`` ``follow`` ``stored_file``: that tree by paths, symlinks in it, its files;
  ``mounted_tree``: the same below a mount
- ``trace`` ``path_trace``: names and nodes through all rows, or those about one path;
  ``changes`` ``lives``: what differs between two versions, what happened to one path;
  ``usage``: what each version added; ``equality``: with them
- ``measure``: what the pond takes: live, history, left over
- ``preview``: the rows of a coming version, to be compared or handed over; ``listing``: rows of
  versions with the paths they are about
- ``news``: what another process committed
- ``files`` ``log`` ``tags`` ``resolve``: handles of data files; the list of versions; names
  of some; which one a text means
- ``leftovers``: data files that are in no version; ``logkeeper``: keeping the log short
- ``delta``: `DeltaStore`, which joins them; ``scratch``: one beside the writer, for a transaction
- ``prune_rows`` ``prune``: which rows no kept version needs; ``compact``: which files are worth
  putting together; ``prune_files`` ``compact_files`` ``rewrite`` ``request``: new files, clustered;
  ``prune_swap``: one log entry that puts those in the place of the old ones; ``compact_worker``:
  the process that compacts beside a mount
- ``check``: every invariant of all that; ``repair_plan`` ``repair``: mending what it found
- ``damage``: which data file it was; ``existence``: what is there, on a disk that fails;
  ``faults``: named points where tests break things; ``memory``: giving it back

Importing the package itself is cheap: pyarrow comes with the first use (0.2 s).
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pondfs.store.delta import DeltaStore

__all__ = ["DeltaStore", "create", "is_pond", "open_reader", "open_writer"]

Path = str | os.PathLike[str]


def is_pond(path: Path) -> bool:
    """Return whether *path* holds a pond whose creation was finished."""
    from pondfs.store import table

    return table.is_pond(os.fspath(path))


def create(path: Path) -> None:
    """Make a pond. See `DeltaStore.create`."""
    from pondfs.store.delta import DeltaStore

    DeltaStore.create(path)


def open_writer(path: Path, *, mountpoint: str, socket: str) -> "DeltaStore":
    """Open a pond for committing. See `DeltaStore.open_writer`."""
    from pondfs.store.delta import DeltaStore

    return DeltaStore.open_writer(path, mountpoint=mountpoint, socket=socket)


def open_reader(path: Path) -> "DeltaStore":
    """Open a pond for reading. See `DeltaStore.open_reader`."""
    from pondfs.store.delta import DeltaStore

    return DeltaStore.open_reader(path)


def __getattr__(name: str) -> Any:
    if name == "DeltaStore":
        from pondfs.store.delta import DeltaStore

        return DeltaStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
