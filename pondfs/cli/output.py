"""What commands print: tables, JSON, human units, progress.

Colours, cut-off columns and moving things appear on a terminal only; a pipe gets plain text, whole.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import click

PROGRESS_DELAY_S = 1.0
"""What takes less than this shows no progress."""


def print_json(value: Any) -> None:
    """Print *value* for scripts: stable keys, times in ISO 8601 UTC, names escaped to ASCII."""
    click.echo(json.dumps(value, indent=2, default=_to_json))


def _to_json(value: Any) -> str:
    return format_utc(value) if isinstance(value, datetime) else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> None:
    """Print *rows* under *columns*; columns named in *right* (blank-separated) align right."""
    to_right = [column in right.split() for column in columns]
    rows = [[format_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for number, (column, is_right) in enumerate(zip(columns, to_right, strict=True)):
            # The last column is the free text that gives way on a narrow terminal.
            last = number == len(columns) - 1
            table.add_column(
                column,
                justify="right" if is_right else "left",
                no_wrap=True,
                overflow="ellipsis" if last else "fold",
                style="bold" if number == 0 else None,
            )
        for row in rows:
            table.add_row(*(_escape_markup(cell) for cell in row))
        Console().print(table)
        return
    widths = [
        max([len(column), *(len(row[at]) for row in rows)]) for at, column in enumerate(columns)
    ]
    lines = []
    for row in ([column.upper() for column in columns], *rows):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, to_right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    # At once: a system call for each of 100,000 versions takes longer than all the rest.
    click.echo("\n".join(lines))


def _escape_markup(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print *fields*, one per line, the names in one column."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        # click takes the colour off when stdout is no terminal.
        click.echo(click.style(name.ljust(width), fg="cyan") + "  " + format_text(value))


Tell = Callable[[str], None]
"""Is told what is being done now."""


@contextlib.contextmanager
def progress(text: str) -> Iterator[Tell]:
    """Show *text* and a spinner on the terminal while the body takes longer than a second.

    Yields what changes the text.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    spinner = Console(stderr=True).status(text)
    timer = threading.Timer(PROGRESS_DELAY_S, spinner.start)
    timer.daemon = True
    timer.start()
    try:
        yield spinner.update
    finally:
        timer.cancel()
        timer.join()
        spinner.stop()


def format_size(size_bytes: int) -> str:
    """Return ``1.2 MiB``."""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def format_path(path: bytes) -> str:
    """Return *path* for one line: what is no text, or would move the cursor, is escaped."""
    return format_text(path.decode("utf-8", "backslashreplace"))


def format_text(text: str) -> str:
    """Return *text*, which anybody may have written, for one line, as `format_path` does."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def format_count(number: int) -> str:
    """Return ``1,234``."""
    return f"{number:,}"


def format_duration(seconds: float) -> str:
    """Return ``4 ms``, ``2.3 s``, ``5 min``, ``3.1 h``, ``12 days``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def format_utc(moment: datetime) -> str:
    """Return ``2026-06-20T12:00:00.123456Z``, always with six digits, so that text order holds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_local(moment: datetime) -> str:
    """Return ``2026-06-20 14:00:00`` on the local clock."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
