"""Requests: what a prune or a compaction has prepared, for whoever has the writer lock to publish.

One is a file in ``_pond/``: an array with a record for each row of the files that go (`MOVE`), then
facts as JSON, then how many bytes those are, in 8. It is mapped into memory: with ten million rows
it has 160 MB.
"""

import contextlib
import json
import mmap
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pondfs.store.content import DataFile
from pondfs.store.datafile import unlink_quietly
from pondfs.store.image import Ints
from pondfs.store.table import POND_DIR

MOVE = np.dtype([("file", "<i4"), ("row", "<i4"), ("position", "<i8")])
"""Where a content went: its new file, counted from 1 (0: nowhere), its row, and its place there."""

PRUNE, COMPACT = "prune", "compact"


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Files that are ready to take the place of others.

    Attributes:
        request: name, in ``_pond/``, of the file that says so to whoever has the writer lock.
        files: names of the new data files.
        added_bytes: what the new ones take.
        freed_bytes: what the old ones take less that.
    """

    request: str
    files: list[str]
    added_bytes: int
    freed_bytes: int


@dataclass(slots=True)
class Request:
    """What a `Writer` wrote down.

    Attributes:
        facts: what kind it is, and what that kind says.
        removed: names of the files that go.
        added: the files that come.
        starts: where the rows of each file that goes begin in *moves*; the last: how many.
        moves: where each row's content went; see `MOVE`.
    """

    facts: dict[str, Any]
    removed: list[str]
    added: list[DataFile]
    starts: Ints
    moves: NDArray[Any]


def read_request(store: str, path: str) -> Request:
    """Return the request in a file.

    Raises: FileNotFoundError; ValueError, KeyError, TypeError: it is none.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        count = int.from_bytes(file.read(8), "little")
        end = size - 8 - count
        if end < 0:
            raise ValueError("it is not whole")
        file.seek(end)
        facts = json.loads(file.read(count))
        starts = np.cumsum([0, *(rows for _, rows in facts["removed"])])
        if int(starts[-1]) * MOVE.itemsize != end:
            raise ValueError("it is not whole")
        moves: NDArray[Any] = np.zeros(0, MOVE)
        if end:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            moves = np.frombuffer(whole, MOVE, int(starts[-1]))
    now_ms = time.time_ns() // 1_000_000
    added = [
        DataFile(store, new["name"], new["size"], new["stats"], now_ms) for new in facts["added"]
    ]
    return Request(facts, [name for name, _ in facts["removed"]], added, starts, moves)


def discard(store: str, rewritten: Rewritten) -> None:
    """Remove new files that came to nothing.

    Only when it is certain that no log entry has them, and that nobody is about to write one.
    """
    for name in rewritten.files:
        unlink_quietly(os.path.join(store, name))
    unlink_quietly(os.path.join(store, POND_DIR, rewritten.request))


def remove_requests(store: str, kind: str) -> None:
    """Remove requests, and what was written for them, of a process that did not get to its end.

    Only for whoever is alone (`lock.rewriting`).
    """
    pond = os.path.join(store, POND_DIR)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(pond):
            if name.startswith(f"{kind}-"):
                unlink_quietly(os.path.join(pond, name))
    for path in find_unfinished(store):
        if os.path.basename(path).startswith(f".{kind}-"):
            unlink_quietly(path)


def find_unfinished(store: str) -> list[str]:
    """Return the paths of files that are being written, or were by a killed process."""
    starts = (f".{PRUNE}-", f".{COMPACT}-")
    return [os.path.join(store, name) for name in os.listdir(store) if name.startswith(starts)]
