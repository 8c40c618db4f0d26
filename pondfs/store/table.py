"""Creating and opening the Delta table.

What a crash during `create` leaves is told by ``_pond/creating``: while it is there nobody has
been told that the pond exists, so the next `create` starts over.
"""

import os
import re
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass

from pondfs.errors import NotAPond, NotPermitted, PondExists, StoreDamaged
from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import (
    LAST_CHECKPOINT,
    LOG_DIR,
    Action,
    BadHeadError,
    Snapshot,
    checkpoint_name,
    encode_entry,
    entry_name,
    file_name,
    find_last_checkpoint,
    list_log,
    read_entry,
    read_snapshot,
)
from pondfs.store.existence import is_directory, is_there
from pondfs.store.faults import fault
from pondfs.store.lock import acting_as, find_owner

POND_DIR = "_pond"
"""Holds what is local and can be rebuilt; Delta readers skip names with an underscore."""

SET_ASIDE_DIR = "set-aside"

_OUR_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.parquet")
_CREATING = "creating"
_LOST_AND_FOUND = "lost+found"  # a fresh ext4 has one; the store may be a disk of its own

_CONFIGURATION: dict[str, str | None] = {
    "delta.appendOnly": "true",
    # delta-rs would clean the log after an unsynced checkpoint and lose the table with it.
    "delta.enableExpiredLogCleanup": "false",
    # Checkpoints are ours to write, synced.
    "delta.checkpointInterval": "1000000000",
    # What `deltalog` knows, whatever delta-rs comes to prefer.
    "delta.minReaderVersion": "1",
    "delta.minWriterVersion": "2",
}


@dataclass(slots=True)
class Opened:
    """What opening found."""

    snapshot: Snapshot
    notes: list[str]


def is_pond(store: str) -> bool:
    """Return whether *store* holds a pond whose creation was finished."""
    if is_there(os.path.join(store, POND_DIR, _CREATING)):
        return False
    try:
        entries, checkpoints = list_log(os.path.join(store, LOG_DIR))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return bool(entries or checkpoints)


def make_directory(store: str) -> None:
    """Make the store's directory, its parents and ``_pond/``, durably.

    Raises: PondExists when it holds a finished pond, or anything that is not ours.
    """
    made: list[str] = []
    path = os.path.abspath(store)
    while not is_there(path):
        made.append(path)
        path = os.path.dirname(path)
    for path in reversed(made):
        os.mkdir(path, 0o700)
    if not is_directory(store):
        raise PondExists(f"{store} is there and is no directory")
    if is_pond(store):
        raise PondExists(f"{store} already holds a pond")
    pond = os.path.join(store, POND_DIR)
    if not is_there(os.path.join(pond, _CREATING)) and not _is_empty(store):
        raise PondExists(f"{store} is not empty and holds no pond: choose another directory")
    _make_private(store)
    os.makedirs(pond, 0o700, exist_ok=True)
    fault("create:directory")
    fsync_path(store)
    for path in made:
        fsync_path(os.path.dirname(path))


def _make_private(store: str) -> None:
    """Take a directory that was there before away from everybody but its owner.

    What is in it is private anyway; but whoever may write in it could put another pond in its
    place.

    Raises: NotPermitted for what belongs to somebody else.
    """
    found = os.stat(store)
    if found.st_uid != os.geteuid() and os.geteuid():
        raise NotPermitted(
            f"{store} belongs to user {found.st_uid}: make a pond in a directory of your own"
        )
    if found.st_mode & 0o077:
        os.chmod(store, 0o700)


def begin_creation(store: str) -> None:
    """Set the marker and clear away an earlier creation that did not get to its end.

    Only while holding the writer lock: whoever else has it may be in the middle of creating.
    Nothing of what is cleared away was ever acknowledged.

    Raises: PondExists when somebody else finished the pond meanwhile.
    """
    pond = os.path.join(store, POND_DIR)
    if is_pond(store):
        raise PondExists(f"{store} already holds a pond")
    marker = os.path.join(pond, _CREATING)
    with open(marker, "wb", opener=_private):
        pass
    fsync_path(marker)
    fsync_path(pond)
    fault("create:marker")
    if is_directory(log_dir := os.path.join(store, LOG_DIR)):
        shutil.rmtree(log_dir)
    for name in os.listdir(store):
        if name.endswith(".parquet"):
            os.unlink(os.path.join(store, name))
    fault("create:cleared")


