"""What a pond takes on its disk: counted from its log, its saved image, and its rows' lengths.

No content is read, and nothing is folded but the few rows after the saved image. Data files never
change, so what one holds is counted once for each `Measurer`. What would take longer than it may is
left out, and goes on the next time.
"""

import json
import logging
import os
import time
from collections.abc import Container, Sequence
from dataclasses import asdict
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from pondfs.errors import StoreDamaged
from pondfs.figures import Compaction, Figures, SavedImage
from pondfs.node import Version
from pondfs.store import imagefile, table
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.damage import damage_of
from pondfs.store.deltalog import Snapshot
from pondfs.store.files import data_files
from pondfs.store.fold import fold_rows
from pondfs.store.image import TableImage
from pondfs.store.lock import ReaderLock
from pondfs.store.records import replace
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import in_order, read_rows

log = logging.getLogger("pondfs.store")

STRAY_AGE_S = 600.0
"""A data file that no version refers to may be about to become part of one; not at this age."""

# What it takes to fold, measured 2026-11: a row, a node of the image below, a data file that is not
# in the cache of rows.
_ROW_S, _NODE_S, _FILE_S = 2e-6, 0.4e-6, 0.7e-3

_OPEN_FILES = 16


class Measurer:
    """Counts what one pond takes. One call at a time.

    Args:
        store: the pond's directory.
        is_writer: whether this process has the writer lock, and so alone removes data files. It
            must not keep itself from that by the lock for readers: when a file goes while it is
            counted, that begins anew.
    """

    def __init__(self, store: str | os.PathLike[str], *, is_writer: bool = False) -> None:
        self._store = os.path.abspath(os.fspath(store))
        self._is_writer = is_writer
        self._content_bytes: dict[str, int] = {}

    def measure(self, budget_s: float, in_use: Container[str] = ()) -> Figures:
        """Return the figures; what would take much longer than *budget_s* is None there.

        Args:
            budget_s: as said; ``inf`` for all of it.
            in_use: names of data files that are in no version yet, but will be.
        Raises: NotAPond, StoreDamaged, OSError.
        """
        if self._is_writer:
            try:
                return self._measure(budget_s, in_use)
            except StoreDamaged:
                return self._measure(budget_s, in_use)
        # Before the log is read: what it names then stays until we are done.
        reading = ReaderLock(os.path.join(self._store, table.POND_DIR))
        try:
            return self._measure(budget_s, in_use)
        finally:
            reading.release()

    def _measure(self, budget_s: float, in_use: Container[str]) -> Figures:
        snapshot = table.open_table(self._store, writable=False).snapshot
        files = in_order(data_files(self._store, snapshot), None)
        cache = RowCache(self._store)
        saved, image, later = self._load_image(files, cache, budget_s)
        self._count_content(files, cache, budget_s)
        live = None if image is None else _live_bytes(image)
        newer = {file.name for file in later}
        below = self._sum([file for file in files if file.name not in newer])
        above = None if image is None else self._sum(later)
        history = None if live is None or below is None else below - live
        unused = self._find_unused(snapshot, in_use)
        disk = os.statvfs(self._store)
        return Figures(
            newest=Version(snapshot.pond_version),
            version=None if image is None else image.version,
            data_files=len(files),
            data_bytes=sum(file.size for file in files),
            rows=sum(file.row_count or 0 for file in files),
            live_bytes=live,
            history_bytes=history,
            newer_bytes=above,
            reclaimable_files=len(unused),
            reclaimable_bytes=sum(unused),
            log_entries=snapshot.version - snapshot.checkpoint,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            disk_bytes=disk.f_blocks * disk.f_frsize,
            image=saved,
            compaction=load_compaction(self._store),
        )

    def _load_image(
        self, files: list[DataFile], cache: RowCache, budget_s: float
    ) -> tuple[SavedImage | None, TableImage | None, list[DataFile]]:
        """Return what is saved, the newest image that is cheap, and the files that came after it.

        Without an image there are none, as nothing is known of any.
        """
        path = imagefile.path_of(self._store)
        found = imagefile.load(self._store, files, None)
        base, later = found or (None, files)
        saved = None
        if base is not None:
            info = os.stat(path)
            saved = SavedImage(base.version, info.st_mtime, info.st_size)
        if base is not None and not later:
            return saved, base, []
        if _fold_s(base, later, cache) > budget_s:
            return saved, base, later if base is not None else []
        reader = ContentReader(max_open=_OPEN_FILES)
        try:
            scan = read_rows(later, cache=cache)
            return saved, fold_rows(scan, later, reader, None, base), []
        finally:
            reader.close()

    # --- content ---

    def _count_content(self, files: list[DataFile], cache: RowCache, budget_s: float) -> None:
        """Count what each file holds, those that are cached first."""
        deadline = time.monotonic() + budget_s
        known = self._content_bytes
        self._content_bytes = {f.name: known[f.name] for f in files if f.name in known}
        missing = [file for file in files if file.name not in known]
        sums: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        unread = []
        for file in missing:
            place = cache.find(file)
            if place is None:
                unread.append(file)
                continue
            up_to = sums.get(id(place.record))
            if up_to is None:
                lengths = place.record["length"].fill_null(0).to_numpy()
                up_to = sums[id(place.record)] = np.append(0, np.cumsum(lengths, dtype=np.int64))
            held = up_to[place.first + place.rows] - up_to[place.first]
            self._content_bytes[file.name] = int(held)
        for file in unread:
            if time.monotonic() > deadline:
                break
            self._content_bytes[file.name] = _read_content_bytes(file)

    def _sum(self, files: Sequence[DataFile]) -> int | None:
        """Return what *files* hold; None when not all of them have been counted."""
        known = self._content_bytes
        if any(file.name not in known for file in files):
            return None
        return sum(known[file.name] for file in files)

    # --- what is left over ---

    def _find_unused(self, snapshot: Snapshot, in_use: Container[str]) -> list[int]:
        """Return the sizes of the data files that the table does not need."""
        strays = (
            name
            for name in table.find_strays(self._store, snapshot)
            if table.is_ours(name)
            and name not in in_use
            and table.old_enough(self._store, name, STRAY_AGE_S)
        )
        found = []
        for name in (*snapshot.removes, *strays):
            if os.path.basename(name) != name:
                continue  # by another program: nothing that could lie in here
            try:
                found.append(os.stat(os.path.join(self._store, name)).st_size)
            except FileNotFoundError:
                continue
        return found


