"""What a pond takes on its disk, in figures: what is live, what is history, what is left over."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pondfs.node import Version


@dataclass(frozen=True, slots=True)
class Compaction:
    """What the latest compaction was and cost.

    Attributes:
        timestamp: when it was put in place; seconds since 1970.
        duration_s: how long writing took.
        files_before: data files it put together; *bytes_before* is what they had.
        files_after: data files that came of it; *bytes_after* is what they have.
    """

    timestamp: float
    duration_s: float
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Return what `dataclasses.asdict` gave.

        Raises: KeyError, TypeError, ValueError: it is none.
        """
        return cls(
            float(record["timestamp"]),
            float(record["duration_s"]),
            int(record["files_before"]),
            int(record["files_after"]),
            int(record["bytes_before"]),
            int(record["bytes_after"]),
        )


@dataclass(frozen=True, slots=True)
class SavedImage:
    """The saved image: the version it shows, when it was saved (seconds since 1970), its size."""

    version: Version
    timestamp: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A pond's figures, as one look at its store found them.

    Content is what rows hold of files' bytes and symlinks' targets; what a data file takes beside
    it (attributes, names) is in *data_bytes* only.

    Attributes:
        newest: the newest version.
        version: the one that *live_bytes* and *history_bytes* are about; None when they are not
            known. An older one when finding out about the newest would take long.
        data_files: how many files the table has; *data_bytes* is what they take.
        rows: how many rows are in them.
        live_bytes: content that *version* shows.
        history_bytes: all other content up to *version*: what only older versions show, and what
            was overwritten before its version was committed.
        newer_bytes: content that came after *version*, live or not.
        reclaimable_files: data files that no version needs: those that prunes and compactions put
            out of use and that wait for readers or their time, and leftovers of a crash.
        reclaimable_bytes: what they take.
        log_entries: entries in the table's log since its last checkpoint.
        disk_free_bytes: room on the store's disk for whoever is not root; of *disk_bytes*.
        image: the saved image; None when there is none that could be used.
        compaction: the last one; None when none is known of.
    """

    newest: Version
    version: Version | None
    data_files: int
    data_bytes: int
    rows: int
    live_bytes: int | None
    history_bytes: int | None
    newer_bytes: int | None
    reclaimable_files: int
    reclaimable_bytes: int
    log_entries: int
    disk_free_bytes: int
    disk_bytes: int
    image: SavedImage | None
    compaction: Compaction | None


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What the cache of decoded content did since the mount: found, not found, and holds."""

    hits: int
    misses: int
    bytes: int

    @classmethod
    def of(cls, reader: object) -> Self | None:
        """Return what *reader* counts; None for one that does not."""
        found = [getattr(reader, f"cache_{name}", None) for name in ("hits", "misses", "bytes")]
        if any(count is None for count in found):
            return None
        return cls(*(int(count or 0) for count in found))


def record_of(figures: Figures | None, error: str, age_s: float) -> dict[str, Any]:
    """Return figures as ``pond status --json`` has them, but that times are in seconds since 1970.

    Args:
        figures: None when they could not be counted, as *error* says.
        error: "" when there is none.
        age_s: how long ago they were counted.
    """
    found: dict[str, Any] = dict.fromkeys(("storage", "log", "image", "last_compaction"))
    found["storage_error"] = error or None
    if figures is not None:
        storage = {name: getattr(figures, name) for name in _STORAGE}
        found["storage"] = {**storage, "age_s": round(age_s, 3)}
        found["log"] = {"entries_since_checkpoint": figures.log_entries}
        found["image"] = None if figures.image is None else asdict(figures.image)
        compaction = figures.compaction
        found["last_compaction"] = None if compaction is None else asdict(compaction)
    return found


_STORAGE = (
    "version",
    "data_files",
    "data_bytes",
    "rows",
    "live_bytes",
    "history_bytes",
    "newer_bytes",
    "reclaimable_files",
    "reclaimable_bytes",
    "disk_free_bytes",
    "disk_bytes",
)