def _is_empty(store: str) -> bool:
    """Whether there is nothing of anybody's; ``_pond/`` alone never holds anything that counts."""
    return not set(os.listdir(store)) - {_LOST_AND_FOUND, POND_DIR}


def create_table(store: str) -> None:
    """Make the empty table (Delta version 0), durably.

    delta-rs says what the first log entry holds, in a directory of its own: it takes a path for a
    URL, so that a store named ``100%`` or with a line break would not be the one it makes.
    """
    from deltalake import DeltaTable

    from pondfs.store.commit import put_entry
    from pondfs.store.schema import delta_schema

    with tempfile.TemporaryDirectory(prefix="pond-") as scratch:
        DeltaTable.create(
            scratch,
            schema=delta_schema(),
            name="pond",
            description="A pondfs filesystem: one row per change. See the columns' comments.",
            configuration=_CONFIGURATION,
        )
        actions = read_entry(os.path.join(scratch, LOG_DIR), 0)
    # In order of the protocol's own examples: what is known of the commit first.
    info: Action = {}
    for action in actions:
        info |= action.get("commitInfo", {})
    entry = encode_entry(info, {}, [action for action in actions if "commitInfo" not in action])
    log_dir = os.path.join(store, LOG_DIR)
    os.mkdir(log_dir, 0o700)
    fault("create:log-dir")
    log_fd = os.open(log_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        put_entry(log_fd, log_dir, 0, entry)
    finally:
        os.close(log_fd)
    fsync_path(store)
    fault("create:table")


def finish_creation(store: str) -> None:
    """Take the marker away: from here on the pond exists."""
    pond = os.path.join(store, POND_DIR)
    os.unlink(os.path.join(pond, _CREATING))
    fault("create:unmarked")
    fsync_path(pond)
    fault("create:done")


def open_table(store: str, *, writable: bool, mending: bool = False) -> Opened:
    """Read the log, check that it is whole and that its data files are there.

    A newest entry that is not whole (a disk that lied about fsync, and a power cut) is set aside
    when *writable*, ignored otherwise; the notes say so. One that rotted is of a commit that
    somebody was told of: it is set aside only when *mending*.

    Raises: NotAPond; StoreDamaged naming the file that is missing or bad.
    """
    if is_there(os.path.join(store, POND_DIR, _CREATING)):
        raise NotAPond(f"the creation of pond {store} was interrupted: run 'pond init' again")
    log_dir = os.path.join(store, LOG_DIR)
    try:
        snapshot = read_snapshot(log_dir)
        bad = _missing_files(store, snapshot)
        if not bad:
            return Opened(snapshot, [])
        head = snapshot.version
        added: set[str] = set()
        # What a checkpoint covers was whole once: then this is no matter of a crash.
        if snapshot.checkpoint < head:
            actions = read_entry(log_dir, head)
            added = {file_name(action["add"]) for action in actions if "add" in action}
        for name, how in bad.items():
            if name not in added:
                raise _lost(store, name, how)
        name, how = next(iter(bad.items()))
        reason = f"its data file {name} {how}"
    except BadHeadError as error:
        head, reason = error.version, error.reason
        if error.is_rotten and not mending:
            raise StoreDamaged(
                f"the newest log entry {os.path.join(log_dir, entry_name(head))} is damaged "
                f"({reason}), and not by a crash: restore it from a backup, or have 'pond repair' "
                "set it aside and go back to the version before"
            ) from None
    if head == 0:
        raise StoreDamaged(f"the only log entry in {log_dir} is damaged ({reason})")
    try:
        snapshot = read_snapshot(log_dir, up_to=head - 1)
    except BadHeadError as error:
        raise StoreDamaged(
            f"log entry {entry_name(error.version)} in {log_dir} is damaged too ({error.reason}): "
            "restore it from a backup"
        ) from None
    for name, how in _missing_files(store, snapshot).items():
        raise _lost(store, name, how)
    # Only now: a pond that is refused stays as it is.
    note = _set_aside(store, head, reason) if writable else _ignored(log_dir, head, reason)
    return Opened(snapshot, [note])


def find_strays(store: str, snapshot: Snapshot) -> list[str]:
    """Return data files nothing refers to: of stages and commits that did not get to their end."""
    return sorted(
        name
        for name in os.listdir(store)
        if name.endswith(".parquet") and name not in snapshot.adds and name not in snapshot.removes
    )


def has_set_aside(store: str) -> bool:
    """Return whether something of the log was ever set aside: its data files are strays, too."""
    try:
        return bool(os.listdir(os.path.join(store, POND_DIR, SET_ASIDE_DIR)))
    except FileNotFoundError:
        return False


def is_ours(name: str) -> bool:
    """Return whether a data file has a name as we give them: a bare UUID."""
    return _OUR_NAME.fullmatch(name) is not None


def old_enough(store: str, name: str, min_age_s: float) -> bool:
    """Return whether the file was last written at least *min_age_s* seconds ago."""
    try:
        return time.time() - os.stat(os.path.join(store, name)).st_mtime >= min_age_s
    except FileNotFoundError:
        return False


def fsync_newest(log_dir: str) -> None:
    """Make the newest log entry, and that it is there, durable."""
    entries, _ = list_log(log_dir)
    if entries:
        fsync_path(os.path.join(log_dir, entry_name(entries[-1])))
    fsync_path(log_dir)


def fsync_path(path: str) -> None:
    """Make a file, or the names in a directory, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _missing_files(store: str, snapshot: Snapshot) -> dict[str, str]:
    """Return the active files that are missing or of another size, and what is wrong."""
    bad: dict[str, str] = {}
    for name, add in snapshot.adds.items():
        if how := what_is_missing(os.path.join(store, name), add["size"]):
            bad[name] = how
    return bad


def what_is_missing(path: str, size: int) -> str:
    """Return how a data file is not there; "" when it is, with the size it should have."""
    try:
        # A symlink is none of ours, and might lead to what its maker can't read.
        found = os.lstat(path)
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    return "" if found.st_size == size else f"has {found.st_size} bytes instead of {size}"


def _lost(store: str, name: str, how: str) -> StoreDamaged:
    return StoreDamaged(f"data file {os.path.join(store, name)} {how}: restore it from a backup")


def _set_aside(store: str, head: int, reason: str) -> str:
    name = entry_name(head)
    log_dir = os.path.join(store, LOG_DIR)
    aside = os.path.join(store, POND_DIR, SET_ASIDE_DIR)
    target = os.path.join(aside, f"{name}.{time.time_ns()}")
    # A copy, not a rename: `_pond/` may be a link to another disk. On behalf of the owner, who may
    # have made a link of what it goes into.
    with acting_as(find_owner(store)):
        os.makedirs(aside, 0o700, exist_ok=True)
        with (
            open(os.path.join(log_dir, name), "rb") as source,
            open(target, "xb", opener=_private) as copy,
        ):
            shutil.copyfileobj(source, copy)
    fault("aside:copied")
    fsync_path(target)
    # First: other readers begin where it leads, and fail where nothing is. Without it they look.
    if find_last_checkpoint(log_dir) == head:
        unlink_quietly(os.path.join(log_dir, LAST_CHECKPOINT))
    os.unlink(os.path.join(log_dir, name))
    fault("aside:unlinked")
    # One that could be read would have been taken in its place. It must not seem to be of the entry
    # that comes to have this number.
    unlink_quietly(os.path.join(log_dir, checkpoint_name(head)))
    fsync_path(aside)
    fsync_path(os.path.dirname(aside))
    fsync_path(log_dir)
    return (
        f"the newest log entry {name} was not whole ({reason}) and was set aside as {target}; "
        f"the pond opens at the commit before it"
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _ignored(log_dir: str, head: int, reason: str) -> str:
    return f"the newest log entry {entry_name(head)} in {log_dir} is not whole ({reason}); ignored"
