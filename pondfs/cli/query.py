"""``pond query``: SQL over the rows, the tree at any version, and the data in files."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from pondfs.cli.query_run import (
    BINARY_FORMATS,
    FORMATS,
    TERMINAL_ROWS,
    Form,
    NewFile,
    interruptible,
    open_session,
    run_statement,
    tell,
)
from pondfs.cli.query_text import split
from pondfs.cli.reach import Place, find_place, pond_option
from pondfs.cli.run import EXIT_PIPE
from pondfs.cli.trees import at_option
from pondfs.errors import UsageError

if TYPE_CHECKING:
    from pondfs.query.session import Session

_BY_SUFFIX = {
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "table",
}


@click.command("query")
@click.argument("sql", required=False)
@click.option(
    "-f", "--file", "source", type=click.File(encoding="utf-8"), help="Read the SQL from FILE."
)
@click.option("--pending", is_flag=True, help="With what is not committed yet; files as they are.")
@at_option
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="How to print rows: table on a terminal, else csv.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--rows",
    type=click.IntRange(0),
    metavar="N",
    help=f"Rows of a table, 0 for all: {TERMINAL_ROWS} on a terminal.",
)
@pond_option
def command(
    sql: str | None,
    source: TextIO | None,
    pending: bool,
    at: str | None,
    form: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    rows: int | None,
) -> int:
    """Run SQL over the pond. Nothing can be changed with it.

    Without SQL it is read from stdin, or a prompt asks for it. Tables: oplog_entries (what was
    done), oplog (every row), nodes and directory_entries (the tree), extents, versions, tags.
    Functions: nodes_at('W'), history('/PATH'), changes('A', 'B'), read('/DIR/*.csv'); a file's path
    in quotes is a table as well.

    \b
    Example:
      pond query "SELECT path, size FROM nodes ORDER BY size DESC LIMIT 10"
      pond query --at yesterday "SELECT avg(t) FROM '/sensors/a.csv'" --format csv
      pond query "SELECT * FROM oplog_entries" -o rows.parquet
    """
    if sql is not None and source is not None:
        raise UsageError("give the SQL, or a file with --file, not both")
    if pending and at is not None:
        raise UsageError("--pending is about what is now, --at about what was: give one of them")
    if as_json:
        if form not in (None, "json"):
            raise UsageError(f"--json is --format json: it can't be {form} as well")
        form = "json"
    if force and output is None:
        raise UsageError("--force is about the file that --output names")
    place = find_place()
    if sql is None and source is None and sys.stdin.isatty():
        if output is not None or form in BINARY_FORMATS:
            raise UsageError("a prompt shows its results: give the SQL, or a file with --file")
        from pondfs.cli.query_prompt import ask

        return ask(place, at, pending=pending, form=form or "table", rows=rows)
    text = sql if sql is not None else _read(source or sys.stdin)
    statements, rest = split(text)
    statements += [rest] if rest else []
    if not statements:
        raise UsageError("there is no SQL in it")
    how = _form(form, output, rows)
    if len(statements) > 1 and (output is not None or how.name in BINARY_FORMATS):
        raise UsageError("one file, or one stream of parquet or arrow, can hold one result only")
    return _run(place, at, pending, statements, how, output, force)


def _read(source: TextIO) -> str:
    try:
        return source.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source.name} is not UTF-8 text: {error.reason}") from None


def _form(form: str | None, output: Path | None, rows: int | None) -> Form:
    on_terminal = output is None and sys.stdout.isatty()
    if form is None and output is not None:
        form = _BY_SUFFIX.get(output.suffix.lower())
        if form is None:
            raise UsageError(f"'{output.name}' does not say which format: give --format")
    form = form or ("table" if on_terminal else "csv")
    if form in BINARY_FORMATS and on_terminal:
        raise UsageError(f"{form} is not for a terminal: name a file with --output, or pipe it")
    if form != "table":
        if rows is not None:
            raise UsageError("--rows is about tables: LIMIT in the SQL does it for all formats")
        return Form(form, seekable=output is not None)
    if not on_terminal:
        return Form(form, most_rows=rows or None)
    return Form(form, terminal_width(), TERMINAL_ROWS if rows is None else rows or None)


def terminal_width() -> int:
    """Return how many characters a line of the terminal on stdout has."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def _run(
    place: Place,
    at: str | None,
    pending: bool,
    statements: list[str],
    how: Form,
    output: Path | None,
    force: bool,
) -> int:
    """Run the statements, one after another; return the exit code."""
    file = None if output is None else NewFile(output, force=force)
    sink = sys.stdout.buffer if file is None else file.sink

    opened: list[Session] = []

    def work() -> None:
        with open_session(place, at, pending=pending) as session:
            opened.append(session)
            for number, statement in enumerate(statements):
                if number:
                    sink.write(b"\n")
                tell(run_statement(session, statement, how, sink))

    def discard() -> None:
        if file is not None:
            file.discard()

    def forget() -> None:
        # The thread is still writing: only the name goes.
        if file is not None:
            file.forget()
        for session in opened:
            session.remove_spill()

    try:
        interruptible(work, forget)
        if file is not None:
            file.finish()
    except BrokenPipeError:
        # click would make it 1.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    finally:
        discard()
    return 0
