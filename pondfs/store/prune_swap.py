"""Putting rewritten files in the place of the old ones: one log entry, and where everything is now.

What a crash leaves:

==========================================  =====================================================
before the entry is linked                  all versions; the new files are hidden, or strays
after it                                    the kept versions; the old files are there in vain
after it, before ``appendOnly`` is back     the same; whoever opens the pond next puts it back
while the old files are being removed       the same; what is left of them goes at the next opening
==========================================  =====================================================

A prune's entry lifts ``delta.appendOnly`` for itself, as no other ever does, and the next one
restores it. A compaction keeps all rows, and says so (``dataChange`` false), so it need not.

Removed files carry a tag, so that whatever is left of them is known for what it is. So do from
a prune on files of ours that a compaction by another engine had removed before: Delta time travel
alone had a use for them.
"""

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence, Set
from typing import Any
from urllib.parse import quote

import numpy as np

from pondfs import __version__
from pondfs.errors import StoreDamaged, UsageError
from pondfs.extent import Content
from pondfs.figures import Compaction
from pondfs.interfaces import Tree
from pondfs.node import Version
from pondfs.store.commit import add_action
from pondfs.store.content import DataFile
from pondfs.store.deltalog import (
    LOG_DIR,
    PRUNED,
    Action,
    BadHeadError,
    Snapshot,
    encode_entry,
    read_snapshot,
)
from pondfs.store.existence import is_there
from pondfs.store.faults import fault
from pondfs.store.files import data_files
from pondfs.store.image import TableImage
from pondfs.store.lock import ONESELF, Owner, acting_as
from pondfs.store.log import read_versions
from pondfs.store.measure import note_compaction
from pondfs.store.prune_files import version_facts
from pondfs.store.publish import Publisher
from pondfs.store.request import COMPACT, PRUNE, Request, read_request
from pondfs.store.table import POND_DIR, is_ours
from pondfs.store.tags import tags_of

log = logging.getLogger("pondfs.store")

APPEND_ONLY = "delta.appendOnly"

GRACE_S = 600.0
"""How long files stay after a compaction: time enough for a query of another program, which has
read in the log that they are there. After a prune they go at once, as they hold what shall go."""


def load_request(store: str, name: str) -> Request:
    """Return the request *name* in ``_pond/``.

    Raises: UsageError when there is none that could be one.
    """
    if os.path.basename(name) != name:
        raise UsageError(f"'{name}' is no name of a prepared prune")
    path = os.path.join(store, POND_DIR, name)
    try:
        request = read_request(store, path)
        kind = request.facts["kind"]
        by = request.facts["pondfs"]
        if kind == COMPACT:
            is_one = request.facts["took_s"] >= 0
        else:
            is_one = kind == PRUNE and len(request.facts["kept"]) > 0
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no prepared prune ({error}): begin anew") from None
    if by != __version__:
        # It was installed while the pond was mounted: the two may not mean the same.
        raise UsageError(
            f"{path} was made by pondfs {by}, but the pond is in use by pondfs {__version__}: "
            "unmount it, and mount it again"
        )
    if not is_one or not all(is_ours(file.name) for file in request.added):
        raise UsageError(f"{path} is no prepared prune: begin anew")
    return request


class Swap:
    """Where everything is after files were put in the place of others. Immutable.

    Attributes:
        removed: names of the files that went.
        added: the files that came.
        compaction: what it was and cost, if it was one.
    """

    def __init__(self, store: str, request: Request, snapshot: Snapshot) -> None:
        self._store = store
        self.compaction = _compaction(request, snapshot)
        self._adds = snapshot.adds
        self.removed = {name: number for number, name in enumerate(request.removed)}
        self.added = request.added
        self._starts = request.starts
        self._moves = request.moves
        # Stands for removed files in images: nothing in use leads there.
        self._nowhere = DataFile(store, "pruned", 0, "", 0)

    def find(self, content: Content) -> Content | None:
        """Return *content* in its new place: itself if it did not move, None if it is no more."""
        number = None if content.file is None else self.removed.get(content.file.name)
        if number is None:
            return content
        file, row, position = self._moves[self._starts[number] + content.row].tolist()
        if not file:
            return None
        found = Content.stored(self.added[file - 1], row, content.length)
        found.position = position
        return found

    def move_image(self, image: Tree) -> TableImage:
        """Return the same tree with its bytes in their new places.

        What the version showed and no kept one does is nowhere then: reading it is an error.
        """
        assert isinstance(image, TableImage)
        files, file, row, position = image.places
        number_of = np.array([self.removed.get(f.name, -1) for f in files], np.int64)
        stays = number_of < 0
        if stays.all():
            return image
        left = [f for f in files if f.name not in self.removed]
        some = np.flatnonzero(~stays[file])
        moves = self._moves[self._starts[number_of[file[some]]] + row[some]]
        found = moves["file"] > 0
        row, position = row.astype(np.int64), position.astype(np.int64)
        file = (np.cumsum(stays) - 1)[file]
        file[some] = np.where(found, len(left) + moves["file"] - 1, len(left) + len(self.added))
        row[some] = moves["row"]
        position[some] = np.where(found, moves["position"], -1)
        nowhere = [] if found.all() else [self._nowhere]
        return image.moved([*left, *self.added, *nowhere], file, row, position)

    def move_files(self, files: list[DataFile]) -> list[DataFile]:
        """Return the table's files after it; *files* are those that were known.

        A compaction meanwhile put others in the place of some.
        """
        known = {file.name: file for file in files}
        new = {name: add for name, add in self._adds.items() if name not in known}
        known |= {file.name: file for file in data_files(self._store, Snapshot(adds=new))}
        return [known[name] for name in self._adds if name not in self.removed] + self.added


