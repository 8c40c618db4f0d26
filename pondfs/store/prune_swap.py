"""Putting pruned files in the place of the old ones: one log entry, and where everything is now.

What a crash leaves:

==========================================  =====================================================
before the entry is linked                  all versions; the new files are strays
after it                                    the kept versions; the old files are there in vain
after it, before ``appendOnly`` is back     the same; whoever opens the pond next puts it back
while the old files are being removed       the same; what is left of them goes at the next opening
==========================================  =====================================================

The entry lifts ``delta.appendOnly`` for itself, as no other ever does, and the next one restores
it. Removed files carry a tag, so that whatever is left of them is known for what it is. So do from
then on files of ours that a compaction by another engine had removed before: Delta time travel
alone had a use for them.
"""

import json
import logging
import os
import time
import uuid
import zipfile
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from pondfs import __version__
from pondfs.errors import StoreDamaged, UsageError
from pondfs.extent import Content
from pondfs.interfaces import Tree
from pondfs.node import Version
from pondfs.store.commit import add_action
from pondfs.store.content import DataFile
from pondfs.store.deltalog import (
    FACTS,
    LOG_DIR,
    Action,
    BadHeadError,
    Snapshot,
    read_snapshot,
)
from pondfs.store.faults import fault
from pondfs.store.files import data_files
from pondfs.store.image import Ints, TableImage
from pondfs.store.lock import ONESELF, Owner, acting_as
from pondfs.store.log import read_versions
from pondfs.store.prune_files import version_facts
from pondfs.store.publish import Publisher
from pondfs.store.table import POND_DIR, is_ours
from pondfs.store.tags import tags_of

log = logging.getLogger("pondfs.store")

APPEND_ONLY = "delta.appendOnly"
KIND = "prune"
_TAGS = {"pondfs": KIND}
_ROW_BITS = 40


@dataclass(slots=True)
class Request:
    """What `prune_files` wrote down. See there; rows are sorted by where they were."""

    kept: list[dict[str, Any]]
    forgotten: int
    removed: list[str]
    added: list[DataFile]
    old: Ints
    new_file: Ints
    new_row: Ints
    position: Ints

    @property
    def newest(self) -> int:
        """The newest version whoever made it knew."""
        return int(self.kept[-1]["version"])


