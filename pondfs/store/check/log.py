"""The Delta log: entries, checkpoints, and what they say together.

One pass over all that is there, oldest first, which replays the entries; invariants then look at
what it met. The log may be cleaned up meanwhile: what is gone when it is to be read was needless.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pondfs.errors import StoreDamaged
from pondfs.node import Version
from pondfs.store.check.point import read_whole
from pondfs.store.check.report import Wrong, invariant
from pondfs.store.deltalog import (
    APP_ID,
    FACTS,
    LAST_CHECKPOINT,
    Action,
    BadEntryError,
    Snapshot,
    checkpoint_name,
    entry_name,
    find_last_checkpoint,
    list_log,
    read_checkpoint,
    read_entry,
)
from pondfs.store.prune_swap import is_append_only
from pondfs.store.tags import is_taken_off

_LOOKS = 20
_LOOK_AGAIN_S = 0.05
_PRUNE_S = 30.0
"""How long a prune may take between its entry and the next, on a slow disk."""


@dataclass(slots=True)
class LogWalk:
    """What one pass over the log met.

    Attributes:
        log_dir: its directory.
        bad: entries that are not whole, and why.
        differing: checkpoints that do not say what the entries before them do, and what differs.
        unreadable: checkpoints that can't be read, and why.
        jumps: entries whose versions do not follow those of the entry before: what is wrong.
        taken: entries with which another program took out rows, and the data files they were in.
        pruned: the newest version that the newest prune knew; 0 without one.
        newest: the newest entry.
        tells_all: whether all entries from the first on were read, so that no prune can have been
            missed.
    """

    log_dir: str
    bad: dict[int, str] = field(default_factory=dict)
    differing: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    jumps: list[str] = field(default_factory=list)
    taken: dict[int, list[str]] = field(default_factory=dict)
    pruned: Version = Version(0)  # noqa: RUF009  a number
    newest: int = -1
    tells_all: bool = False
    _coming: int = 0  # the version that the next entry should have; 0: nobody knows


def walk_log(log_dir: str) -> LogWalk:
    """Go over the log once. Raises: OSError."""
    walk = LogWalk(log_dir)
    entries, checkpoints = list_log(log_dir)
    walk.newest = max(entries, default=-1)
    walk.tells_all = bool(entries) and entries == list(range(len(entries)))
    has_entry, has_checkpoint = set(entries), set(checkpoints)
    # The table as the entries up to here make it; None while an entry is missing before it.
    state: Snapshot | None = None
    for number in sorted(has_entry | has_checkpoint):
        if number in has_entry:
            if number - 1 not in has_entry:
                walk._coming = 0
            state = _step(walk, state, number)
        elif state is not None and number != state.version:
            state = None
        if number in has_checkpoint:
            state = _compare(walk, state, number)
    return walk


def _step(walk: LogWalk, state: Snapshot | None, number: int) -> Snapshot | None:
    try:
        actions = read_entry(walk.log_dir, number)
    except FileNotFoundError:
        walk._coming = 0
        walk.tells_all = False
        return None
    except BadEntryError as error:
        walk.bad[number] = str(error)
        walk._coming = 0
        # One that a crash cut off told nobody to prune.
        walk.tells_all = walk.tells_all and number == walk.newest
        return None
    _note_versions(walk, number, actions)
    if taken := [name for action in actions for name in _taken_by(action)]:
        walk.taken[number] = taken
    if number == 0:
        state = Snapshot()
    if state is None or number != state.version + 1:
        return None
    try:
        state.apply(number, actions)
    except StoreDamaged:
        return None  # what reading the table says is a finding; a checkpoint may be behind it
    return state


def _note_versions(walk: LogWalk, number: int, actions: list[Action]) -> None:
    facts = actions[0].get("commitInfo", {}).get(FACTS) or {}
    if facts.get("kind") == "prune":
        kept = [int(each["version"]) for each in facts.get("versions", ())]
        walk.pruned = Version(max(kept, default=0))
    for action in actions:
        txn = action.get("txn", {})
        if txn.get("appId") == APP_ID:
            last = Version(int(txn["version"]))
            first = int(facts.get("first_version", last))
            if walk._coming and first != walk._coming:
                walk.jumps.append(
                    f"log entry {entry_name(number)} is of version {first} where {walk._coming} "
                    "was to come"
                )
            walk._coming = last + 1


def _taken_by(action: Action) -> Iterator[str]:
    """Yield the data file whose rows an action takes out of the table for good, if not ours."""
    body = action.get("remove") or {"dataChange": False}
    # A rewrite by whomever keeps the rows and says so; prunes and compactions of ours have a tag.
    if body.get("dataChange", True) and "pondfs" not in (body.get("tags") or {}):
        yield str(body["path"])


def _compare(walk: LogWalk, state: Snapshot | None, number: int) -> Snapshot | None:
    """Hold a checkpoint against the entries; return what to go on from."""
    name = checkpoint_name(number)
    try:
        written = read_checkpoint(os.path.join(walk.log_dir, name), name)
    except FileNotFoundError:
        return state
    except StoreDamaged as error:
        walk.unreadable[number] = str(error)
        return state
    if state is None:
        return written
    if differs := _difference(written, state):
        walk.differing[number] = differs
    return state


def _difference(written: Snapshot, state: Snapshot) -> str:
    """Return what a checkpoint says otherwise than the entries; "" for nothing.

    It may have forgotten files that were removed, and tags that were taken off.
    """
    if lost := state.adds.keys() - written.adds.keys():
        return f"data file {min(lost)} is not in it"
    if more := written.adds.keys() - state.adds.keys():
        return f"data file {min(more)} is in it"
    for name, add in state.adds.items():
        if written.adds[name].get("size") != add.get("size"):
            return f"data file {name} has another size in it"
        if not _same_stats(written.adds[name].get("stats"), add.get("stats")):
            return f"data file {name} has other stats in it"
    if more := written.removes.keys() - state.removes.keys():
        return f"it removes data file {min(more)}"
    mine = {app: txn["version"] for app, txn in written.txns.items() if not is_taken_off(txn)}
    theirs = {app: txn["version"] for app, txn in state.txns.items() if not is_taken_off(txn)}
    if mine != theirs:
        return "it has other versions or tags"
    for key in ("id", "schemaString", "configuration"):
        if written.metadata.get(key) != state.metadata.get(key):
            return f"the table's {key} is another in it"
    return ""


def _same_stats(written: str | None, said: str | None) -> bool:
    """Return whether a checkpoint's statistics are the entry's: it may leave them out, and other
    programs write the same in their own way.
    """
    if written is None or written == said:
        return True
    try:
        return bool(json.loads(written) == json.loads(said or "{}"))
    except ValueError:
        return False


def note_covered(walk: LogWalk, snapshot: Snapshot, notes: list[str]) -> None:
    """Say which entries are not whole and nobody needs."""
    for number, why in walk.bad.items():
        if number <= snapshot.checkpoint:
            notes.append(
                f"log entry {entry_name(number)} is damaged ({why}); the checkpoint "
                f"{checkpoint_name(snapshot.checkpoint)} has what it said"
            )


# --- invariants ---


@invariant("log-checkpoints")
def checkpoints_agree(walk: LogWalk) -> Iterator[Wrong]:
    """Every checkpoint says what the log entries before it say, where those are still there."""
    for number, what in walk.differing.items():
        yield Wrong(
            f"checkpoint {checkpoint_name(number)} in {walk.log_dir} does not say what the log "
            f"entries do ({what}): restore it from a backup"
        )


@invariant("log-checkpoint-readable", mend="writes a new one in its place")
def checkpoints_are_readable(walk: LogWalk) -> Iterator[Wrong]:
    """Every checkpoint can be read."""
    for number, why in walk.unreadable.items():
        yield Wrong(
            f"{why}: what it said is in the log entries; 'pond repair' writes a new one "
            f"({os.path.join(walk.log_dir, checkpoint_name(number))})"
        )


@invariant("log-removes")
def nobody_took_rows(walk: LogWalk) -> Iterator[Wrong]:
    """No log entry of another program takes rows out of the table."""
    for number, names in walk.taken.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        yield Wrong(
            f"log entry {entry_name(number)} in {walk.log_dir}, of another program, took out the "
            f"rows of data file {names[0]}{more}: restore the pond from a backup"
        )


@invariant("log-last-checkpoint", mend="writes a checkpoint, and names that")
def last_checkpoint_is_there(log_dir: str) -> Iterator[Wrong]:
    """`_last_checkpoint`, if it is there, names a checkpoint that is there."""
    path = os.path.join(log_dir, LAST_CHECKPOINT)
    wrong = ""
    # A writer may put up a new one and take the old one away between our two looks.
    for _ in range(_LOOKS):
        if not os.path.exists(path):
            return
        number = find_last_checkpoint(log_dir)
        if number is None:
            wrong = f"{path} names no checkpoint"
        elif os.path.exists(os.path.join(log_dir, checkpoint_name(number))):
            return
        else:
            wrong = f"{path} names {checkpoint_name(number)}, which is not there"
        time.sleep(_LOOK_AGAIN_S / _LOOKS)
    yield Wrong(f"{wrong}: other readers may fail; 'pond repair' writes a new one")


@invariant("log-append-only", mend="says so again, as every opening for writing does")
def only_appends(log_dir: str, snapshot: Snapshot) -> Iterator[Wrong]:
    """The table allows nothing but appending (`delta.appendOnly`), except while a prune is put in
    place.
    """
    deadline_s = time.monotonic() + _PRUNE_S
    while not is_append_only(snapshot):
        # A prune under way restores it with its next entry, as soon as the disk has synced.
        if not _is_newer_than(log_dir, _PRUNE_S) or time.monotonic() > deadline_s:
            break
        time.sleep(_LOOK_AGAIN_S)
        snapshot = read_whole(log_dir)
    else:
        return
    yield Wrong(
        "delta.appendOnly of the table is not true, so another program could delete rows: "
        "'pond repair', or mounting, restores it"
    )


def _is_newer_than(log_dir: str, age_s: float) -> bool:
    """Return whether the newest log entry was made less than *age_s* seconds ago."""
    entries, _ = list_log(log_dir)
    try:
        made_s = os.stat(os.path.join(log_dir, entry_name(entries[-1]))).st_mtime
    except (IndexError, FileNotFoundError):
        return False  # a checkpoint covers them: no prune is under way
    return time.time() - made_s < age_s
