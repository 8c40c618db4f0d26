"""The log of versions: who, when, why and how much.

The commit rows in the data files are what tells. Log entries say the same of the newest versions,
those with one version each at least, and cost a small file each and no Arrow: a shortcut, as far as
they go.
"""

import os

from pondfs.errors import NotAPond
from pondfs.node import Version
from pondfs.oplog import VersionInfo, info_from_facts
from pondfs.store.deltalog import (
    APP_ID,
    FACTS,
    LOG_DIR,
    Action,
    BadEntryError,
    list_log,
    read_entry,
)

_ANY = Version(1 << 62)

MOST_ENTRIES = 1000
"""Log entries read at most (50 us each): from there on rows are cheaper. More are there only in a
pond that was written by a pondfs which never removed any."""


def read_versions(store: str | os.PathLike[str], limit: int | None = None) -> list[VersionInfo]:
    """Return the newest *limit* versions (None: all), newest first. Needs no lock.

    Raises: NotAPond; StoreDamaged.
    """
    path = os.fspath(store)
    versions, rest = _from_entries(path, limit)
    if rest is None:
        return versions[:limit]
    from pondfs.store.commitrows import CommitRows

    left = None if limit is None else limit - len(versions)
    return versions + CommitRows(path, last=rest).newest(left)


def _from_entries(store: str, limit: int | None) -> tuple[list[VersionInfo], Version | None]:
    """Return the newest versions as entries tell of them, and the newest version they leave out.

    The latter is None when that is none, or there are *limit*.
    """
    log_dir = os.path.join(store, LOG_DIR)
    try:
        entries, _ = list_log(log_dir)
    except (FileNotFoundError, NotADirectoryError):
        raise NotAPond(f"{store} is no pond (it has no {LOG_DIR})") from None
    versions: list[VersionInfo] = []
    newest = _ANY
    last_entry = entries[-1] if entries else -1
    # Not as they are listed: a list that was made while commits came may lack some.
    for number in range(last_entry, max(-1, last_entry - MOST_ENTRIES), -1):
        if limit is not None and len(versions) >= limit:
            return versions, None
        try:
            actions = read_entry(log_dir, number)
        except BadEntryError:
            if number == last_entry:
                continue  # a commit that did not happen
            # Damage that opening does not see, where a checkpoint covers it: the rows are there.
            break
        except FileNotFoundError:
            break  # old ones are removed in time, and with it all before it
        facts = actions[0].get("commitInfo", {}).get(FACTS) or {}
        if facts.get("kind") == "prune":
            # It lists all that were left; what is before it tells of versions that are gone.
            return [*versions, *_from_prune(facts)], None
        last = _version_of(actions)
        if last is None:
            continue
        if facts.get("first_version", last) != last or "time_ns" not in facts:
            # Several versions: of these only the rows tell.
            return versions, last
        versions.append(info_from_facts(last, facts["time_ns"] // 1000, facts))
        newest = Version(last - 1)
    if limit is not None and len(versions) >= limit:
        return versions, None
    return versions, newest or None


def _version_of(actions: list[Action]) -> Version | None:
    """Return the (last) version this entry made; None when it is none of ours."""
    for action in actions:
        txn = action.get("txn", {})
        if txn.get("appId") == APP_ID:
            return Version(int(txn["version"]))
    return None


def _from_prune(facts: Action) -> list[VersionInfo]:
    """Return the versions that a prune left, newest first."""
    return [
        info_from_facts(kept["version"], kept["time_ns"] // 1000, kept)
        for kept in reversed(facts["versions"])
    ]


def read_times(store: str | os.PathLike[str]) -> tuple[list[Version], list[int]]:
    """Return all versions, oldest first, and when each was committed, ns since 1970 UTC.

    Raises: as `read_versions`.
    """
    from pondfs.store.commitrows import CommitRows

    return CommitRows(os.fspath(store)).times()


def has_version(store: str | os.PathLike[str], version: Version) -> bool:
    """Return whether there is such a version. Costs the same, however many there are.

    Raises: as `read_versions`.
    """
    from pondfs.store.commitrows import CommitRows

    return bool(CommitRows(os.fspath(store), version, version).newest(1))
