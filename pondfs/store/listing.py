"""The rows of some versions as records, each with the path it is about."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pondfs.node import FILE_TYPES, ROOT, NodeId, Version
from pondfs.store.image import Ints
from pondfs.store.preview import preview_of
from pondfs.store.scan import FOLD_COLUMNS
from pondfs.store.trace import Trace

Record = dict[str, Any]


def list_rows(
    store: str | os.PathLike[str],
    choose: Callable[[Sequence[int]], Iterable[int]],
    pending: tuple[Version, pa.Table] | None = None,
    path: Sequence[bytes] | None = None,
) -> Iterator[tuple[int, list[Record]]]:
    """Yield versions with their rows in order, ``commit`` rows aside.

    A record has the table's columns without the content, and ``path``: of the entry, or a path of
    the node, in that version or the one before; None when it had none. ``file_type`` is that of the
    node.

    Args:
        store: the pond's directory.
        choose: which of the versions that have rows, given ascending, and in which order.
        pending: the coming version's number, and its rows.
        path: only rows about what this leads to, and what is in it; all if it is the root.
    Raises: NoSuchPath; StoreDamaged.
    """
    coming = None if pending is None else preview_of(*pending)
    trace = Trace(store, None, coming)
    try:
        paths = _Paths(trace)
        node = trace.find_last(path)[0] if path else None
        number = trace.rows.take("version", np.arange(trace.rows.count))
        for version in choose(np.unique(number).tolist()):
            chosen = np.flatnonzero(number == version)
            records = _records(trace, paths, chosen)
            if pending is not None and version == pending[0]:
                # What is in no file is traced without its bytes.
                spans = pending[1].select(["offset", "length"]).to_pylist()
                records = [{**r, **span} for r, span in zip(records, spans, strict=True)]
            if node is not None:
                records = _about(trace, node, records, chosen)
            if records:
                yield version, records
    finally:
        trace.close()


def _records(trace: Trace, paths: "_Paths", rows: Ints) -> list[Record]:
    table = pa.table({name: trace.rows.arrow(name, rows) for name in FOLD_COLUMNS})
    records: list[Record] = table.to_pylist()
    for row, record in zip(rows.tolist(), records, strict=True):
        version, node = int(trace.version[row]), int(trace.rows.node[row])
        record["path"] = paths.of_row(row, version)
        record["file_type"] = paths.type_of(node)
    return records


def _about(trace: Trace, node: NodeId, records: list[Record], rows: Ints) -> list[Record]:
    """Return those of *records* that are about the node, or about what is in it."""
    found = []
    tops: dict[int, list[bytes]] = {}
    for row, record in zip(rows.tolist(), records, strict=True):
        version = int(trace.version[row])
        if version not in tops:
            tops[version] = [
                *trace.paths_at(node, version), *trace.paths_at(node, version - 1)
            ]  # fmt: skip
        is_below = record["path"] is not None and any(
            not top or record["path"].startswith(top + b"/") for top in tops[version]
        )
        if is_below or int(trace.rows.node[row]) == node:
            found.append(record)
    return found


class _Paths:
    """Where nodes were, and what they are."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._paths: dict[tuple[int, int], bytes | None] = {}
        self._types: dict[int, str | None] = {}

    def of_row(self, row: int, version: int) -> bytes | None:
        """Return the path of the entry a row is about, else of its node."""
        rows = self._trace.rows
        if not rows.has_name[row]:
            return self._of_node(int(rows.node[row]), version)
        directory = self._of_node(int(rows.part[row]), version)
        (name,) = self._trace.names(np.array([row]))
        return None if directory is None else os.path.join(directory, name)

    def _of_node(self, node: int, version: int) -> bytes | None:
        if node == ROOT:
            return b""
        key = node, version
        if key not in self._paths:
            found = self._trace.paths_at(node, version) or self._trace.paths_at(node, version - 1)
            self._paths[key] = found[0] if found else None
        return self._paths[key]

    def type_of(self, node: int) -> str | None:
        """Return the node's type as the column ``file_type`` has it."""
        if node not in self._types:
            rows = self._trace.rows
            about = self._trace.about(node)
            about = about[rows.has_attr[about]]
            mode = int(rows.take("mode", about[-1:])[0]) if len(about) else 0
            self._types[node] = FILE_TYPES.get(stat.S_IFMT(mode))
        return self._types[node]
