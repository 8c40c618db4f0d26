"""Keeping the log short while a pond is open for writing: checkpoints when they are due."""

import logging
import os

from pondfs.errors import StoreDamaged
from pondfs.store import checkpoint, prune_swap
from pondfs.store.deltalog import BadHeadError, Snapshot, read_snapshot
from pondfs.store.lock import Owner, acting_as
from pondfs.store.publish import Publisher

log = logging.getLogger("pondfs.store")


class LogKeeper:
    """Writes the checkpoints of one pond. For whoever holds its writer lock."""

    def __init__(
        self, path: str, log_dir: str, publisher: Publisher, snapshot: Snapshot, owner: Owner | None
    ) -> None:
        self._path = path
        self._log_dir = log_dir
        self._publisher = publisher
        self._owner = owner
        self._checkpoint = snapshot.checkpoint

    def checkpoint(self, *, now: bool = False) -> bool:
        """Write a Delta checkpoint if enough log entries follow the last one, or *now*.

        Raises: OSError; the table is as it was then.
        """
        entries = self._publisher.next_entry - 1 - self._checkpoint
        if entries <= checkpoint.ENTRIES_BETWEEN and not now:
            return False
        snapshot = read_snapshot(self._log_dir)
        if not checkpoint.is_due(snapshot) and not now:
            return False
        for name in prune_swap.left_over(snapshot):
            if not os.path.lexists(os.path.join(self._path, name)):
                # Nothing a vacuum could still have to remove.
                del snapshot.removes[name]
        with acting_as(self._owner):
            done = checkpoint.write_checkpoint(self._log_dir, snapshot)
        self._checkpoint = snapshot.checkpoint
        return done

    def checkpoint_quietly(self, *, now: bool = False) -> None:
        """As `checkpoint`; what keeps it from being written is logged, not raised."""
        try:
            self.checkpoint(now=now)
        except (OSError, StoreDamaged, BadHeadError) as error:
            # Only a shortcut for the next opening is missing.
            log.warning("no checkpoint of %s: %s", self._path, error)
