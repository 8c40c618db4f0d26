"""The store itself: who may use it, its log, its journal, its image, what crashes left in it.

Only looked at; nothing is taken, locked or mended. Whether each row and content is as it was
written is what ``pond check`` finds out, which reads all of them.
"""

import contextlib
import json
import os
import shlex
import stat
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from pondfs.doctor.finding import Finding, error, note, ok, warning
from pondfs.doctor.machine import user_name
from pondfs.doctor.processes import find_lock_holder, sees_all_locks
from pondfs.doctor.scene import NoMore, Scene
from pondfs.errors import NotAPond, PondError
from pondfs.node import Version
from pondfs.oplog import VersionInfo
from pondfs.store import checkpoint, imagefile, journal, table
from pondfs.store.deltalog import LOG_DIR
from pondfs.store.files import data_files
from pondfs.store.images import WORTH_FILES, WORTH_ROWS
from pondfs.store.leftovers import STRAY_AGE_S
from pondfs.store.lock import LOCK_FILE, find_holder
from pondfs.store.log import read_versions
from pondfs.store.request import find_unfinished
from pondfs.store.table import POND_DIR, SET_ASIDE_DIR

LONG_LOG_ENTRIES = 3 * checkpoint.ENTRIES_BETWEEN
"""So many entries after the checkpoint: then several checkpoints were not written."""

LONG_LOG_ENTRIES_HELD = 20 * checkpoint.ENTRIES_BETWEEN
"""A mount that commits all the time writes them when it comes to it: with some missing then, all is
well."""

MANY_FILES = 2000
"""Each is a few system calls for whoever reads the pond by SQL; a mount puts them together."""

CLOCK_SLACK_S = 60.0
"""Clocks are set by fractions of a second all the time; a minute is a jump."""

COMPARED_VERSIONS = 100
"""How far back it is looked for a clock that went back."""

LOG_TAIL_BYTES = 256 << 10


def look_at_store(scene: Scene) -> Iterator[Finding]:
    """Whether there is a pond, and whether it is ours to look into and safe from others."""
    store = scene.store
    try:
        found = os.stat(store)
        os.listdir(store)
        os.listdir(os.path.join(store, LOG_DIR))
        with contextlib.suppress(FileNotFoundError):  # all in it can be done without
            os.listdir(os.path.join(store, POND_DIR))
    except (FileNotFoundError, NotADirectoryError):
        yield from _look_at_no_pond(scene)
        raise NoMore from None
    except PermissionError:
        who = user_name(os.geteuid())
        yield note(
            f"{store} is closed to {who}: what is in it was not looked at",
            "ask as its owner or as root",
            f"sudo pond doctor {shlex.quote(store)}",
        )
        raise NoMore from None
    if not table.is_pond(store):
        yield from _look_at_no_pond(scene)
        raise NoMore
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        yield warning(
            f"{store} (mode {mode:04o}) may be changed by others than its owner: they can remove "
            "files of the pond",
            "close it",
            f"chmod go-w {shlex.quote(store)}",
        )
    else:
        yield ok(f"{store} belongs to {user_name(found.st_uid)} (mode {mode:04o})")
    owners = {
        name: os.lstat(os.path.join(store, name)).st_uid for name in sorted(os.listdir(store))
    }
    strangers = [name for name, owner in owners.items() if owner != found.st_uid]
    if strangers and found.st_uid:  # what is root's, root may work with whoever owns parts of it
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        yield warning(
            f"{store} belongs to {user_name(found.st_uid)}, but {strangers[0]}{more} in it does "
            "not: its owner can't work with that",
            "give it to the owner",
            f"sudo chown -R --reference={shlex.quote(store)} {shlex.quote(store)}",
        )


def _look_at_no_pond(scene: Scene) -> Iterator[Finding]:
    store, init = scene.store, f"pond init {shlex.quote(scene.store)}"
    if os.path.exists(os.path.join(store, POND_DIR, "creating")):
        yield error(f"the creation of the pond at {store} was interrupted", "begin it again", init)
    elif scene.is_named:
        yield error(f"there is no pond at {store}", "name another place, or make one", init)
    else:
        yield note(f"there is no pond at {store}, the default place", "make one", init)


