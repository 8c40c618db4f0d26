"""Tags: names for versions that pruning keeps.

A tag is a Delta ``txn`` action whose application is ``pondfs:tag:NAME`` and whose version is the
version it pins, 0 once it is taken off. Such actions belong to the table's state, so any writer's
checkpoint carries them along, a copied table has its tags, and tagging makes no version.

Source: Delta protocol, "Transaction Identifiers".
"""

import os
import time

from pondfs import __version__
from pondfs.node import Version
from pondfs.store.deltalog import APP_ID, Action, Snapshot, encode_entry

PREFIX = f"{APP_ID}:tag:"


def tags_of(snapshot: Snapshot) -> dict[str, Version]:
    """Return the tags a table's state holds, sorted by name."""
    found = {
        app.removeprefix(PREFIX): Version(int(txn["version"]))
        for app, txn in snapshot.txns.items()
        if app.startswith(PREFIX) and int(txn["version"]) > 0
    }
    return dict(sorted(found.items()))


def is_taken_off(txn: Action) -> bool:
    """Return whether a txn action is that of a tag that is no more: a checkpoint may forget it."""
    return str(txn["appId"]).startswith(PREFIX) and not txn["version"]


def read_tags(store: str | os.PathLike[str]) -> dict[str, Version]:
    """Return the tags of the pond in *store*, sorted by name. Needs no lock.

    Raises: NotAPond; StoreDamaged.
    """
    from pondfs.store.table import open_table

    return tags_of(open_table(os.path.abspath(os.fspath(store)), writable=False).snapshot)


def tag_entry(name: str, version: Version | None) -> bytes:
    """Return the log entry that puts tag *name* on *version*; None takes it off."""
    now_ms = time.time_ns() // 1_000_000
    info = {
        "timestamp": now_ms,
        "operation": "TAG" if version else "UNTAG",
        "operationParameters": {"name": name},
        "isBlindAppend": True,
        "engineInfo": f"pondfs/{__version__}",
    }
    txn = {"appId": PREFIX + name, "version": version or 0, "lastUpdated": now_ms}
    return encode_entry(info, {}, [{"txn": txn}])
