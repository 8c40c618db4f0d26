"""Where the daemon's words go: a file in the store, and the terminal in the foreground."""

import logging
import logging.handlers
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

LOG_KEEP_BYTES = 8 << 20
"""A log beyond this is set aside as ``log.1``; one old log is kept. Whoever may look into the mount
can have lines written, so there must be an end to it."""

Opener = Callable[[str, int], int]

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """A message is one line: names of files are in it, which may have line breaks in them.

    The lines of a traceback stay.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's
        text = super().formatMessage(record)
        if text.isprintable():
            return text
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
        )


class _File(logging.handlers.RotatingFileHandler):
    """A log that is opened as *opener* says: not through a link that somebody put there."""

    def __init__(self, path: Path, opener: Opener) -> None:
        self._opener = opener
        super().__init__(path, maxBytes=LOG_KEEP_BYTES, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        fd = self._opener(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(fd, "a", encoding="utf-8")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def set_up(level: str, log_file: Path | None, *, terminal: bool, opener: Opener = _private) -> None:
    """Send log records of *level* and above to *log_file* and, if asked, to stderr.

    A log that can't be written (a read-only disk) must not keep the pond from mounting.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if log_file is not None:
        try:
            handler = _File(log_file, opener)
        except OSError as error:
            print(f"pond: no log at {log_file}: {error.strerror}", file=sys.stderr)
        else:
            handler.setFormatter(_OneLine(FORMAT))
            root.addHandler(handler)
    if terminal:
        console = logging.StreamHandler()
        console.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(console)
    # Tracebacks of logging itself (a full disk under the log file) would go to a closed stderr.
    logging.raiseExceptions = False
