"""The log of versions: who, when, why and how much."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pondfs.node import Version
from pondfs.oplog import VersionInfo
from pondfs.store.deltalog import (
    APP_ID,
    FACTS,
    LOG_DIR,
    Action,
    BadEntryError,
    list_log,
    read_entry,
)
from pondfs.store.table import open_table

_COLUMNS = ("version", "timestamp", "op", "metadata")
_BATCH_FILES = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_versions(store: Path, limit: int | None = None) -> list[VersionInfo]:
    """Return the newest *limit* versions (None: all), newest first. Needs no lock.

    Log entries carry all there is to say, so the newest versions cost a small file each and no
    Arrow. Where entries have been cleaned up (or written by somebody else) the commit rows in the
    data files are asked.

    Raises: NotAPond; StoreDamaged.
    """
    path = os.fspath(store)
    log_dir = os.path.join(path, LOG_DIR)
    try:
        entries, _ = list_log(log_dir)
    except (FileNotFoundError, NotADirectoryError):
        entries = []
    versions: list[VersionInfo] = []
    for number in reversed(entries):
        if limit is not None and len(versions) >= limit:
            return versions
        try:
            actions = read_entry(log_dir, number)
        except BadEntryError:
            continue  # a commit that did not happen; or damage, which opening reports
        pruned = _from_prune(actions)
        if pruned is not None:
            # It lists all that were left; what is before it tells of versions that are gone.
            return [*versions, *pruned][:limit]
        info = _from_entry(actions)
        if info is not None:
            versions.append(info)
    if versions and versions[-1].version == 1:
        return versions
    return _from_rows(path, limit)


def _from_entry(actions: list[Action]) -> VersionInfo | None:
    """Return the version this entry made; None when it is none of ours."""
    facts = actions[0].get("commitInfo", {}).get(FACTS)
    mine = any(action.get("txn", {}).get("appId") == APP_ID for action in actions)
    if not facts or not mine:
        return None
    when = _EPOCH + timedelta(microseconds=facts["time_ns"] // 1000)
    return _info(facts["version"], when, facts)


def _from_prune(actions: list[Action]) -> list[VersionInfo] | None:
    """Return the versions that a prune left, newest first; None when this is no prune."""
    facts = actions[0].get("commitInfo", {}).get(FACTS)
    if not facts or facts.get("kind") != "prune":
        return None
    return [
        _info(kept["version"], _EPOCH + timedelta(microseconds=kept["time_ns"] // 1000), kept)
        for kept in reversed(facts["versions"])
    ]


def _info(version: int, when: datetime, facts: dict[str, Any]) -> VersionInfo:
    return VersionInfo(
        version=Version(version),
        timestamp=when,
        message=facts.get("message", ""),
        user=facts.get("user", ""),
        host=facts.get("host", ""),
        operations=facts.get("operations", 0),
        nodes_created=facts.get("nodes_created", 0),
        nodes_changed=facts.get("nodes_changed", 0),
        nodes_removed=facts.get("nodes_removed", 0),
        bytes_added=facts.get("bytes_added", 0),
    )


def _from_rows(store: str, limit: int | None) -> list[VersionInfo]:
    """Return the versions by their commit rows, reading as few of the newest files as it takes."""
    from pondfs.store.files import data_files
    from pondfs.store.rowcache import RowCache

    opened = open_table(store, writable=False)
    files = sorted(data_files(store, opened.snapshot), key=lambda f: f.max_version, reverse=True)
    cache = RowCache(store)
    versions: list[VersionInfo] = []
    at = 0
    while at < len(files):
        if limit is not None and len(versions) >= limit:
            # Files stand in the order of their newest version: once that is older than the oldest
            # we would show, nothing further can matter.
            versions.sort(key=lambda info: info.version, reverse=True)
            if files[at].max_version < versions[limit - 1].version:
                break
        take = _BATCH_FILES if limit is None else min(_BATCH_FILES, max(1, limit - len(versions)))
        versions.extend(_read_rows(files[at : at + take], cache))
        at += take
    versions.sort(key=lambda info: info.version, reverse=True)
    return versions[:limit]


def _read_rows(files: list[Any], cache: Any) -> Iterator[VersionInfo]:
    import pyarrow as pa
    import pyarrow.compute as pc

    from pondfs.store.scan import read_rows

    table = read_rows(files, _COLUMNS, cache).table
    table = table.filter(pc.equal(table["op"], "commit"))
    for version, time_us, text in zip(
        table["version"].to_pylist(),
        table["timestamp"].cast(pa.int64()).to_pylist(),
        table["metadata"].to_pylist(),
        strict=True,
    ):
        yield _info(version, _EPOCH + timedelta(microseconds=time_us), json.loads(text or "{}"))
