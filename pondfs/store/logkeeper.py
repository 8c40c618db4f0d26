"""Keeping the log short however old a pond gets: checkpoints, and no entries they made needless.

Runs beside commits, in a thread nobody waits for. A checkpoint covers what is durable in the log
when it begins; commits go on meanwhile and come after it.

Only here are log entries ever removed, and only those older than the *horizon*: a checkpoint that
was read back from the disk, with another one newer than itself, `SAFE_AGE_S` old (a reader that
has just listed the log began at this one or at a newer one), and `KEPT_ENTRIES` behind the newest
entry. From the horizon on everything stays, so a damaged newest checkpoint or a newest entry that
has to be set aside loses nothing.

What a crash leaves:

=====================================  ==========================================================
before a checkpoint has its name       a hidden temporary, which the next opening sweeps up
before ``_last_checkpoint`` names it   two checkpoints; readers begin at the one before
while entries are removed              a log that begins below the horizon or at it. The oldest go
                                       first; where the disk kept some of those only, the gap is
                                       below the horizon, where nobody reads
=====================================  ==========================================================
"""

import logging
import math
import os
import threading
import time
from dataclasses import dataclass

import pyarrow as pa

from pondfs.errors import StoreDamaged
from pondfs.store import checkpoint
from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import (
    BadHeadError,
    Snapshot,
    checkpoint_name,
    entry_name,
    find_last_checkpoint,
    list_log,
    read_checkpoint,
    read_snapshot,
)
from pondfs.store.faults import fault
from pondfs.store.lock import Owner, acting_as
from pondfs.store.memory import release_memory
from pondfs.store.publish import Publisher
from pondfs.store.table import fsync_path

log = logging.getLogger("pondfs.store")

SAFE_AGE_S = 600.0
"""How long what a newer checkpoint made needless stays: time enough for a reader who has listed the
log and is still reading. As long as the files of a compaction."""

KEPT_ENTRIES = 100
"""The newest entries stay in any case: ``pond log -n 20`` has its answer there, a follower that
fell behind a little goes on, and a newest entry that is not whole has some before it."""

_TROUBLE = (
    OSError, StoreDamaged, BadHeadError, pa.ArrowException, ValueError, TypeError, KeyError,
    AttributeError, OverflowError,
)  # fmt: skip
"""What keeps a checkpoint from being written: also what Arrow makes of values another program put
into the log, which are of no kind it knows."""

REMOVED_AT_ONCE = 500
"""Files removed in one go, some 10 ms: the first time there may be a hundred thousand."""

LOOK_AGAIN_S = 60.0
"""How often it is looked whether a checkpoint has become a horizon."""

FIRST_RETRY_S, LAST_RETRY_S = 60.0, 3600.0
"""After a failure, which harms nothing at once: the wait doubles."""


@dataclass(frozen=True, slots=True)
class LogFigures:
    """How long the log is.

    Attributes:
        entries: log entries there are, as last seen.
        entries_since_checkpoint: those that an opening reads one by one.
        checkpoint_s: when the newest checkpoint was written, seconds since 1970; None without one.
    """

    entries: int
    entries_since_checkpoint: int
    checkpoint_s: float | None