def publish(
    store: str,
    log_dir: str,
    publisher: Publisher,
    tags: Mapping[str, Version],
    name: str,
    owner: Owner | None = None,
) -> Swap:
    """Do what the request *name* says. Between commits; from whoever holds the writer lock.

    The entries belong to *owner*, if there is one.

    Durability: as `Publisher.publish_swap`: nobody may remove the old files before the log's
        directory was synced once more.
    Raises: UsageError when the pond is not any more what the request was made for; ForeignCommit;
        OSError as the disk says: nothing has happened then.
    """
    request = load_request(store, name)
    snapshot = Snapshot()

    def make() -> bytes:
        with acting_as(ONESELF if owner else None):
            return make_entry()

    def make_entry() -> bytes:
        nonlocal snapshot
        snapshot = read_snapshot(log_dir)
        if any(name not in snapshot.adds for name in request.removed):
            what = request.facts["kind"]
            raise UsageError(f"the pond's files were rewritten meanwhile: {what} again")
        entry = _entry(store, request, snapshot, tags)
        # As late as can be: whoever wrote them may have given up and removed them.
        _check_added(request)
        return entry

    with acting_as(owner):
        publisher.publish_swap(make)
    fault("prune:published")
    if request.facts["kind"] == PRUNE:
        try:
            with acting_as(owner):
                publisher.publish_entry(append_only_entry(snapshot.metadata))
        except OSError as error:
            log.warning("delta.appendOnly of %s is restored at the next opening: %s", store, error)
        fault("prune:append-only")
    swap = Swap(store, request, snapshot)
    if swap.compaction is not None:
        note_compaction(store, swap.compaction)
    return swap


def _compaction(request: Request, snapshot: Snapshot) -> Compaction | None:
    if request.facts["kind"] != COMPACT:
        return None
    return Compaction(
        timestamp=time.time(),
        duration_s=request.facts["took_s"],
        files_before=len(request.removed),
        files_after=len(request.added),
        bytes_before=sum(snapshot.adds[name]["size"] for name in request.removed),
        bytes_after=sum(file.size for file in request.added),
    )


def _check(
    snapshot: Snapshot, existing: Set[Version], kept: Set[Version], tags: Mapping[str, Version]
) -> None:
    if lost := kept - existing:
        raise UsageError(f"version {min(lost)} was forgotten meanwhile: prune again")
    for tag, version in {**tags, **tags_of(snapshot)}.items():
        # A tag on a version that is not there, from whatever time, pins nothing.
        if version in existing and version not in kept:
            raise UsageError(f"version {version} was tagged '{tag}' meanwhile: prune again")


def _check_added(request: Request) -> None:
    for file in request.added:
        try:
            size = os.stat(file.path).st_size
        except FileNotFoundError:
            size = -1
        if size != file.size:
            raise StoreDamaged(f"{file.path}, just written, is not there whole: prune again")


def check_whole(store: str, snapshot: Snapshot) -> None:
    """Check that every file the table has is there with its size: what was in its place may go.

    Raises: StoreDamaged.
    """
    for name, add in snapshot.adds.items():
        path = os.path.join(store, name)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            size = -1
        if size != add["size"]:
            raise StoreDamaged(
                f"data file {path} is gone or not whole; what prunes put out of use stays: "
                "restore it from a backup"
            )


def _entry(store: str, request: Request, snapshot: Snapshot, tags: Mapping[str, Version]) -> bytes:
    if request.facts["kind"] == COMPACT:
        return _lines("OPTIMIZE", {}, _facts(COMPACT), _exchange(request, snapshot, []))
    return _prune_entry(store, request, snapshot, tags)


