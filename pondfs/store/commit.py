"""Publishing: one Delta log entry, there whole and durable or not at all.

delta-rs never calls fsync, so it could tell a program that its data is safe when it is not; and
its commits slow down as the table ages. An entry is a small JSON file, so we write it ourselves:
into an inode without a name, fsync, then link it to ``N.json``, which fails if N is taken, then
fsync ``_delta_log/``.

What a crash leaves:

==================================  ===========================================================
before the link                     a data file nothing refers to
after the link, before its fsync    either that, or the whole commit: nobody was told yet
after the fsync of ``_delta_log/``  the whole commit
==================================  ===========================================================

Source: Delta protocol, "Delta Log Entries"; open(2) O_TMPFILE; linkat(2).
"""

import errno
import os
import time
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from pondfs import __version__
from pondfs.errors import ForeignCommit, StoreDamaged
from pondfs.node import Version
from pondfs.oplog import Cut
from pondfs.store.content import DataFile
from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import (
    APP_ID,
    PRUNED,
    Action,
    BadEntryError,
    check_protocol,
    encode_entry,
    entry_name,
    file_name,
    read_entry,
)
from pondfs.store.faults import fault
from pondfs.store.rows import summary_facts

# Filesystems without O_TMPFILE say one of these (EISDIR: kernels that do not know the flag).
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


def entry(
    cut: Cut,
    files: Iterable[DataFile],
    first_version: Version | None = None,
    *,
    marks: bool = False,
) -> bytes:
    """Return the log entry that makes *files* part of the table as the cut's version.

    With *first_version* they hold the versions from that one up to the cut's. One that *marks* says
    that versions before may have been pruned, from now on none may be missing without a prune.
    """
    now_ms = time.time_ns() // 1_000_000
    # What `log` shows, so that it need not open data files.
    facts: dict[str, Any] = {
        "version": cut.version,
        "time_ns": cut.time_ns,
        **summary_facts(cut.summary),
    }
    if first_version is not None:
        # What the others were about is told by their commit rows alone.
        facts["first_version"] = first_version
    info: dict[str, Any] = {
        "timestamp": now_ms,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append"},
        "isBlindAppend": True,
        "engineInfo": f"pondfs/{__version__}",
    }
    actions: list[Action] = [
        {"txn": {"appId": APP_ID, "version": cut.version, "lastUpdated": now_ms}},
    ]
    if marks:
        before = (cut.version if first_version is None else first_version) - 1
        actions.append({"txn": {"appId": PRUNED, "version": before, "lastUpdated": now_ms}})
    actions.extend({"add": add_action(file)} for file in files)
    return encode_entry(info, facts, actions)


def add_action(file: DataFile) -> Action:
    """Return the Delta add action of a data file."""
    return {
        "path": quote(file.name),
        "partitionValues": {},
        "size": file.size,
        "modificationTime": file.modified_ms,
        "dataChange": True,
        "stats": file.stats,
    }


def put_entry(log_fd: int, log_dir: str, number: int, data: bytes) -> None:
    """Make *data* the log entry *number*, unless there is one.

    Durability: the entry and its name are fsynced on return.
    Raises: FileExistsError when the number is taken; OSError as the disk says. After an error
        the entry may be there (when only the last fsync failed): look before trying again.
    """
    name = entry_name(number)
    try:
        fd = os.open(log_dir, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        temporary = None
    except OSError as error:
        if error.errno not in NO_TMPFILE:
            raise
        # No reader takes a name with a leading dot for an entry; opening sweeps it up.
        temporary = f".{number:020d}.{uuid.uuid4()}.tmp"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=log_fd)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        fault("commit:entry-fsync")
        os.fsync(fd)
        fault("commit:link")
        if temporary is None:
            # A dir_fd makes Python call linkat, which alone follows the /proc symlink.
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=log_fd, follow_symlinks=True)
        else:
            os.link(temporary, name, src_dir_fd=log_fd, dst_dir_fd=log_fd)
    finally:
        os.close(fd)
        if temporary is not None:
            try:
                os.unlink(temporary, dir_fd=log_fd)
            except OSError:
                pass
    fault("commit:log-dir-fsync")
    os.fsync(log_fd)
    fault("commit:done")


def who_took(log_dir: str, number: int) -> list[Action] | None:
    """Return the actions of log entry *number*; None when there is no such entry.

    Raises: StoreDamaged when it is not whole.
    """
    try:
        return read_entry(log_dir, number)
    except FileNotFoundError:
        return None
    except BadEntryError as error:
        raise StoreDamaged(
            f"log entry {entry_name(number)} in {log_dir}, written by another program, is damaged "
            f"({error}): nothing more can be committed until that is repaired"
        ) from None


def is_commit_of(actions: list[Action], version: Version) -> bool:
    """Return whether the entry is pondfs's commit of *version*."""
    return any(
        action["txn"].get("appId") == APP_ID and action["txn"].get("version") == version
        for action in actions
        if "txn" in action
    )


def check_foreign(actions: list[Action], number: int, schema_string: str) -> None:
    """Refuse to commit after another writer's entry that conflicts with ours.

    Appended rows do not: they are not ours to judge. Nor does a rewrite of files we hold
    positions in (OPTIMIZE: every action says dataChange=false): the rows stay the same, and the
    old files stay readable until a vacuum, open ones even longer. Removed rows, another schema,
    a higher protocol or files that are not in the store's own directory do.

    Raises: ForeignCommit saying what it did.
    """
    name = entry_name(number)
    for action in actions:
        if "txn" in action and action["txn"].get("appId") == APP_ID:
            raise ForeignCommit(
                f"another pondfs committed version {action['txn'].get('version')} ({name}) to this "
                "store: unmount one of the two"
            )
        if "remove" in action and action["remove"].get("dataChange", True):
            raise ForeignCommit(
                f"another program removed rows from this pond ({name}): unmount, and restore the "
                "table to the version before"
            )
        if "metaData" in action and (
            action["metaData"].get("schemaString") != schema_string
            or action["metaData"].get("partitionColumns")
        ):
            raise ForeignCommit(
                f"another program changed the table's schema ({name}): unmount, and restore the "
                "table to the version before"
            )
        if "protocol" in action:
            try:
                check_protocol(action["protocol"])
            except StoreDamaged as error:
                raise ForeignCommit(f"{error} ({name})") from None
        try:
            for kind in action.keys() & {"add", "remove"}:
                file_name(action[kind])
        except StoreDamaged as error:
            # Said now, and not by the next opening, which refuses all of it.
            raise ForeignCommit(f"{error} ({name})") from None


def sweep_temporaries(log_dir: str) -> None:
    """Remove what a crash left of entries that were never linked."""
    for name in os.listdir(log_dir):
        if name.startswith(".") and name.endswith(".tmp"):
            unlink_quietly(os.path.join(log_dir, name))
