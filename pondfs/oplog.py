"""What one commit carries: rows, and the cut that holds them.

The oplog is the Delta table. ``store/schema.py`` says how each field lies in a column.
"""

import functools
import getpass
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.node import Version

AttrRow = tuple[int, int, int, int, int, int, int, int, int]
"""mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns (the order of `node.Attr`)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Row(NamedTuple):
    """One change. Its place in the cut is its order; (version, seq) is a total order.

    Attributes:
        op: ``create`` ``update`` ``link`` ``unlink`` ``rename`` ``extent`` ``commit``; ``touch``
            where nothing was done to the node itself: names in a directory changed, a file was
            read.
        time_ns: when it happened, nanoseconds since 1970 UTC.
        part: a directory's own id for its own row; else the id of the directory it is in.
        node: the node the row is about.
        mode: the node's mode; only its type bits are used when *attr* is None.
        name: set when the row says something about the entry (*part*, *name*).
        removed: with *name*: the entry is gone; without: the node is gone.
        attr: the node's attributes after this version; None on rows that carry none.
        valid_below: on a row with *attr*: bytes of earlier extents count only below this offset.
        metadata: JSON.
        offset: where *content* lies in the file; None on rows that carry none.
        content: file bytes or a symlink's target, in memory.
    """

    op: str
    time_ns: int
    part: int
    node: int
    mode: int
    name: bytes | None = None
    removed: bool = False
    attr: AttrRow | None = None
    valid_below: int | None = None
    metadata: str | None = None
    offset: int | None = None
    content: Content | None = None

    @property
    def is_operation(self) -> bool:
        """Whether it counts in `Summary.operations`: each of them has exactly one such row.

        Others go with one: more content, a new directory's own row, times that followed.
        """
        return self.name is not None or self.op == "update"


@functools.cache
def _user_name() -> str:
    """Return the name of the user we run as; its number where it has no name."""
    try:
        return getpass.getuser().encode("utf-8", "replace").decode("utf-8")
    except (KeyError, OSError):
        return str(os.getuid())


@dataclass(slots=True)
class Summary:
    """Who made a version, and what it did: the ``commit`` row's metadata."""

    message: str = ""
    user: str = field(default_factory=_user_name)
    host: str = field(default_factory=platform.node)
    operations: int = 0
    nodes_created: int = 0
    nodes_changed: int = 0
    nodes_removed: int = 0
    bytes_added: int = 0


@dataclass(slots=True)
class Cut:
    """Everything that was pending at one moment; becomes one version, whole or not at all.

    Immutable after the trio thread made it. *staged* are data files that hold earlier rows of
    this same version (their seq numbers come first); *first_seq* is the first number left.
    """

    version: Version
    time_ns: int
    rows: list[Row]
    summary: Summary
    first_seq: int = 0
    staged: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preview:
    """What the coming version would say if it were cut now; its commit row aside.

    Attributes:
        version: its number.
        first_seq: the first row's number.
        rows: its rows that are in no data file yet, in order.
        staged: data files that hold earlier rows of it.
        rewritten: nodes whose bytes it would change.
    """

    version: Version
    first_seq: int
    rows: list[Row]
    staged: list[Any]
    rewritten: frozenset[int]


@dataclass(frozen=True, slots=True)
class Settled:
    """Where the contents of some rows now lie: the result of a stage or a commit.

    Shape: *contents*, *row_numbers* and *positions* are parallel.
    """

    file: Any
    contents: list[Content]
    row_numbers: list[int]
    positions: list[int]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One line of the log."""

    version: Version
    timestamp: datetime
    message: str
    user: str
    host: str
    operations: int
    nodes_created: int
    nodes_changed: int
    nodes_removed: int
    bytes_added: int

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "timestamp": self.timestamp.isoformat()}

    @property
    def time_ns(self) -> int:
        """The timestamp in nanoseconds since 1970 UTC, exactly."""
        whole = int(self.timestamp.replace(microsecond=0).timestamp())
        return whole * 10**9 + self.timestamp.microsecond * 1000


def info_of(record: dict[str, Any]) -> VersionInfo:
    """Return the version a `VersionInfo.record` tells of."""
    return VersionInfo(**{**record, "timestamp": datetime.fromisoformat(record["timestamp"])})


def info_from_facts(version: int, time_us: int, facts: dict[str, Any]) -> VersionInfo:
    """Return a version as the log shows it, from what an entry or a commit row says of it.

    Raises: StoreDamaged when that is no such thing.
    """
    try:
        texts = {name: facts.get(name, "") for name in _TEXTS}
        numbers = {name: facts.get(name, 0) for name in _NUMBERS}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("no text")
        if not all(isinstance(number, int) for number in numbers.values()):
            raise ValueError("no number")
        timestamp = _EPOCH + timedelta(microseconds=time_us)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StoreDamaged(
            f"what version {version} says of itself is damaged ({error}): restore from a backup"
        ) from None
    return VersionInfo(version=Version(version), timestamp=timestamp, **texts, **numbers)


_TEXTS = ("message", "user", "host")
_NUMBERS = ("operations", "nodes_created", "nodes_changed", "nodes_removed", "bytes_added")