def _prune_entry(
    store: str, request: Request, snapshot: Snapshot, tags: Mapping[str, Version]
) -> bytes:
    facts = request.facts
    existing = read_versions(store)[::-1]
    newest = int(facts["kept"][-1]["version"])
    newer = [version_facts(info) for info in existing if info.version > newest]
    versions = [*facts["kept"], *newer]
    kept = {Version(each["version"]) for each in versions}
    _check(snapshot, {info.version for info in existing}, kept, tags)
    foreign = [
        {**{key: value for key, value in body.items() if value is not None}, "tags": _tags(PRUNE)}
        for name, kind, _ in snapshot.removes.find_tagged("pondfs")
        if kind not in (PRUNE, COMPACT)
        for body in [snapshot.removes[name]]
        if _is_compacted(name, body) and is_there(os.path.join(store, name))
    ]
    actions: list[Action] = [
        {"metaData": _with_append_only(snapshot.metadata, "false")},
        {"txn": {"appId": PRUNED, "version": newest, "lastUpdated": time.time_ns() // 1_000_000}},
        *_exchange(request, snapshot, foreign),
    ]
    parameters = {"predicate": json.dumps(f"{facts['forgotten']} versions pruned")}
    return _lines("DELETE", parameters, {**_facts(PRUNE), "versions": versions}, actions)


def _facts(kind: str) -> dict[str, Any]:
    # No two entries are alike, so that one can be told to be there; see `publish_swap`.
    return {"kind": kind, "id": str(uuid.uuid4())}


def _tags(kind: str) -> dict[str, str]:
    return {"pondfs": kind}


def _exchange(request: Request, snapshot: Snapshot, foreign: list[Action]) -> list[Action]:
    kind = request.facts["kind"]
    changes = kind == PRUNE
    removed = [
        {
            "path": quote(name),
            "deletionTimestamp": time.time_ns() // 1_000_000,
            "dataChange": changes,
            "extendedFileMetadata": True,
            "partitionValues": {},
            "size": snapshot.adds[name]["size"],
            "tags": _tags(kind),
        }
        for name in request.removed
    ]
    return [
        *({"remove": body} for body in [*removed, *foreign]),
        *({"add": {**add_action(file), "dataChange": changes}} for file in request.added),
    ]


def pruned_up_to(snapshot: Snapshot) -> Version:
    """Return the newest version that any prune knew; 0 when there never was one."""
    return Version(int(snapshot.txns.get(PRUNED, {}).get("version", 0)))


def has_mark(snapshot: Snapshot) -> bool:
    """Return whether `pruned_up_to` is known: an earlier pondfs pruned and left no mark."""
    return PRUNED in snapshot.txns


def append_only_entry(metadata: Action) -> bytes:
    """Return the log entry that allows nothing but appending again."""
    action = {"metaData": _with_append_only(metadata, "true")}
    parameters = {"properties": json.dumps({APPEND_ONLY: "true"})}
    return _lines("SET TBLPROPERTIES", parameters, {}, [action])


def is_append_only(snapshot: Snapshot) -> bool:
    """Return whether rows may only be added, as ever outside a prune."""
    configuration = snapshot.metadata.get("configuration") or {}
    return str(configuration.get(APPEND_ONLY)).lower() == "true"


def _with_append_only(metadata: Action, value: str) -> Action:
    configuration = {**(metadata.get("configuration") or {}), APPEND_ONLY: value}
    return {**metadata, "configuration": configuration}


def _lines(
    operation: str, parameters: dict[str, str], facts: dict[str, Any], actions: list[Action]
) -> bytes:
    info = {
        "timestamp": time.time_ns() // 1_000_000,
        "operation": operation,
        "operationParameters": parameters,
        "isBlindAppend": False,
        "engineInfo": f"pondfs/{__version__}",
    }
    return encode_entry(info, facts, actions)


def is_done(store: str, files: Sequence[str]) -> bool:
    """Return whether a prune's new *files* are in the table; also when nobody can tell.

    Without new files (nothing stayed of the old ones) there is nothing to lose by saying no.
    """
    try:
        snapshot = read_snapshot(os.path.join(store, LOG_DIR))
    except (OSError, StoreDamaged, BadHeadError):
        return True
    return any(name in snapshot.adds for name in files)


def left_over(snapshot: Snapshot) -> dict[str, float]:
    """Return the files we took out of the table that may still be there, and when they may go.

    Times are seconds since 1970. One that a clock gone wrong made far too late is over.
    """
    latest_s = time.time() + GRACE_S
    return {
        name: when_s if kind == COMPACT and when_s <= latest_s else 0.0
        for name, kind, went_ms in snapshot.removes.find_tagged("pondfs")
        # Also names that others gave; but no path that could lead out of the store.
        if kind in (PRUNE, COMPACT) and "/" not in name
        for when_s in [went_ms / 1000 + GRACE_S]
    }


def _kind(body: Action) -> str | None:
    kind = (body.get("tags") or {}).get("pondfs")
    return kind if kind in (PRUNE, COMPACT) else None


def _is_compacted(name: str, body: Action) -> bool:
    """Return whether another engine put the rows of our file into one of its own."""
    return is_ours(name) and _kind(body) is None and body.get("dataChange") is False