def look_at_log(scene: Scene) -> Iterator[Finding]:
    """Whether the table's log is whole, its data files are there, and it is short."""
    try:
        opened = table.open_table(scene.store, writable=False)
    except NotAPond as trouble:
        yield error(str(trouble))
        raise NoMore from None
    except PondError as trouble:
        yield error(str(trouble), "have all of it checked, before you restore anything",
                    f"pond check --data {shlex.quote(scene.store)}")  # fmt: skip
        raise NoMore from None
    snapshot = opened.snapshot
    for text in opened.notes:
        yield warning(
            f"{text}: a crash on a disk that lied about fsync, or a damaged one. What was told to "
            "be kept in it is lost",
            "the next mount sets it aside; look for how the disk could lose it",
        )
    for version in snapshot.damaged:
        yield warning(
            f"the checkpoint of log entry {version} is damaged; the one before it serves",
            "a mount writes a new one; look at the disk, which lost what was synced",
        )
    since = snapshot.version - snapshot.checkpoint
    is_held = since > LONG_LOG_ENTRIES and _is_held(scene.store)
    if since > (LONG_LOG_ENTRIES_HELD if is_held else LONG_LOG_ENTRIES):
        why = f"why they were not written is in {scene.store}/_pond/log"
        yield warning(
            f"the log has {since:,} entries after its last checkpoint, there is to be one every "
            f"{checkpoint.ENTRIES_BETWEEN}: opening the pond takes longer and longer",
            why if is_held else f"mount it; {why}",
        )
    else:
        yield ok(f"version {snapshot.pond_version}; {since} log entries after the checkpoint, "
                 f"{len(snapshot.adds):,} data files")  # fmt: skip
    if snapshot.unknown:
        yield warning(
            f"another program put into the log what pondfs does not know "
            f"({', '.join(sorted(snapshot.unknown))}): no checkpoint can be written any more",
            "find out which program that was, and keep it from the pond",
        )
    if len(snapshot.adds) > MANY_FILES:
        yield note(f"the pond is in {len(snapshot.adds):,} data files", "put them together",
                   f"pond --pond {shlex.quote(scene.store)} compact")  # fmt: skip


def look_at_times(scene: Scene) -> Iterator[Finding]:
    """Whether the clock jumped, as far as commits tell."""
    versions = read_versions(scene.store, COMPARED_VERSIONS)
    newest = versions[0]
    ahead_s = newest.time_ns / 1e9 - time.time()
    if ahead_s > CLOCK_SLACK_S:
        yield warning(
            f"version {newest.version} is of {_date(newest.time_ns)}, {_span(ahead_s)} from now: "
            "the clock was wrong then, or is now. Until then, times like 'yesterday' and "
            "'10m-ago' do not find the newest versions",
            "set the clock; use version numbers instead of times around there",
            "sudo timedatectl set-ntp true",
        )
        return
    # Newest first.
    for later, earlier in pairwise(versions):
        back_s = (earlier.time_ns - later.time_ns) / 1e9
        if back_s > CLOCK_SLACK_S:
            yield note(
                f"the clock went back by {_span(back_s)} between version {earlier.version} "
                f"({_date(earlier.time_ns)}) and version {later.version} "
                f"({_date(later.time_ns)}): times name other versions there than one would think",
                "use version numbers around there",
            )
            return
    yield ok(f"the last commit was {_ago(newest)}, and versions are in the order of time")


def look_at_journal(scene: Scene) -> Iterator[Finding]:
    """Whether versions that were synced wait in the journal for somebody to commit them."""
    store = scene.store
    path = journal.journal_path(store)
    if not os.path.lexists(path):
        yield ok("no versions wait in the journal")
        return
    if _is_held(store):
        yield ok("the journal is in use, by who has the pond open")
        return
    snapshot = table.open_table(store, writable=False).snapshot
    recover = f"pond --pond {shlex.quote(store)} recover"
    try:
        found = journal.load(store, snapshot.metadata["id"], Version(snapshot.pond_version))
    except PondError as trouble:
        yield error(str(trouble))
        return
    if found.trouble:
        yield error(
            f"the journal that a crash left is not whole: {found.trouble}. The disk lost what was "
            "synced, or lied about it",
            "keep a copy of it, then take over what can be read; the rest is set aside",
            f"cp {shlex.quote(path)} /var/tmp/ && {recover}",
        )
    elif found.cuts:
        yield warning(
            f"only the journal has {found.versions}, after a crash: programs that read the table "
            "do not see them yet",
            "mount it, or",
            recover,
        )
    else:
        yield note("a crash left a journal, and all in it is in the table: the next mount removes "
                   "it")  # fmt: skip


def look_at_set_aside(scene: Scene) -> Iterator[Finding]:
    """Whether something of the pond was not whole, once, and was put away for people to see."""
    aside = os.path.join(scene.store, POND_DIR, SET_ASIDE_DIR)
    try:
        names = sorted(os.listdir(aside))
    except FileNotFoundError:
        names = []
    if not names:
        yield ok("nothing was ever set aside")
        return
    since = min(os.stat(os.path.join(aside, name)).st_mtime_ns for name in names)
    yield warning(
        f"{len(names)} file{'s' * (len(names) > 1)} set aside since {_date(since)}: {names[0]}"
        f"{' …' * (len(names) > 1)}. The disk lost, or tore, what was said to be synced; strays "
        "are kept as long as it is there",
        "find out why (power cut? which disk?), then remove it",
        f"rm {shlex.quote(aside)}/*",
    )


