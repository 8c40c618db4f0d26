"""One moment of a pond: what its log says then, and all its rows.

Beside a writer that commits, compacts and prunes: the lock for readers keeps data files where they
are; what comes later is not looked at.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from pondfs.errors import NotAPond, StoreDamaged
from pondfs.store.check.report import Report, Wrong, invariant
from pondfs.store.content import DataFile
from pondfs.store.deltalog import (
    LOG_DIR,
    BadHeadError,
    Snapshot,
    entry_name,
    list_log,
    read_entry,
    read_snapshot,
)
from pondfs.store.files import data_files
from pondfs.store.scan import in_order
from pondfs.store.table import POND_DIR, what_is_missing

_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Head:
    """The newest log entry, if it does not count.

    Attributes:
        number: the entry.
        why: what is wrong.
        is_rotten: whether no crash leaves it like that.
    """

    number: int
    why: str
    is_rotten: bool = False


@dataclass(slots=True)
class Point:
    """What the log says at one moment.

    Attributes:
        store: the pond's directory.
        log_dir: its log.
        snapshot: the table's state.
        files: its data files, in the order of their versions.
        head: the newest entry, if it is bad: the snapshot is that before it.
        readable: those of the data files that are there and whose rows can be read.
    """

    store: str
    log_dir: str
    snapshot: Snapshot
    files: list[DataFile]
    head: Head | None = None
    readable: list[DataFile] = field(default_factory=list)

    def is_outdated(self) -> bool:
        """Return whether data files are gone because the table does not have them any more.

        It happens where the lock for readers could not be had.
        """
        missing = {file.name for file in self.files if what_is_missing(file.path, file.size)}
        if not missing:
            return False
        try:
            now = read_snapshot(self.log_dir)
        except (BadHeadError, StoreDamaged):
            return False
        return not missing <= now.adds.keys()


def read_whole(log_dir: str) -> Snapshot:
    """Return the table's state as of the newest log entry that is whole.

    Raises: StoreDamaged when more than the newest is not.
    """
    try:
        return read_snapshot(log_dir)
    except BadHeadError as error:
        return _read_before(log_dir, error.version)


def _read_before(log_dir: str, head: int) -> Snapshot:
    try:
        return read_snapshot(log_dir, up_to=head - 1)
    except BadHeadError as error:
        raise StoreDamaged(
            f"log entry {entry_name(error.version)} in {log_dir} is damaged too ({error.reason})"
        ) from None


def take_point(store: str, report: Report) -> Point | None:
    """Return what the log says now; None when it can't be read, which is a finding then.

    Raises: NotAPond; OSError.
    """
    if os.path.exists(os.path.join(store, POND_DIR, "creating")):
        raise NotAPond(f"the creation of pond {store} was interrupted: run 'pond init' again")
    log_dir = os.path.join(store, LOG_DIR)
    try:
        for _ in range(_LOOKS):
            point = _look(store, log_dir)
            if not point.is_outdated():
                break
    except StoreDamaged as error:
        report.add(log_is_readable(error))
        return None
    report.add(head_is_whole(point))
    return point


def _look(store: str, log_dir: str) -> Point:
    head = None
    try:
        snapshot = read_snapshot(log_dir)
        # As opening has it: a crash can leave an entry whose data files are not whole.
        if how := _head_lacks(store, log_dir, snapshot):
            head = Head(snapshot.version, how)
    except BadHeadError as error:
        head = Head(error.version, error.reason, error.is_rotten)
    if head is not None:
        if head.number == 0:
            raise StoreDamaged(f"the only log entry in {log_dir} is damaged ({head.why})")
        snapshot = _read_before(log_dir, head.number)
    return Point(store, log_dir, snapshot, in_order(data_files(store, snapshot), None), head)


def _head_lacks(store: str, log_dir: str, snapshot: Snapshot) -> str:
    """Return what the newest entry's own data files lack; "" for nothing."""
    entries, _ = list_log(log_dir)
    if snapshot.checkpoint >= snapshot.version or snapshot.version not in entries:
        return ""
    try:
        actions = read_entry(log_dir, snapshot.version)
    except FileNotFoundError:
        return ""
    mine = Snapshot()
    mine.apply(snapshot.version, [action for action in actions if "add" in action])
    for file in data_files(store, mine):
        if how := what_is_missing(file.path, file.size):
            return f"its data file {file.name} {how}"
    return ""


@invariant("log-readable")
def log_is_readable(error: StoreDamaged) -> Iterator[Wrong]:
    """From the newest readable checkpoint on the log has every entry, and each can be read."""
    yield Wrong(str(error))


@invariant(
    "log-head",
    mend="sets it aside, as mounting does if a crash left it: the pond is as of the version before",
)
def head_is_whole(point: Point) -> Iterator[Wrong]:
    """The newest log entry is whole, and so are the data files it brought: a crash on a disk that
    did not do what it said can leave one that is not.
    """
    if point.head is not None:
        name = entry_name(point.head.number)
        or_mounting = "" if point.head.is_rotten else ", or mounting,"
        yield Wrong(
            f"the newest log entry {os.path.join(point.log_dir, name)} is not whole "
            f"({point.head.why}): 'pond repair'{or_mounting} sets it aside and goes on from the "
            "version before; a backup may have it"
        )
