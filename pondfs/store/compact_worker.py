"""The process that compacts beside a mounted pond: out of the daemon's way, and expendable.

``python -m pondfs.store.compact_worker STORE``, started by `vfs.compactor`. It puts small data
files together and prints one JSON object: ``request`` (with ``files``, ``bytes``) when new files
are ready to be put in place, ``error``, or neither if there is nothing to do. Then it waits for
stdin to end, and removes what it wrote if that was in vain. When stdin ends before, it stops.

It has the lowest priority and writes `BYTES_PER_S` at most, so that whoever works in the mount
does not wait for it.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from pondfs.confine import keep_memory_private
from pondfs.errors import PondError
from pondfs.store.compact import make_plan
from pondfs.store.compact_files import write_files
from pondfs.store.lock import ReaderLock, rewriting
from pondfs.store.prune_swap import is_done
from pondfs.store.request import discard
from pondfs.store.table import POND_DIR

BYTES_PER_S = 16 << 20

_IDLE = 3 << 13  # IOPRIO_CLASS_IDLE, linux/ioprio.h
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}


def main() -> None:
    """Compact once."""
    keep_memory_private()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _step_back()
    ended = threading.Event()
    is_ready = threading.Event()
    threading.Thread(target=_watch, args=(ended, is_ready), daemon=True).start()
    try:
        _compact(os.path.abspath(sys.argv[1]), ended, is_ready)
    except (PondError, OSError) as error:
        _say({"error": str(error)})
    except Exception as error:
        _say({"error": f"a bug in pondfs ({type(error).__name__}: {error})"})
        raise


def _compact(store: str, ended: threading.Event, is_ready: threading.Event) -> None:
    pond = os.path.join(store, POND_DIR)
    with rewriting(pond, wait=False) as alone:
        if not alone:
            _say({})
            return
        reading = ReaderLock(pond)
        try:
            plan = make_plan(store, small=True)
            if not plan.files:
                _say({})
                return
            _check_space(store, plan.bytes)
            rewritten = write_files(plan, pace=_Pace().wait)
            # From here on only the end of stdin says that nobody is about to use the new files.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        finally:
            reading.release()
        is_ready.set()
        with contextlib.suppress(BrokenPipeError):  # a daemon that was killed: stdin ends, too
            _say({"request": rewritten.request, "files": len(plan.files), "bytes": plan.bytes})
        ended.wait()
        if is_done(store, rewritten.files):
            os.unlink(os.path.join(pond, rewritten.request))
        else:
            discard(store, rewritten)


def _check_space(store: str, wanted: int) -> None:
    """Leave those who work in the mount at least as much again as we need. Raises: OSError."""
    found = os.statvfs(store)
    free = found.f_bavail * found.f_frsize
    if free < 2 * wanted:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)}: compacting needs {2 * wanted / 1e6:.0f} MB for a while",
            store,
        )


def _say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(1)


def _watch(ended: threading.Event, is_ready: threading.Event) -> None:
    """Stop in the middle when nobody waits for us any more."""
    while os.read(0, 1024):
        pass
    ended.set()
    if not is_ready.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _step_back() -> None:
    """Take the processor and the disk only when nobody else does."""
    os.nice(19)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _IDLE)  # 1: this process


class _Pace:
    """Lets `BYTES_PER_S` pass."""

    def __init__(self) -> None:
        self._free_at = time.monotonic()

    def wait(self, size: int) -> None:
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / BYTES_PER_S
        time.sleep(self._free_at - now)


if __name__ == "__main__":
    main()
