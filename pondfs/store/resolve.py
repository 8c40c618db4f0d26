"""Which version of a pond a text means: `pondfs.when` asked with what the pond has."""

import os
from bisect import bisect_right

from pondfs.errors import NoSuchVersion
from pondfs.node import Version
from pondfs.store.log import has_version, read_times, read_versions
from pondfs.store.tags import read_tags
from pondfs.when import NO_TAGS, Moment, parse, resolve


def resolve_version(
    store: str | os.PathLike[str], text: str, now_ns: int, up_to: Version | None = None
) -> Version:
    """Return the version that *text* means in the pond in *store*. Needs no lock.

    Args:
        store: the pond.
        text: a version, a time or a tag: see `pondfs.when.parse`.
        now_ns: what ``10m-ago`` counts from, nanoseconds since 1970 UTC.
        up_to: the newest version that counts; None: all do.
    Raises: NoSuchVersion: not understood, never committed, pruned, or before the first commit;
        NotAPond; StoreDamaged.
    """
    try:
        when = parse(text, now_ns)
        tags = NO_TAGS
    except NoSuchVersion:
        # No tag looks like anything else, so only now they are worth a look.
        tags = read_tags(store)
        when = parse(text, now_ns, tags)
    if when is None:
        return read_versions(store, 1)[0].version if up_to is None else up_to
    if isinstance(when, Moment):
        versions, times_ns = read_times(store)
        count = len(versions) if up_to is None else bisect_right(versions, up_to)
        return resolve(text, versions[:count], times_ns[:count], now_ns, tags)
    if (up_to is None or when <= up_to) and has_version(store, when):
        return when
    # It says so of a pond that has another one only.
    return resolve(text, [Version(when + 1)], [0], now_ns, tags)
