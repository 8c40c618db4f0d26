"""Results as a table for people: as wide as the terminal, or as wide as it takes."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
from rich.cells import cell_len, set_cell_size

from pondfs.query.output import Writer, plain

_SAMPLE_ROWS = 1000
_SAMPLE_S = 0.5
"""Rows that decide how wide the columns are: the first ones, or what comes in this time."""

_GAP = "  "
_LEAST_WIDTH = 8
"""Columns are not made narrower; where that is not enough, each row becomes a paragraph."""

_MOST_CHARACTERS = 4096
"""Of one value, on a terminal: it would not fit anyway."""


def write_table(table: "Table", batches: Iterable[pa.RecordBatch]) -> None:
    """Write a result, or as much of it as *table* shows."""
    for batch in batches:
        table.write(batch)
        if table.has_more:
            return
    table.close()


class Table(Writer):
    """Writes rows under headings.

    On a terminal (with a *width*) wide values are cut, and *most_rows* are shown; elsewhere
    everything is whole, and a value that is wider than those in the first rows moves what follows.

    Attributes:
        rows: how many are shown.
        has_more: whether there were more.
        is_cut: whether a value did not fit.
    """

    def __init__(
        self, sink: BinaryIO, schema: pa.Schema, *, width: int | None, most_rows: int | None
    ) -> None:
        self.rows = 0
        self.has_more = self.is_cut = False
        self._sink = sink
        self._names = [_line(name) for name in schema.names]
        self._right = [_is_number(field.type) for field in schema]
        self._width = width
        self._left = most_rows
        self._widths: list[int] | None = None
        # The first rows, and since when they wait for more to come.
        self._held: list[tuple[str, ...]] = []
        self._began = 0.0
        self._row = 0
        self._is_plan = schema.names == ["plan_type", "plan"]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch, or as much of it as is still to be shown."""
        if self._left is not None and batch.num_rows > self._left:
            self.has_more = True
            batch = batch.slice(0, self._left)
        self.rows += batch.num_rows
        if self._is_plan:
            self._write_plans(batch)
            return
        if self._left is not None:
            self._left -= batch.num_rows
        rows = list(zip(*(self._texts(column) for column in batch.columns), strict=True))
        if self._widths is not None:
            self._write_rows(rows)
            return
        self._held += rows
        now = time.monotonic()
        self._began = self._began or now
        if self.rows >= _SAMPLE_ROWS or self.has_more or now > self._began + _SAMPLE_S:
            self._begin()

    def close(self) -> None:
        """Write the headings, if there were no rows."""
        if self._widths is None:
            self._begin()

    def _texts(self, column: pa.Array) -> list[str]:
        most = None if self._width is None else _MOST_CHARACTERS
        return [_text(value, most) for value in plain(column, _readable).to_pylist()]

    def _begin(self) -> None:
        """Decide how wide the columns are, and write the headings and what is held."""
        widths = [
            max(map(_length, column)) for column in zip(self._names, *self._held, strict=True)
        ]
        self._widths = widths if self._width is None else _fit(widths, self._width)
        if self._widths:
            self._write_row(self._names)
            self._write_row(["─" * width for width in self._widths])
        held, self._held = self._held, []
        self._write_rows(held)

    def _write_rows(self, rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            if self._widths:
                self._write_row(row)
            elif row:
                self._write_paragraph(row)

    def _write_row(self, row: Sequence[str]) -> None:
        assert self._widths is not None
        cells = [
            self._cell(text, width, is_right)
            for text, width, is_right in zip(row, self._widths, self._right, strict=True)
        ]
        self._put(_GAP.join(cells).rstrip())

    def _put(self, text: str) -> None:
        self._sink.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def _cell(self, text: str, width: int, is_right: bool) -> str:
        length = _length(text)
        if length > width:
            if self._width is None:
                return text
            self.is_cut = True
            return set_cell_size(text, width - 1) + "…"
        space = " " * (width - length)
        return space + text if is_right else text + space

    def _write_plans(self, batch: pa.RecordBatch) -> None:
        """What EXPLAIN says has lines of its own, and their indent means something."""
        self._widths = []
        for kind, plan in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            lines = (_line(line) for line in plan.rstrip().split("\n"))
            self._put("\n".join([f"{kind}:", *(f"  {line}" for line in lines)]))

    def _write_paragraph(self, row: Sequence[str]) -> None:
        assert self._width is not None
        self._row += 1
        self._put(f"── {self._row} ──")
        name_width = max(map(_length, self._names))
        for name, text in zip(self._names, row, strict=True):
            head = name + " " * (name_width - _length(name)) + _GAP
            space = max(_LEAST_WIDTH, self._width - name_width - len(_GAP))
            self._put((head + self._cell(text, space, False)).rstrip())


def _fit(widths: list[int], most: int) -> list[int]:
    """Return widths that fit, the widest cut first; none when that would leave too little."""
    room = most - len(_GAP) * (len(widths) - 1)
    if sum(widths) <= room:
        return widths
    if sum(min(width, _LEAST_WIDTH) for width in widths) > room:
        return []
    cap = max(c for c in range(_LEAST_WIDTH, max(widths) + 1) if _total(widths, c) <= room)
    return [min(width, cap) for width in widths]


def _total(widths: list[int], cap: int) -> int:
    return sum(min(width, cap) for width in widths)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _length(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _text(value: Any, most: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _line(value if most is None else value[:most])
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return _line(json.dumps(value, ensure_ascii=False))
    return str(value)


def _line(text: str) -> str:
    """Return *text* for one line: what would move the cursor is escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _readable(value: bytes) -> str:
    return value[:_MOST_CHARACTERS].decode("utf-8", "backslashreplace")
