"""Trying until a commit is in the log, once: retries, and other writers in the way.

A try can end in three ways: the entry is there and durable; it is certain that it is not there;
or nobody knows, because the error came after the name was made. The third is settled by looking
into the log before anything else is tried: there the entry names the data file of its try.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from pondfs.errors import ForeignCommit, StoreDamaged
from pondfs.node import Version
from pondfs.oplog import Cut, Settled
from pondfs.store import commit
from pondfs.store.content import DataFile
from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import Action, entry_name
from pondfs.store.faults import fault
from pondfs.store.table import fsync_path

log = logging.getLogger("pondfs.store")


@dataclass(slots=True)
class Attempt:
    """One try: what it wrote, and the log entry it wanted."""

    cut: Cut
    settled: Settled
    number: int


class Publisher:
    """Makes cuts log entries, one after the other.

    Attributes:
        next_entry: the log entry the next commit will want.
    """

    def __init__(
        self,
        log_dir: str,
        log_fd: int,
        next_entry: int,
        schema_string: str,
        *,
        has_mark: bool = True,
    ) -> None:
        self.next_entry = next_entry
        # Whether the log says up to where versions may be missing; else the next commit does.
        self._has_mark = has_mark
        self._log_dir = log_dir
        self._log_fd = log_fd
        self._schema_string = schema_string
        # The last try, while nobody knows how it ended.
        self._open_attempt: Attempt | None = None

    @property
    def undecided_file(self) -> str | None:
        """The data file of a try that may be in the log or not."""
        attempt = self._open_attempt
        return None if attempt is None else attempt.settled.file.name

    def publish(
        self, cut: Cut, write: Callable[[], Settled], first_version: Version | None = None
    ) -> Settled:
        """Make *cut* a log entry; *write* makes its last data file durable.

        With *first_version* that file holds the versions from that one on as well.

        Durability: the commit is durable on return.
        Raises: ForeignCommit; OSError as the disk says. Calling again with the same cut is safe.
        """
        settled = self._find_landed(cut)
        if settled is not None:
            return settled
        settled = write()
        data = commit.entry(
            cut, [*cut.staged, settled.file], first_version, marks=not self._has_mark
        )
        try:
            while True:
                self._open_attempt = Attempt(cut, settled, self.next_entry)
                try:
                    commit.put_entry(self._log_fd, self._log_dir, self.next_entry, data)
                    break
                except FileExistsError:
                    self._step_over_foreign()
        except BaseException:
            self._settle_attempt()
            raise
        self._open_attempt = None
        self._has_mark = True
        self.next_entry += 1
        return settled

    def publish_entry(self, data: bytes) -> None:
        """Make *data*, which carries no rows, a log entry. Only while no try is undecided.

        Durability: it is durable on return.
        Raises: as `publish`. Calling again after an error is harmless: it says the same twice.
        """
        while True:
            try:
                commit.put_entry(self._log_fd, self._log_dir, self.next_entry, data)
            except FileExistsError:
                self._step_over_foreign()
            else:
                self.next_entry += 1
                return

    def publish_swap(self, make: Callable[[], bytes]) -> None:
        """As `publish_entry`, for an entry that must not be said twice.

        *make* is asked again when another writer came first: it looks at what is there then. When
        the entry stands in the log but could not be synced, it counts: what comes after it syncs
        the same directory, and nobody may act on it being durable before that was done.
        """
        while True:
            data = make()
            try:
                fault("prune:entry")
                commit.put_entry(self._log_fd, self._log_dir, self.next_entry, data)
            except FileExistsError:
                self._step_over_foreign()
                continue
            except OSError as error:
                if not self._holds(data):
                    raise
                log.warning("a log entry is there but may not be durable yet: %s", error)
            self.next_entry += 1
            return

    def _holds(self, data: bytes) -> bool:
        try:
            with open(os.path.join(self._log_dir, entry_name(self.next_entry)), "rb") as file:
                return file.read() == data
        except FileNotFoundError:
            return False

    def _step_over_foreign(self) -> None:
        """Another writer took the log entry we wanted: go on with the next, if we may."""
        number = self.next_entry
        actions = commit.who_took(self._log_dir, number)
        if actions is not None:
            commit.check_foreign(actions, number, self._schema_string)
            log.info("another program wrote log entry %s; going on after it", entry_name(number))
            self.next_entry += 1

    def _settle_attempt(self) -> None:
        """After an error: forget the try if it is certain that its entry is not there."""
        attempt = self._open_attempt
        if attempt is None:
            return
        try:
            landed = self._has_landed(attempt)
        except (OSError, StoreDamaged):
            return
        if not landed:
            unlink_quietly(attempt.settled.file.path)
            self._open_attempt = None

    def _has_landed(self, attempt: Attempt) -> bool:
        actions = commit.who_took(self._log_dir, attempt.number)
        return actions is not None and _adds(actions, attempt.settled.file)

    def _find_landed(self, cut: Cut) -> Settled | None:
        """Return what an earlier try of *cut* wrote, if its entry did reach the log.

        Durability: as `publish`: the entry is fsynced again, as the error may have been that.
        """
        attempt = self._open_attempt
        if attempt is None:
            return None
        if not self._has_landed(attempt):
            self._settle_attempt()
            return None
        if attempt.cut is not cut:
            raise ForeignCommit(
                f"version {attempt.cut.version} is already in the log with other rows: unmount"
            )
        fsync_path(os.path.join(self._log_dir, entry_name(attempt.number)))
        os.fsync(self._log_fd)
        self._open_attempt = None
        self._has_mark = True
        self.next_entry = attempt.number + 1
        return attempt.settled


def _adds(actions: list[Action], file: DataFile) -> bool:
    return any(action["add"].get("path") == file.name for action in actions if "add" in action)