def _fold_s(base: TableImage | None, later: Sequence[DataFile], cache: RowCache) -> float:
    """Return how long it takes, about, to lay the rows of *later* over *base*."""
    if any(file.row_count is None for file in later):
        return float("inf")
    rows = sum(file.row_count or 0 for file in later)
    unread = sum(cache.find(file) is None for file in later)
    nodes = 0 if base is None else base.node_count
    return rows * _ROW_S + nodes * _NODE_S + unread * _FILE_S


def _live_bytes(image: TableImage) -> int:
    columns = image.columns
    in_files = int(columns.allocated.sum(dtype=np.int64))
    return in_files + sum(len(target) for target in columns.targets.values())


def _read_content_bytes(file: DataFile) -> int:
    with (
        damage_of(file),
        pq.ParquetFile(file.path, memory_map=False, page_checksum_verification=True) as parquet,
    ):
        lengths = parquet.read(columns=["length"], use_threads=False)["length"]
    return int(lengths.fill_null(0).to_numpy().sum(dtype=np.int64))


# --- what the last compaction cost ---


def note_compaction(store: str, compaction: Compaction) -> None:
    """Write down what a compaction cost, for whoever asks later. Never fails: it is a note."""
    data = json.dumps(asdict(compaction)).encode()

    def write(file: BinaryIO) -> None:
        file.write(data)

    try:
        replace(_note_path(store), write)
    except OSError as error:
        log.warning("what the compaction of %s cost could not be noted: %s", store, error)


def load_compaction(store: str) -> Compaction | None:
    """Return what the last compaction cost; None when nothing (that could be read) was noted."""
    path = _note_path(store)
    try:
        with open(path, "rb") as file:
            return Compaction.of(json.loads(file.read()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        # Written without a sync: a power cut may leave it empty.
        log.info("%s says nothing: %s", path, error)
        return None


def _note_path(store: str) -> str:
    return os.path.join(store, table.POND_DIR, "compacted")
