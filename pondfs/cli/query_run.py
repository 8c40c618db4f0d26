"""Running statements: a session, what is pending, and where the rows go.

Everything heavy is imported when it is called.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from pondfs.cli.output import format_count, format_duration
from pondfs.cli.reach import Place, connect, load_versions, require_pond
from pondfs.cli.run import EXIT_INTERRUPTED
from pondfs.errors import PondExists, SystemFailure
from pondfs.unmount import flush_kernel

if TYPE_CHECKING:
    from pondfs.query.session import Session
    from pondfs.store.preview import PendingRows

T = TypeVar("T")

FORMATS = ("table", "csv", "json", "ndjson", "parquet", "arrow")
BINARY_FORMATS = ("parquet", "arrow")

TERMINAL_ROWS = 1000
"""Rows of a table on a terminal: more would only scroll away."""

_TRIES = 10


@dataclass(frozen=True, slots=True)
class Form:
    """How results are shown.

    Attributes:
        name: one of `FORMATS`.
        width: characters in a line of a table; None does not cut.
        most_rows: rows of a table; None for all.
        seekable: whether they go into a file.
    """

    name: str
    width: int | None = None
    most_rows: int | None = None
    seekable: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows of the coming version.

    Attributes:
        version: its number.
        rows: what there is of it.
        mountpoint: where the pond is mounted.
    """

    version: int
    rows: "PendingRows"
    mountpoint: Path


def load_pending(place: Place) -> Pending | None:
    """Return what a commit would write now; None when the pond is not mounted.

    Raises: DaemonGone; NotPermitted for somebody else's mount; DaemonRefused when commits fail.
    """
    client = connect(place)
    if client is None:
        return None
    from pondfs.store.preview import read_pending

    with client:
        flush_kernel(client.mountpoint)
        for _ in range(_TRIES):
            reply, data = client.call_table("pending")
            try:
                rows = read_pending(place.store, reply["staged"], data)
            except FileNotFoundError:
                continue  # a file that came and went since
            return Pending(reply["version"], rows, client.mountpoint)
    raise _too_fast()


def open_session(place: Place, at: str | None, *, pending: bool) -> "Session":
    """Return a session of queries, with what is pending if that is wanted.

    Raises: as `load_pending`; NotAPond, NoSuchVersion, StoreDamaged.
    """
    require_pond(place.store)
    from pondfs.query.session import Session

    def open_with(found: Pending | None) -> Session:
        if found is None:
            return Session(place.store, at=at)
        return Session(place.store, pending=found.rows, live=found.mountpoint)

    return with_pending(place, open_with, Session.close) if pending else open_with(None)


def with_pending(place: Place, use: Callable[[Pending | None], T], drop: Callable[[T], None]) -> T:
    """Return what *use* makes of what is pending and of what it reads in the store.

    What became a version in between would be in both: then that is dropped, and made again.
    """
    for _ in range(_TRIES):
        found = load_pending(place)
        made = use(found)
        if found is None or load_versions(place, 1)[0].version < found.version:
            return made
        drop(made)
    raise _too_fast()


def _too_fast() -> SystemFailure:
    return SystemFailure("the pond commits faster than it can be read: try again")


def run_statement(session: "Session", text: str, form: Form, sink: BinaryIO) -> list[str]:
    """Run one statement and write what it gives to *sink*.

    Returns: what to tell a person about it, a line each.
    Raises: UsageError for bad SQL, and as the tables it reads.
    """
    started = time.perf_counter()
    result = session.sql(text)
    notes = []
    if form.name == "table":
        from pondfs.query.table import Table, write_table

        table = Table(sink, result.schema, width=form.width, most_rows=form.most_rows)
        write_table(table, _flushed(result, sink))
        rows = table.rows
        if table.has_more:
            notes.append(f"only the first {format_count(rows)} rows: --rows 0 shows all")
        if table.is_cut:
            notes.append("values are cut to fit: --format csv has all of them")
    else:
        from pondfs.query.output import open_writer, write_result

        writer = open_writer(form.name, sink, result.schema, seekable=form.seekable)
        rows = write_result(writer, _flushed(result, sink))
    sink.flush()
    took = format_duration(time.perf_counter() - started)
    return [*notes, f"{format_count(rows)} row{'' if rows == 1 else 's'} in {took}"]


def _flushed(batches: Any, sink: BinaryIO) -> Iterator[Any]:
    """Yield batches; what was written of one is out before the next is waited for."""
    for batch in batches:
        yield batch
        sink.flush()


def tell(notes: list[str]) -> None:
    """Show *notes* to a person, if one is there."""
    if sys.stderr.isatty():
        for note in notes:
            click.echo(click.style(note, dim=True), err=True)


def interruptible(work: Callable[[], T], clean_up: Callable[[], None]) -> T:
    """Do *work* in a thread, so that Ctrl-C (or SIGTERM) ends the process, whatever it is at.

    DataFusion can't always stop, and a thread that waits for a reader of stdout neither.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            errors.append(error)

    def end(number: int, _: object) -> None:
        clean_up()
        os._exit(EXIT_INTERRUPTED if number == signal.SIGINT else 128 + number)

    thread = threading.Thread(target=run, daemon=True)
    before = [(number, signal.signal(number, end)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        thread.start()
        thread.join()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if errors:
        raise errors[0]
    return outcome[0]


class NewFile:
    """A file that appears under its name when it is whole, or not at all.

    Attributes:
        sink: where to write it.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        """Begin it beside its place.

        Raises: PondExists if there is something at *path* already, unless with *force*; OSError.
        """
        self._path = path
        self._force = force
        self._refuse()
        fd, self._name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(fd, 0o666 & ~umask)
        self.sink: BinaryIO = os.fdopen(fd, "wb")

    def _refuse(self) -> None:
        if not self._force and os.path.lexists(self._path):
            raise PondExists(f"{self._path} is there already: --force replaces it")

    def finish(self) -> None:
        """Give it its name; it is on disk then. Raises: as making it; OSError."""
        self.sink.flush()
        os.fsync(self.sink.fileno())
        self.sink.close()
        self._refuse()
        os.replace(self._name, self._path)

    def discard(self) -> None:
        """Leave nothing of it, if it is not finished."""
        with contextlib.suppress(OSError):  # what could not be written before can't be now
            self.sink.close()
        self.forget()

    def forget(self) -> None:
        """Take its name away, while somebody may be writing it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name)
