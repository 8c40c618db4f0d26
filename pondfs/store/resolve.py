"""Which version of a pond a text means: `pondfs.when` asked with what the pond has."""

import os
from pathlib import Path

from pondfs.errors import NoSuchVersion
from pondfs.node import Version
from pondfs.store.log import read_versions
from pondfs.store.tags import read_tags
from pondfs.when import NO_TAGS, parse, resolve


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
        parse(text, now_ns)
        tags = NO_TAGS
    except NoSuchVersion:
        # No tag looks like anything else, so only now they are worth a look.
        tags = read_tags(store)
        parse(text, now_ns, tags)
    if text == "latest" and up_to is not None:
        return up_to
    infos = read_versions(Path(store), 1 if text == "latest" else None)[::-1]
    infos = [info for info in infos if up_to is None or info.version <= up_to]
    return resolve(
        text, [info.version for info in infos], [info.time_ns for info in infos], now_ns, tags
    )
