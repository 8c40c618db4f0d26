"""The writer lock: at most one process writes to a store, and the lock dies with it.

flock(2) on ``_pond/lock``: the kernel lets go of it however the process ends, so nothing stale
can be left. What the file says is for people only.
"""

import fcntl
import json
import os
import socket as _socket

from pondfs.errors import PondLocked

LOCK_FILE = "lock"


class WriterLock:
    """The held lock. Not inherited by programs we start; a fork shares it until all close."""

    def __init__(self, pond_dir: str, *, mountpoint: str, socket: str) -> None:
        """Take the lock in *pond_dir*, which exists.

        Raises: PondLocked (EBUSY) naming the holder.
        """
        path = os.path.join(pond_dir, LOCK_FILE)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = find_holder(pond_dir)
            os.close(self._fd)
            locked = PondLocked(_describe(pond_dir, holder))
            locked.mountpoint = str((holder or {}).get("mountpoint", ""))
            raise locked from None
        except BaseException:
            os.close(self._fd)
            raise
        holder = {
            "pid": os.getpid(),
            "mountpoint": mountpoint,
            "host": _socket.gethostname(),
            "socket": socket,
        }
        # Not fsynced: after a power cut nobody holds the lock, whatever the file says.
        data = json.dumps(holder).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two inodes."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def find_holder(pond_dir: str) -> dict[str, object] | None:
    """Return what the lock file says of its holder; None when it says nothing."""
    try:
        with open(os.path.join(pond_dir, LOCK_FILE), "rb") as file:
            holder = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def _describe(pond_dir: str, holder: dict[str, object] | None) -> str:
    store = os.path.dirname(os.path.abspath(pond_dir))
    if holder is None:
        return f"pond {store} is in use by another process: unmount it first"
    where = holder.get("mountpoint")
    what = f"mounted at {where}" if where else "in use"
    return f"pond {store} is already {what} by process {holder.get('pid')}: unmount it first"