def load_request(store: str, name: str) -> Request:
    """Return the request *name* in ``_pond/``.

    Raises: UsageError when there is none that could be one.
    """
    if os.path.basename(name) != name:
        raise UsageError(f"'{name}' is no name of a prepared prune")
    path = os.path.join(store, POND_DIR, name)
    try:
        with np.load(path, allow_pickle=False) as found:
            facts = json.loads(found["facts"].tobytes())
            old = found["old_file"] << _ROW_BITS | found["old_row"]
            order = np.argsort(old)
            columns = [found[name][order] for name in ("new_file", "new_row", "position")]
        now_ms = time.time_ns() // 1_000_000
        added = [
            DataFile(store, file["name"], file["size"], file["stats"], now_ms)
            for file in facts["added"]
        ]
        request = Request(
            facts["kept"], facts["forgotten"], facts["removed"], added, old[order], *columns
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no prepared prune ({error}): begin anew") from None
    if not all(is_ours(file.name) for file in added) or not request.kept:
        raise UsageError(f"{path} is no prepared prune: begin anew")
    return request


class Swap:
    """Where everything is after files were put in the place of others. Immutable.

    Attributes:
        kept: the versions that are left.
        removed: names of the files that went.
        added: the files that came.
    """

    def __init__(
        self, store: str, request: Request, kept: Container[Version], snapshot: Snapshot
    ) -> None:
        self._store = store
        self._adds = snapshot.adds
        self.kept = kept
        self.removed = {name: number for number, name in enumerate(request.removed)}
        self.added = request.added
        self._request = request
        # Stands for removed files in images: nothing in use leads there.
        self._nowhere = DataFile(store, "pruned", 0, "", 0)

    def find(self, content: Content) -> Content | None:
        """Return *content* in its new place: itself if it did not move, None if it is no more."""
        number = None if content.file is None else self.removed.get(content.file.name)
        if number is None:
            return content
        request = self._request
        wanted = number << _ROW_BITS | content.row
        at = int(request.old.searchsorted(wanted))
        if at == len(request.old) or request.old[at] != wanted:
            return None
        file, row = request.added[request.new_file[at]], int(request.new_row[at])
        found = Content.stored(file, row, content.length)
        found.position = int(request.position[at])
        return found

    def move_image(self, image: Tree) -> Tree:
        """Return the same tree with its bytes in their new places.

        What the version showed and no kept one does is nowhere then: reading it is an error.
        """
        assert isinstance(image, TableImage)
        files, file, row, position = image.places
        number_of = np.array([self.removed.get(f.name, -1) for f in files], np.int64)
        some = np.flatnonzero(number_of[file] >= 0) if len(file) else np.empty(0, np.int64)
        if not len(some):
            return image
        request = self._request
        wanted = number_of[file[some]] << _ROW_BITS | row[some].astype(np.int64)
        at = np.minimum(request.old.searchsorted(wanted), max(len(request.old) - 1, 0))
        found = request.old[at] == wanted if len(request.old) else np.zeros(len(at), bool)
        file, row, position = (column.astype(np.int64) for column in (file, row, position))
        moved, at = some[found], at[found]
        file[moved] = len(files) + request.new_file[at]
        row[moved] = request.new_row[at]
        position[moved] = request.position[at]
        position[some[~found]] = -1
        left = [self._nowhere if f.name in self.removed else f for f in files]
        return image.moved([*left, *request.added], file, row, position)

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
    kept: set[Version] = set()
    snapshot = Snapshot()

    def make() -> bytes:
        with acting_as(ONESELF if owner else None):
            return make_entry()

    def make_entry() -> bytes:
        nonlocal snapshot
        snapshot = read_snapshot(log_dir)
        existing = read_versions(store)[::-1]  # type: ignore[arg-type]  # any path will do
        newer = [version_facts(info) for info in existing if info.version > request.newest]
        versions = [*request.kept, *newer]
        kept.clear()
        kept.update(Version(facts["version"]) for facts in versions)
        _check(request, snapshot, {info.version for info in existing}, kept, tags)
        entry = _entry(store, request, versions, snapshot)
        # As late as can be: whoever wrote them may have given up and removed them.
        _check_added(request)
        return entry

    with acting_as(owner):
        publisher.publish_swap(make)
    fault("prune:published")
    try:
        with acting_as(owner):
            publisher.publish_entry(append_only_entry(snapshot.metadata))
    except OSError as error:
        log.warning("delta.appendOnly of %s is restored at the next opening: %s", store, error)
    fault("prune:append-only")
    return Swap(store, request, kept, snapshot)


def _check(
    request: Request,
    snapshot: Snapshot,
    existing: Set[Version],
    kept: Set[Version],
    tags: Mapping[str, Version],
) -> None:
    if lost := kept - existing:
        raise UsageError(f"version {min(lost)} was forgotten meanwhile: prune again")
    if any(name not in snapshot.adds for name in request.removed):
        raise UsageError("the pond's files were rewritten meanwhile: prune again")
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


def _entry(
    store: str, request: Request, versions: list[dict[str, Any]], snapshot: Snapshot
) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    removed = [
        {
            "path": quote(name),
            "deletionTimestamp": now_ms,
            "dataChange": True,
            "extendedFileMetadata": True,
            "partitionValues": {},
            "size": snapshot.adds[name]["size"],
            "tags": _TAGS,
        }
        for name in request.removed
    ]
    removed += [
        {**{key: value for key, value in body.items() if value is not None}, "tags": _TAGS}
        for name, body in snapshot.removes.items()
        if _is_compacted(name, body) and os.path.lexists(os.path.join(store, name))
    ]
    facts = {"kind": KIND, "id": str(uuid.uuid4()), "versions": versions}
    parameters = {"predicate": json.dumps(f"{request.forgotten} versions pruned")}
    actions: list[Action] = [
        {"metaData": _with_append_only(snapshot.metadata, "false")},
        *({"remove": body} for body in removed),
        *({"add": add_action(file)} for file in request.added),
    ]
    return _lines("DELETE", parameters, facts, actions)


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
        FACTS: {**facts, "lines": len(actions) + 1},
    }
    return b"".join(
        json.dumps(action, separators=(",", ":")).encode() + b"\n"
        for action in [{"commitInfo": info}, *actions]
    )


def is_done(store: str, files: Sequence[str]) -> bool:
    """Return whether a prune's new *files* are in the table; also when nobody can tell.

    Without new files (nothing stayed of the old ones) there is nothing to lose by saying no.
    """
    try:
        snapshot = read_snapshot(os.path.join(store, LOG_DIR))
    except (OSError, StoreDamaged, BadHeadError):
        return True
    return any(name in snapshot.adds for name in files)


def left_over(snapshot: Snapshot) -> list[str]:
    """Return the files that prunes took out of the table and that may still be there."""
    return [
        name
        for name, body in snapshot.removes.items()
        # Also names that others gave; but no path that could lead out of the store.
        if _is_pruned(body) and os.path.basename(name) == name
    ]


def _is_pruned(body: Action) -> bool:
    return (body.get("tags") or {}).get("pondfs") == KIND


def _is_compacted(name: str, body: Action) -> bool:
    """Return whether another engine put the rows of our file into one of its own."""
    return is_ours(name) and not _is_pruned(body) and body.get("dataChange") is False
