"""Tables of the log and table functions: what the rest of pondfs knows, as rows."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pondfs.errors import UsageError
from pondfs.node import Version
from pondfs.store.content import DataFile
from pondfs.store.log import read_versions

if TYPE_CHECKING:
    from datafusion import Expr

_TIME = pa.timestamp("us", "UTC")

VERSIONS = pa.schema(
    [
        pa.field("version", pa.int64(), False),
        pa.field("timestamp", _TIME, False),
        pa.field("message", pa.string(), False),
        pa.field("user", pa.string(), False),
        pa.field("host", pa.string(), False),
        pa.field("operations", pa.int64(), False),
        pa.field("nodes_created", pa.int64(), False),
        pa.field("nodes_changed", pa.int64(), False),
        pa.field("nodes_removed", pa.int64(), False),
        pa.field("bytes_added", pa.int64(), False),
    ]
)

TAGS = pa.schema([pa.field("name", pa.string(), False), pa.field("version", pa.int64(), False)])

HISTORY = pa.schema(
    [
        pa.field("version", pa.int64(), False),
        pa.field("timestamp", _TIME, False),
        pa.field("path", pa.string(), False),
        pa.field("what", pa.string(), False),
        pa.field("size", pa.int64()),
        pa.field("source", pa.string()),
    ]
)

_STATE = ("mode", "uid", "gid", "size")

CHANGES = pa.schema(
    [
        pa.field("change", pa.string(), False),
        pa.field("path", pa.string(), False),
        pa.field("source", pa.string()),
        pa.field("file_type", pa.string(), False),
        *(
            pa.field(f"{name}_{when}", pa.int64())
            for when in ("before", "after")
            for name in _STATE
        ),
    ]
)


def versions_table(store: str, up_to: Version) -> pa.Table:
    """Return the log, oldest first. Raises: NotAPond, StoreDamaged."""
    infos = [i for i in read_versions(Path(store)) if i.version <= up_to]
    return pa.Table.from_pylist([asdict(info) for info in infos[::-1]], schema=VERSIONS)


def tags_table(tags: Mapping[str, Version]) -> pa.Table:
    """Return the tags."""
    return pa.Table.from_arrays(
        [pa.array(tags, pa.string()), pa.array(tags.values(), pa.int64())], schema=TAGS
    )


def history_table(store: str, path: str, up_to: Version | None, files: list[DataFile]) -> pa.Table:
    """Return what happened to one file, newest first.

    Args:
        store: the pond's directory.
        path: from the root.
        up_to: the newest version that counts; None: all do.
        files: the data files to look at.
    Raises: NoSuchPath; UsageError for a directory; StoreDamaged.
    """
    from pondfs.store.lives import load_dated_history

    events, times = load_dated_history(store, names_of(path), up_to, files)
    return pa.Table.from_pylist(
        [
            {
                "version": event.version,
                "timestamp": times[event.version],
                "path": _shown(event.path),
                "what": ",".join(event.what),
                "size": event.size,
                "source": None if event.source is None else _shown(event.source),
            }
            for event in events
        ],
        schema=HISTORY,
    )


def changes_table(store: str, old: Version, new: Version, files: list[DataFile]) -> pa.Table:
    """Return what is different in *new*, by path. Raises: NoSuchVersion, StoreDamaged."""
    from pondfs.store.changes import load_changes

    records = []
    for change in load_changes(store, old, new, files=files):
        record: dict[str, Any] = {
            "change": change.change,
            "path": _shown(change.path),
            "source": None if change.source is None else _shown(change.source),
            "file_type": change.type,
        }
        for when, state in (("before", change.before), ("after", change.after)):
            if state is not None:
                record.update((f"{name}_{when}", getattr(state, name)) for name in _STATE)
        records.append(record)
    return pa.Table.from_pylist(records, schema=CHANGES)


def names_of(path: str) -> tuple[bytes, ...]:
    """Return the names that lead from the root to *path*, with or without a leading slash."""
    return tuple(name for name in os.fsencode(path).split(b"/") if name not in (b"", b"."))


def texts(function: str, args: "Sequence[Expr]", *wanted: str) -> list[str]:
    """Return the arguments of a table function, which all are text.

    Args:
        function: its name.
        args: as DataFusion has them.
        wanted: what each of them is, for the message.
    Raises: UsageError.
    """
    usage = f"{function}({', '.join(wanted)})"
    if len(args) != len(wanted):
        count = "1 argument" if len(wanted) == 1 else f"{len(wanted)} arguments"
        raise UsageError(f"{function} takes {count}, not {len(args)}: {usage}")
    values = []
    for arg in args:
        try:
            value = arg.python_value()
        except Exception:  # DataFusion has none of its own for what is no literal
            value = None
        if isinstance(value, pa.Scalar):
            value = value.as_py()
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise UsageError(f"{function} takes text in single quotes: {usage}")
        values.append(value)
    return values


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")