class LogKeeper:
    """Writes the checkpoints of one pond and removes old entries. For the holder of its lock.

    Any thread may call; one at a time writes, one at a time removes.
    """

    def __init__(
        self,
        path: str,
        log_dir: str,
        log_fd: int,
        publisher: Publisher,
        snapshot: Snapshot,
        owner: Owner | None,
    ) -> None:
        self._path = path
        self._log_dir = log_dir
        self._log_fd = log_fd
        self._publisher = publisher
        self._owner = owner
        # Apart, as removing may take long on a busy disk, and a checkpoint is also written between
        # two commits, after a prune. It is always newer than what is removed.
        self._writing = threading.Lock()
        self._cleaning = threading.Lock()
        self._checkpoint = snapshot.checkpoint
        self._checkpoint_s = _written_s(log_dir, snapshot.checkpoint)
        self._oldest = snapshot.oldest
        # Other readers would begin there, and fail.
        self._damaged = snapshot.damaged
        # Versions of checkpoints that were read back from the disk.
        self._sound: set[int] = set()
        # Monotonic times: when entries may have become needless, when to try again.
        self._clean_at = 0.0
        self._retry_at = 0.0
        self._retry_s = FIRST_RETRY_S

    def figures(self) -> LogFigures:
        """Return how long the log is. Looks at nothing on the disk."""
        newest = self._publisher.next_entry - 1
        since = newest - self._checkpoint
        return LogFigures(newest + 1 - self._oldest, since, self._checkpoint_s)

    # --- now and then ---

    def is_due(self) -> bool:
        """Return whether `keep` would have something to do. Looks at nothing on the disk."""
        now = time.monotonic()
        return now >= self._retry_at and (self._wants_checkpoint() or now >= self._clean_at)

    def keep(self) -> None:
        """Write a checkpoint if it is time, and remove what no reader needs any more.

        Never fails: what it is for can wait. At most `REMOVED_AT_ONCE` files go.
        """
        self.checkpoint_quietly()
        done = not self._wants_checkpoint()
        try:
            self.clean()
        except (OSError, StoreDamaged) as error:
            log.warning("old log entries stay in %s: %s", self._path, error)
            done = False
        if done:
            self._retry_s = FIRST_RETRY_S
        else:
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    # --- checkpoints ---

    def checkpoint(self, *, now: bool = False) -> bool:
        """Write a Delta checkpoint if enough log entries follow the last one, or *now*.

        Returns: whether one was written.
        Raises: OSError; the table is as it was then.
        """
        with self._writing:
            if not self._wants_checkpoint() and not now:
                return False
            # Taken before the look at the log: all up to there is durable, and has its name.
            newest = self._publisher.next_entry - 1
            snapshot = read_snapshot(self._log_dir, up_to=newest)
            self._drop_tombstones(snapshot)
            with acting_as(self._owner):
                done = checkpoint.write_checkpoint(self._log_dir, snapshot)
            self._checkpoint = snapshot.checkpoint
            if done:
                self._remove_damaged(snapshot.version)
                self._checkpoint_s = time.time()
                self._sound.add(snapshot.checkpoint)
                self._clean_at = min(self._clean_at, time.monotonic() + LOOK_AGAIN_S)
            # What it takes grows with the files there are, and goes back to the system.
            del snapshot
            release_memory()
            return done

    def checkpoint_quietly(self, *, now: bool = False) -> None:
        """As `checkpoint`; what keeps it from being written is logged, not raised."""
        try:
            self.checkpoint(now=now)
        except _TROUBLE as error:
            # Only a shortcut for the next opening is missing.
            log.warning("no checkpoint of %s: %s", self._path, error)

    def _wants_checkpoint(self) -> bool:
        entries = self._publisher.next_entry - 1 - self._checkpoint
        return entries > checkpoint.ENTRIES_BETWEEN or bool(self._damaged)

    def _remove_damaged(self, written: int) -> None:
        """Remove checkpoints nobody can read, now that a new one says what they were to say."""
        for version in self._damaged:
            if version != written:
                unlink_quietly(os.path.join(self._log_dir, checkpoint_name(version)))
        self._damaged = []

    def _drop_tombstones(self, snapshot: Snapshot) -> None:
        """Forget removed files that are gone: there is nothing a vacuum could still remove.

        What is left is bounded by the files on the disk, and so is a checkpoint.
        """
        # One look at the directory instead of one at each, which would take a second of a thread.
        there = set(os.listdir(self._path)) if snapshot.removes else set()
        for name in list(snapshot.removes):
            if name not in there:
                del snapshot.removes[name]

    # --- old entries ---

    def clean(self) -> int:
        """Remove entries and checkpoints older than the horizon, the oldest first.

        Returns: how many files went.
        Raises: OSError.
        """
        with self._cleaning:
            newest = self._publisher.next_entry - 1
            entries, checkpoints = list_log(self._log_dir)
            self._sound.intersection_update(checkpoints)
            self._oldest = entries[0] if entries else newest + 1
            oldest = min([*entries[:1], *checkpoints[:1]], default=0)
            horizon = self._find_horizon(checkpoints, oldest, newest)
            waiting = [version for version in checkpoints[:-1] if version > horizon]
            self._clean_at = time.monotonic() + LOOK_AGAIN_S if waiting else math.inf
            if horizon < 0:
                return 0
            if not set(range(horizon + 1, newest + 1)) <= set(entries):
                log.error("log entries after %d are missing in %s", horizon, self._log_dir)
                return 0
            old = sorted(
                [(version, entry_name(version)) for version in entries if version < horizon]
                + [(version, checkpoint_name(version)) for version in checkpoints[:-1]
                   if version < horizon]
            )  # fmt: skip
            if len(old) > REMOVED_AT_ONCE:
                self._clean_at = 0.0
            return self._remove(old[:REMOVED_AT_ONCE])

    def _remove(self, old: list[tuple[int, str]]) -> int:
        for version, name in old:
            fault("log:unlink")
            try:
                os.unlink(name, dir_fd=self._log_fd)
            except FileNotFoundError:
                continue
            self._oldest = max(self._oldest, version + 1)
        if old:
            fault("log:unlinked")
            # What is left needs none of them; but a commit shall not find this left to be done.
            os.fsync(self._log_fd)
            fault("log:cleaned")
            log.debug("removed %d old files of the log of %s", len(old), self._path)
        return len(old)

    def _find_horizon(self, checkpoints: list[int], oldest: int, newest: int) -> int:
        """Return the checkpoint below which nothing is needed; -1 when there is none.

        Or when nothing is below it: then it need not be read.
        """
        *older, last = [version for version in checkpoints if version <= newest] or [-1]
        pointed = find_last_checkpoint(self._log_dir)
        if pointed in checkpoints:
            # Readers begin there, also where a crash kept it from naming a newer one.
            older = [version for version in older if version <= pointed]
        older = [version for version in older if version <= newest - KEPT_ENTRIES]
        useful = [version for version in older if version > oldest and self._is_old(version)]
        if not useful or not self._is_sound(last):
            return -1
        return next(filter(self._is_sound, reversed(useful)), -1)

    def _is_old(self, version: int) -> bool:
        written_s = _written_s(self._log_dir, version)
        # A clock that was set back a year shall not keep everything for a year.
        return written_s is not None and abs(time.time() - written_s) >= SAFE_AGE_S

    def _is_sound(self, version: int) -> bool:
        """Return whether a checkpoint is durable and can be read: ours, or another program's."""
        if version < 0:
            return False
        if version not in self._sound:
            path = os.path.join(self._log_dir, checkpoint_name(version))
            try:
                read_checkpoint(path, checkpoint_name(version))
            except StoreDamaged as error:
                log.warning("%s in %s", error, self._log_dir)
                return False
            fsync_path(path)
            os.fsync(self._log_fd)
            self._sound.add(version)
        return True


def _written_s(log_dir: str, version: int) -> float | None:
    """Return when a checkpoint was written; None when there is none."""
    try:
        return os.stat(os.path.join(log_dir, checkpoint_name(version))).st_mtime
    except FileNotFoundError:
        return None
