"""What a crash, a prune or a compaction left behind in a store, and removing it.

Three kinds of data files are in no version: *strays*, which no log entry ever named (a stage or a
commit that did not get to its end); files that were *put out of use*, which an entry removed from
the table and readers may still have open; and *loose* ones, which a transaction beside the mount
wrote and the writer reads by name.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from pondfs.errors import StoreDamaged, UsageError
from pondfs.oplog import Row
from pondfs.store import prune_swap, table
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import LOG_DIR, BadHeadError, Snapshot, read_snapshot
from pondfs.store.faults import fault
from pondfs.store.images import Images
from pondfs.store.lock import Owner, acting_as, no_readers, rewriting
from pondfs.store.logkeeper import LogKeeper
from pondfs.store.news import load_rows
from pondfs.store.publish import Publisher
from pondfs.store.request import find_unfinished

log = logging.getLogger("pondfs.store")

STRAY_AGE_S = 24 * 3600.0
"""Leftovers of a crash are removed at this age: time enough for whoever wants to look at them."""

SEEN_S = 1800.0
"""For so long at least it has been seen that nothing refers to them. By a clock that nobody sets:
where a computer without one learns what day it is, a file just written is of 1970."""


@dataclass(frozen=True, slots=True)
class Handles:
    """What an open store has in hand.

    Attributes:
        path: the store's directory.
        fd: it, open.
        log_fd: its log's directory, open.
        owner: on whose behalf files are made.
        reader: has data files open.
        images: may be reading them.
        publisher: makes log entries.
    """

    path: str
    fd: int
    log_fd: int
    owner: Owner | None
    reader: ContentReader
    images: Images
    publisher: Publisher


class Leftovers:
    """The data files of a pond that are in no version. For whoever holds its writer lock.

    Attributes:
        strays: names of data files that belonged to no commit when the pond was opened for
            writing: harmless leftovers of a crash, see `remove_strays`.
        removed_bytes: what `remove_pruned` got back, at opening included.
        outdated: files put out of use that may still be read through what was loaded before, or
            could not be held: they stay until `close`.
    """

    def __init__(self, handles: Handles, keeper: LogKeeper, known: Callable[[], set[str]]) -> None:
        """*known* returns the names of data files that the store has or is about to commit."""
        self.strays: list[str] = []
        self.removed_bytes = 0
        self.outdated: set[str] = set()
        self._has = handles
        self._log_dir = os.path.join(handles.path, LOG_DIR)
        self._pond = os.path.join(handles.path, table.POND_DIR)
        self._keeper = keeper
        self._known = known
        # Monotonic time at which each file in no version was first seen, in this session.
        self._seen: dict[str, float] = {}
        # When the next of the files that we took out of the table may go.
        self._removable_s = math.inf

    def look(self, snapshot: Snapshot) -> None:
        """See which strays there are. At opening. Raises: OSError."""
        self.strays = table.find_strays(self._has.path, snapshot)

    def clear_away(self, snapshot: Snapshot) -> None:
        """Do what a crash kept from being done. At opening."""
        if self.strays:
            self._sweep()
        self._remove_abandoned()
        self._finish_prune(snapshot)

    def close(self) -> None:
        """Remove what nobody of this process reads any more."""
        if self.outdated:
            self._removable_s = 0.0
        self.outdated.clear()
        self._remove_pruned_quietly()

    # --- files put out of use ---

    def note_swap(self, outdated: set[str]) -> None:
        """Files were put out of use; *outdated* ones among them are not ours to remove yet."""
        self.outdated.update(outdated)
        self._removable_s = 0.0

    def remove_pruned(self, *, now: bool = False) -> int:
        """Remove what was put out of use. See `interfaces.Store.remove_pruned`.

        Costs nothing when there is nothing left over, and little while somebody reads.
        """
        if self._removable_s == math.inf or (self._removable_s > time.time() and not now):
            return 0
        with no_readers(self._pond) as alone:
            if not alone:
                return 0
        snapshot = read_snapshot(self._log_dir)
        limit_s = math.inf if now else time.time()
        left_over = prune_swap.left_over(snapshot)
        found = [
            name for name, when_s in left_over.items()
            if when_s <= limit_s and name not in self.outdated
        ]  # fmt: skip
        if found and not prune_swap.is_append_only(snapshot):
            return 0
        next_s = min((s for s in left_over.values() if s > limit_s), default=math.inf)
        if not found:
            self._removable_s = next_s
            return 0
        prune_swap.check_whole(self._has.path, snapshot)
        self._has.images.wait()  # it reads them
        self._has.reader.forget(set(found))
        # The entry that says they are gone must not be lost after they are.
        os.fsync(self._has.log_fd)
        freed = 0
        with no_readers(self._pond) as alone:
            if not alone:
                return 0
            for name in found:
                fault("prune:unlink")
                try:
                    size = os.stat(name, dir_fd=self._has.fd).st_size
                    os.unlink(name, dir_fd=self._has.fd)
                except FileNotFoundError:
                    continue
                freed += size
                self.removed_bytes += size
        self._removable_s = next_s
        fault("prune:removed")
        # The entry of a prune is long, and the list of what it removed has no more use.
        self._keeper.checkpoint_quietly(now=True)
        return freed

    def _finish_prune(self, snapshot: Snapshot) -> None:
        """Do what a crash kept a prune from doing."""
        has = self._has
        try:
            if not prune_swap.is_append_only(snapshot):
                with acting_as(has.owner):
                    has.publisher.publish_entry(prune_swap.append_only_entry(snapshot.metadata))
        except OSError as error:
            log.warning("delta.appendOnly of %s is not restored yet: %s", has.path, error)
        self._removable_s = min(prune_swap.left_over(snapshot).values(), default=math.inf)
        self._remove_pruned_quietly()

    def _remove_pruned_quietly(self) -> None:
        try:
            self.remove_pruned()
        except (OSError, StoreDamaged, BadHeadError) as error:
            log.warning("pruned files stay in %s: %s", self._has.path, error)

    # --- strays ---

    def has_old_strays(self) -> bool:
        """Return whether `remove_old_strays` may find something. Beside commits."""
        path = self._has.path
        found = {name for name in os.listdir(path) if table.is_ours(name)}
        now = time.monotonic()
        in_no_version = found - self._known() - self.outdated
        self._seen = {name: self._seen.get(name, now) for name in in_no_version}
        return any(
            now - seen_s >= SEEN_S and table.old_enough(path, name, STRAY_AGE_S)
            for name, seen_s in self._seen.items()
        )

    def remove_old_strays(self) -> list[str]:
        """Remove strays that `has_old_strays` has seen for long. Between commits.

        Returns: their names.
        """
        before = time.monotonic() - SEEN_S
        return self._sweep({name for name, seen_s in self._seen.items() if seen_s <= before})

    def remove_strays(self, min_age_s: float, among: Set[str] | None = None) -> list[str]:
        """Remove data files of ours that nothing refers to and that are at least *min_age_s* old.

        Not while a prune or a compaction is being prepared or put in place, nor while others read:
        a transaction beside the mount has files that are in no version yet.

        Returns: their names. Only the writer may: it alone knows what it is about to commit.
        """
        removed = []
        with rewriting(self._pond, wait=False) as alone, no_readers(self._pond) as unread:
            if not alone or not unread:
                return []
            # The log may know more than we do: another program's appended files are no strays.
            snapshot = read_snapshot(self._log_dir)
            mine = self._known() | self.outdated
            for name in table.find_strays(self._has.path, snapshot):
                if (
                    name not in mine
                    and (among is None or name in among)
                    and table.is_ours(name)
                    and table.old_enough(self._has.path, name, min_age_s)
                ):
                    fault("stray:unlink")
                    os.unlink(os.path.join(self._has.path, name))
                    removed.append(name)
        return removed

    def _sweep(self, among: Set[str] | None = None) -> list[str]:
        """Remove old strays, unless something was set aside and they may be part of that."""
        if table.has_set_aside(self._has.path):
            return []
        try:
            removed = self.remove_strays(STRAY_AGE_S, among)
        except (OSError, StoreDamaged, BadHeadError) as error:
            log.warning("leftovers of a crash stay in %s: %s", self._has.path, error)
            return []
        if removed:
            log.info("removed %d data files that no commit refers to", len(removed))
            self.strays = [name for name in self.strays if name not in removed]
        return removed

    def _remove_abandoned(self) -> None:
        """Remove what a killed prune or compaction was writing, unless one is at work."""
        if find_unfinished(self._has.path):
            with rewriting(self._pond, wait=False) as alone:
                for path in find_unfinished(self._has.path) if alone else ():
                    unlink_quietly(path)
                    fault("abandoned:unlink")

    # --- loose files ---

    def check_loose(self, files: Sequence[str]) -> None:
        """Refuse what is no data file without a version. See `interfaces.Store.check_loose`."""
        # The log may know more than we do.
        known = read_snapshot(self._log_dir)
        mine = self._known() | self.outdated
        for name in files:
            is_ours = table.is_ours(name) and os.path.isfile(os.path.join(self._has.path, name))
            if not is_ours or name in mine or name in known.adds or name in known.removes:
                raise UsageError(f"'{name}' is no data file that is in no version")

    def load_loose(self, files: Sequence[str]) -> list[Row]:
        """Return the rows in *files*. See `interfaces.Store.load_loose`."""
        path = self._has.path
        opened = [
            DataFile(path, name, os.stat(os.path.join(path, name)).st_size, "", 0)
            for name in files
        ]  # fmt: skip
        return [row for rows in load_rows(opened, self._has.reader).values() for row in rows]

    def remove_loose(self, files: Sequence[str]) -> None:
        """Remove *files*. See `interfaces.Store.remove_loose`."""
        self._has.reader.forget(set(files))
        for name in files:
            unlink_quietly(os.path.join(self._has.path, name))
