"""Where the daemon's words go: a file in the store, and the terminal in the foreground."""

import contextlib
import logging
import sys
from pathlib import Path

LOG_KEEP_BYTES = 8 << 20
"""A log beyond this is set aside as ``log.1`` when the next daemon starts; one old log is kept."""

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str, log_file: Path | None, *, terminal: bool) -> None:
    """Send log records of *level* and above to *log_file* and, if asked, to stderr.

    A log that can't be written (a read-only disk) must not keep the pond from mounting.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if log_file is not None:
        with contextlib.suppress(OSError):
            if log_file.exists() and log_file.stat().st_size > LOG_KEEP_BYTES:
                log_file.replace(log_file.with_name(log_file.name + ".1"))
        try:
            handler = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            print(f"pond: no log at {log_file}: {error.strerror}", file=sys.stderr)
        else:
            handler.setFormatter(logging.Formatter(FORMAT))
            root.addHandler(handler)
    if terminal:
        console = logging.StreamHandler()
        console.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(console)
    # Tracebacks of logging itself (a full disk under the log file) would go to a closed stderr.
    logging.raiseExceptions = False
