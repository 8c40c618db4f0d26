"""Where the daemon's words go, and in what form: a file in the store, the terminal, journald.

The same line said again and again (a disk that fails, a client that keeps asking) is said a few
times, then counted: a log must not fill the disk whose trouble it tells of.
"""

import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

LOG_KEEP_BYTES = 8 << 20
"""A log beyond this is set aside as ``log.1``; one old log is kept. Whoever may look into the mount
can have lines written, so there must be an end to it."""

Opener = Callable[[str, int], int]

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

FORMATS = ("auto", "text", "json", "journal")

REPEATS, REPEATS_S = 10, 60.0
"""So many lines that differ in their values only are told in so many seconds."""

_TOLD = "is_told"


class _OneLine(logging.Formatter):
    """A message is one line: names of files are in it, which may have line breaks in them.

    The lines of a traceback stay, each with a blank in front: names are in what an exception says
    as well, and no line of it is to pass for a message.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's
        return _printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  logging's
        return _indented(super().formatStack(stack_info))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _indented(text: str) -> str:
    return "\n".join(f" {_printable(line)}" for line in text.split("\n"))


class _File(logging.handlers.RotatingFileHandler):
    """A log that is opened as *opener* says: not through a link that somebody put there."""

    def __init__(self, path: Path, opener: Opener) -> None:
        self._opener = opener
        super().__init__(path, maxBytes=LOG_KEEP_BYTES, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        fd = self._opener(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        # A name that is no UTF-8 must not keep the line it is in from being written.
        return os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")

    def doRollover(self) -> None:  # noqa: N802  logging's
        """Begin a new log; where that can't be, the old one goes on: it is closed by then."""
        try:
            super().doRollover()
        except OSError:
            if self.stream is None:
                self.stream = self._open()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class Repeats(logging.Filter):
    """Passes the first REPEATS records of a kind in REPEATS_S; the next one says what was left out.

    A kind is one place in the source: the message before its values are put in.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether *record* is told."""
        key = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        began, told, left_out = self._kinds.get(key, (now, 0, 0))
        if now - began >= REPEATS_S:
            if left_out:
                record.msg = (
                    f"{record.getMessage()} (and {left_out:.0f} more in {now - began:.0f} s)"
                )
                record.args = None
            began, told, left_out = now, 0, 0
        is_told = told < REPEATS
        self._kinds[key] = [began, told + is_told, left_out + (not is_told)]
        return is_told


class _Fields(logging.Filter):
    """Says with every record which pond it is about."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        record.__dict__.update(self._fields)
        return True


def set_up(
    level: str,
    log_file: Path | None,
    *,
    terminal: bool,
    form: str = "auto",
    fields: dict[str, str] | None = None,
    opener: Opener = _private,
) -> None:
    """Send log records of *level* and above to *log_file* and, if asked, to stderr.

    A log that can't be written (a read-only disk) must not keep the pond from mounting.

    Args:
        level: one of `options.LOG_LEVELS`.
        log_file: where to append; None for nowhere.
        terminal: to stderr as well; to journald instead when stderr leads there anyway.
        form: ``text``, ``json`` (a line an object), ``journal`` (journald's fields, whatever stderr
            is) or ``auto``: text, and journald where stderr leads there.
        fields: what is said with every record, besides its own.
        opener: opens *log_file*; raises OSError where that is not to be.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handlers: list[logging.Handler] = []
    if log_file is not None:
        try:
            handler = _File(log_file, opener)
        except OSError as error:
            print(f"pond: no log at {log_file}: {error.strerror}", file=sys.stderr)
        else:
            handler.setFormatter(_json() if form == "json" else _OneLine(FORMAT))
            handlers.append(handler)
    if terminal or form == "journal":
        handlers.append(_terminal(form))
    # One for all handlers: a filter of the root logger would not see its children's records.
    repeats = _Once(Repeats())
    for handler in handlers:
        handler.addFilter(repeats)
        handler.addFilter(_Fields(fields or {}))
        root.addHandler(handler)
    # Tracebacks of logging itself (a full disk under the log file) would go to a closed stderr.
    logging.raiseExceptions = False


class _Once(logging.Filter):
    """Asks another filter once for each record, and has all handlers go by its answer."""

    def __init__(self, ask: logging.Filter) -> None:
        super().__init__()
        self._ask = ask

    def filter(self, record: logging.LogRecord) -> bool:
        """Say what was said of *record* when it came first."""
        if _TOLD not in record.__dict__:
            record.__dict__[_TOLD] = self._ask.filter(record)
        return bool(record.__dict__[_TOLD])


def _terminal(form: str) -> logging.Handler:
    """Return what writes to stderr, or to journald."""
    if form == "journal" or (form == "auto" and _is_journal(sys.stderr.fileno(), os.environ)):
        from logging_journald import Facility, JournaldLogHandler

        # Without message ids: they are for messages a catalog explains.
        journal: logging.Handler = JournaldLogHandler(
            "pondfs", Facility.DAEMON, use_message_id=False
        )
        return journal
    console = logging.StreamHandler()
    console.setFormatter(
        _json() if form == "json" else _OneLine("%(levelname)s %(name)s: %(message)s")
    )
    return console


def _json() -> logging.Formatter:
    """Return what makes one JSON object of a record: timestamp, level, logger, message, fields."""
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
        json_ensure_ascii=False,
        reserved_attrs=[*RESERVED_ATTRS, _TOLD],
    )


def _is_journal(fd: int, environ: "os._Environ[str]") -> bool:
    """Say whether *fd* is the stream that systemd connected to journald; systemd.exec(5)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
