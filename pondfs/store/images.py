"""Images of a pond that is open: folded from the rows, or taken from the saved one and brought up
to date. Whoever has the writer lock saves the newest: at opening and closing if that is worth it,
and when a mount asks for it.
"""

import logging
import threading
from collections.abc import Callable

import pyarrow.compute as pc

from pondfs.errors import NoSuchVersion, StoreDamaged
from pondfs.node import Version
from pondfs.store import imagefile
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.fold import fold_rows
from pondfs.store.image import TableImage
from pondfs.store.memory import release_memory
from pondfs.store.rowcache import RowCache
from pondfs.store.scan import in_order, read_rows

log = logging.getLogger("pondfs.store")

WORTH_ROWS, WORTH_FILES = 20_000, 200
"""Rows, or data files, after the saved image that make it worth saving at opening or closing: what
folding them costs (50 ms) each opening would pay again; saving a million nodes takes 0.1 s."""

MANY_NODES = 50_000
"""In so large a tree any row after the saved image is worth a new one at closing: laying it over
the image takes all of that into memory, 1 s and 90 MB for a million nodes, at each opening."""

RENEWED_ROWS = 1_000_000
"""Up to here the cache of rows is made anew after files were exchanged: it takes 170 MB. What it
does not have is read from the data files, of which there are few then."""


class Images:
    """Makes images of one pond.

    Args:
        store: its path.
        reader: reads what it takes.
        files: returns the data files the table has now.
        writable: whether we hold the writer lock.
    """

    def __init__(
        self,
        store: str,
        reader: ContentReader,
        files: Callable[[], list[DataFile]],
        *,
        writable: bool,
    ) -> None:
        self._store = store
        self._reader = reader
        self._files = files
        self._writable = writable
        # The version of the saved image, as far as we know; rows committed since we last saved one.
        self._saved = Version(0)
        self.rows = 0
        self._nodes = 0
        self._saving: threading.Thread | None = None
        # Held by whoever writes the file.
        self._turn = threading.Lock()

    def load(self, version: Version | None) -> TableImage:
        """Return the image of *version*; None: of the newest.

        Raises: NoSuchVersion; StoreDamaged when a file is gone or rows make no tree.
        """
        image = self._fold(in_order(self._files(), version), version)
        if version is None:
            self._nodes = image.node_count
        if self._writable and version is None and self._is_due():
            self._save_soon(image)
        return image

    def note(self, rows: int) -> None:
        """Count a commit of that many rows."""
        self.rows += rows

    def save(self) -> TableImage | None:
        """Save the newest image unless it is; return it as it is mapped. None if that failed."""
        self.wait()
        before = self.rows
        # Those that are committed from here on are counted for the next.
        files = in_order(self._files(), None)
        try:
            with self._turn:
                found = imagefile.load(self._store, files, None)
                if found is None or found[1]:
                    imagefile.save(self._store, self._fold(files, None))
                    found = imagefile.load(self._store, files, None)
        except (StoreDamaged, OSError) as error:
            log.warning("no new image of %s was saved: %s", self._store, error)
            return None
        release_memory()
        if found is None or found[1]:
            return None  # why is in the log
        self._saved = found[0].version
        self.rows -= before
        return found[0]

    def exchange(self, files: list[DataFile], move: Callable[[TableImage], TableImage]) -> None:
        """Have the saved image lead to where things are now: else nobody could use it any more.

        Args:
            files: the data files as they were; they stay readable until `wait` returns.
            move: see `interfaces.Swap.move_image`.
        """
        before = self._saving
        self._saving = threading.Thread(
            target=self._exchange, args=(before, files, move), name="image"
        )
        self._saving.start()

    def wait(self) -> None:
        """Wait for an image that is being saved."""
        if self._saving is not None:
            self._saving.join()

    def close(self) -> None:
        """Save the newest image if that is worth it."""
        self.wait()
        if self._writable and self.rows and (self._nodes >= MANY_NODES or self._is_due()):
            self._save(None)

    def _is_due(self) -> bool:
        newer = [file for file in self._files() if file.max_version > self._saved]
        rows = sum(file.row_count or 0 for file in newer)
        return rows >= WORTH_ROWS or len(newer) >= WORTH_FILES

    def _fold(self, files: list[DataFile], version: Version | None) -> TableImage:
        saved = imagefile.load(self._store, files, version)
        base, later = saved or (None, files)
        if base is not None:
            self._saved = base.version
        if base is not None and not later and version in (None, base.version):
            return base
        cache = RowCache(self._store)
        scan = read_rows(later, cache=cache)
        if version is not None:
            commits = scan.table["version"].filter(pc.equal(scan.table["op"], "commit"))
            if not pc.any(pc.equal(commits, version)).as_py():
                raise NoSuchVersion(f"there is no version {version}: see pond log")
        elif self._writable and base is None:
            cache.renew(files, scan)
        return fold_rows(scan, later, self._reader, version, base)

    def _save_soon(self, image: TableImage | None) -> None:
        if self._saving is None or not self._saving.is_alive():
            self.rows = 0
            self._saving = threading.Thread(target=self._save, args=(image,), name="image")
            self._saving.start()

    def _save(self, image: TableImage | None) -> None:
        """Save *image*, else the newest, and see to the cache of rows.

        Never fails: these are shortcuts for the next opening.
        """
        try:
            if image is None:
                image = self._fold(in_order(self._files(), None), None)
            with self._turn:
                imagefile.save(self._store, image)
            self._saved = image.version
            self._renew_rows()
        except (StoreDamaged, OSError) as error:
            # Files were exchanged meanwhile, say: the next image will know the new ones.
            log.info("no new image of %s was saved: %s", self._store, error)
        release_memory()

    def _exchange(
        self,
        before: threading.Thread | None,
        files: list[DataFile],
        move: Callable[[TableImage], TableImage],
    ) -> None:
        """Bring the saved image to the version at which files were exchanged, and move it.

        Never fails, as `_save`.
        """
        if before is not None:
            before.join()
        try:
            saved = imagefile.load(self._store, in_order(files, None), None)
            if saved is not None:
                image, later = saved
                if later:
                    scan = read_rows(later, cache=RowCache(self._store))
                    image = fold_rows(scan, later, self._reader, None, image)
                with self._turn:
                    imagefile.save(self._store, move(image))
                self._saved = image.version
            if sum(file.row_count or 0 for file in self._files()) <= RENEWED_ROWS:
                self._renew_rows()
        except (StoreDamaged, OSError) as error:
            log.info("the image of %s could not be brought along: %s", self._store, error)
        release_memory()

    def _renew_rows(self) -> None:
        files, cache = in_order(self._files(), None), RowCache(self._store)
        if cache.is_worn(files):
            cache.renew(files, read_rows(files, cache=cache))
