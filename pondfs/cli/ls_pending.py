"""What of a listing is not committed yet, for ``pond ls --pending``."""

import os
from collections.abc import Sequence
from typing import Any

from pondfs.cli.reach import Place, connect_anyhow, load_operations

NEW, CHANGED, MOVED, REMOVED = "new", "changed", "moved", "removed"

LETTERS = {NEW: "A", CHANGED: "M", MOVED: "R", REMOVED: "D", None: " "}
"""As ``pond diff`` has them."""

_STATES = {"create": NEW, "link": NEW, "rename": MOVED, "update": CHANGED, "unlink": REMOVED}


class Marks:
    """What is pending, by path."""

    def __init__(self, operations: Sequence[dict[str, Any]]) -> None:
        """Take the objects of `load_operations`."""
        self._states: dict[bytes, str] = {}
        self._gone: dict[bytes, dict[bytes, str]] = {}
        for operation in operations:
            path, state = os.fsencode(operation["path"]), _STATES[operation["op"]]
            if state == REMOVED:
                self._lose(path, operation["type"])
            # A file put in the place of another is no removal; a moved one may have changed, too.
            elif state != CHANGED or path not in self._states:
                self._states[path] = state
            if operation["from"] is not None:
                self._lose(os.fsencode(operation["from"]), operation["type"])

    def _lose(self, path: bytes, file_type: str) -> None:
        directory, _, name = path.rpartition(b"/")
        self._gone.setdefault(directory, {})[name] = file_type

    def of(self, path: bytes) -> str | None:
        """Return what is pending about *path*; None when nothing is."""
        return self._states.get(path)

    def label(self, path: bytes, name: str) -> str:
        """Return *name* as a line has it, its letter first."""
        return f"{LETTERS[self.of(path)]} {name}"

    def gone_from(self, directory: bytes, there: Sequence[bytes]) -> list[tuple[bytes, str]]:
        """Return the names that are gone from *directory*, and what they were; sorted.

        Args:
            directory: its path.
            there: names that are in it now, some perhaps again.
        """
        gone = self._gone.get(directory, {})
        return sorted((name, kind) for name, kind in gone.items() if name not in set(there))


def load_marks(place: Place) -> Marks:
    """Return what is pending: nothing when the pond is not mounted. Raises: DaemonGone."""
    client = connect_anyhow(place)
    if client is None:
        return Marks([])
    with client:
        return Marks(load_operations(client))


def describe_gone(path: bytes, file_type: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return what ``--json`` says of what is gone: its path and type, and null for the rest."""
    return {
        **dict.fromkeys(keys),
        "path": os.fsdecode(path),
        "type": file_type,
        "pending": REMOVED,
    }