def look_at_image(scene: Scene) -> Iterator[Finding]:
    """Whether opening the pond has its short way."""
    store = scene.store
    files = data_files(store, table.open_table(store, writable=False).snapshot)
    path = imagefile.path_of(store)
    remove = f"rm {shlex.quote(path)}"
    if trouble := imagefile.find_trouble(store, files):
        yield warning(
            f"the saved image is damaged ({trouble}): it is not used, and opening reads all rows. "
            "Nothing is lost, but the disk gives back other bytes than were written",
            "it is made anew at the next opening; look at the disk, and check the rest",
            f"{remove}; pond check --data {shlex.quote(store)}",
        )
        return
    found = imagefile.load(store, files, None)
    later = files if found is None else found[1]
    rows = sum(file.row_count or 0 for file in later)
    which = "no saved image"
    if found is not None:
        which = f"the saved image is of version {found[0].version}"
    if rows >= 2 * WORTH_ROWS or len(later) >= 2 * WORTH_FILES:
        yield note(
            f"{which}: opening reads {rows:,} rows in {len(later):,} data files after it",
            "open it for writing once, by mounting it or with",
            f"pond --pond {shlex.quote(store)} recover",
        )
    else:
        yield ok(f"{which}; opening reads {rows:,} rows after it")


def look_at_strays(scene: Scene) -> Iterator[Finding]:
    """Whether files lie about that are in no version."""
    store = scene.store
    names = table.find_strays(store, table.open_table(store, writable=False).snapshot)
    ours = [name for name in names if table.is_ours(name)]
    old = [
        size
        for name in ours
        if table.old_enough(store, name, STRAY_AGE_S)
        # A mount may have removed it meanwhile.
        and (size := _find_size(os.path.join(store, name))) is not None
    ]
    foreign = [name for name in names if not table.is_ours(name) and not name.startswith(".")]
    if old:
        yield note(
            f"{len(old)} data file{'s' * (len(old) > 1)} ({sum(old) / 1e6:,.1f} MB) that a "
            "crash left and no version needs",
            "a mount removes them when it has run for half an hour, unless something is set aside",
        )
    if foreign:
        yield note(
            f"{len(foreign)} Parquet file{'s' * (len(foreign) > 1)} in the store that neither the "
            f"table nor pondfs has made: {foreign[0]}",
            "move them elsewhere, if they are not of a program that is just writing",
        )
    if not _is_held(store) and (unfinished := find_unfinished(store)):
        yield note(
            f"{len(unfinished)} file{'s' * (len(unfinished) > 1)} of a prune or compaction that "
            "did not get to its end, or is at work",
            "the next mount removes what is left over",
        )
    if not old and not foreign:
        yield ok("no data file lies about that no version needs")


def look_at_messages(scene: Scene) -> Iterator[Finding]:
    """Whether the daemon complained since it was mounted last."""
    path = Path(scene.store, POND_DIR, "log")
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return
    last: deque[str] = deque(maxlen=1)
    count = 0
    for line in lines:
        level, logger, message = _parse_line(line)
        if logger == "pondfs.mount" and message.startswith("mounted "):
            last.clear()
            count = 0
        elif level in ("WARNING", "ERROR", "CRITICAL"):
            last.append(line)
            count += 1
    if count:
        yield note(
            f"the daemon complained {count} time{'s' * (count > 1)} since it was mounted last, in "
            f"the end: {last[0]}",
            "read on",
            f"less +G {shlex.quote(str(path))}",
        )
    else:
        yield ok("the daemon has not complained since it was mounted last")


def _parse_line(line: str) -> tuple[str, str, str]:
    """Return level, logger and message of a line of the log, whose forms `logs.FORMATS` has.

    Three times "" for what is no message's line: one of a traceback, one that was cut.
    """
    if line.startswith("{"):
        try:
            told = json.loads(line)
        except ValueError:
            return "", "", ""
        return told.get("level", ""), told.get("logger", ""), told.get("message", "")
    if line.startswith(" ") or len(words := line.split(" ", 4)) < 5:
        return "", "", ""
    return words[2], words[3].removesuffix(":"), words[4]


def _is_held(store: str) -> bool:
    """Return whether somebody has the pond open for writing, or may have where we can't see."""
    pond = os.path.join(store, POND_DIR)
    told = find_holder(pond) or {}
    said = told.get("pid")
    try:
        holder = find_lock_holder(Path(pond, LOCK_FILE), said if isinstance(said, int) else None)
    except FileNotFoundError:
        return False
    return holder is not None or (bool(told) and not sees_all_locks())


def _find_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ago(info: VersionInfo) -> str:
    return _span(max(time.time() - info.time_ns / 1e9, 0)) + " ago"


def _span(seconds: float) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count:,} {unit}{'s' * (count != 1)}"
    return f"{seconds:.0f} seconds"
