"""Processes as /proc shows them, and asking for something that may never be answered."""

import errno
import os
import re
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_STATVFSES = {
    "T": "is stopped",
    "t": "is being traced, by a debugger perhaps",
    "D": "waits for a disk",
    "Z": "has died and waits for its parent to look",
}

STOPPED = ("T", "t")
"""States of a process that does nothing until somebody lets it."""


_FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is there.

    Attributes:
        pid: its number.
        name: what it calls itself; 15 letters at most.
        state: one letter, as proc_pid_stat(5) has it.
    """

    pid: int
    name: str
    state: str

    @property
    def trouble(self) -> str:
        """Why it does nothing; "" when nothing keeps it."""
        return _STATVFSES.get(self.state, "")


def find_process(pid: int) -> Process | None:
    """Return process *pid*, if it is there and ours to see."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may have blanks and brackets in it.
    name, _, rest = text.partition("(")[2].rpartition(")")
    return Process(pid, name, rest.split()[0])


def has_mapped(pid: int, word: str) -> bool | None:
    """Return whether *pid* has a file mapped that is called something with *word*.

    None when it is not for us to see: a daemon that gave up rights is closed to its own user.
    """
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return False
    return word in maps


def find_listener(path: Path) -> int | None:
    """Return the process that listens on a socket, without talking to it; None when nobody does.

    Returns: -1 when somebody does whom we can't see, in another pid namespace.
    Source: unix(7), SO_PEERCRED: of a connection made by connect(2) it is who called listen(2).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ours:
        ours.setblocking(False)  # a queue that is full is an answer as well
        try:
            ours.connect(os.fspath(path))
            raw = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid: int = struct.unpack("3i", raw)[0]
    return pid or -1


def find_lock_holder(path: Path, likely: int | None) -> int | None:
    """Return who holds a flock(2) on *path*, without touching the lock; None when nobody does.

    Trying to take it would have a mount that begins in that moment believe that it is taken.

    Args:
        path: the file.
        likely: who the file itself says holds it: where devices have two numbers, as on btrfs, the
            kernel's list has the other one, and this is what tells its line from another's.
    Returns: -1 when somebody does whom we can't see, in another pid namespace. Most kernels leave
        such a lock out of the list: see `sees_all_locks`.
    Source: proc_locks(5).
    """
    found = os.stat(path)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    with open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            match = re.match(r"\d+: FLOCK +\S+ +WRITE (-?\d+) (\w+:\w+):(\d+) ", line)
            if match is None or int(match[3]) != found.st_ino:
                continue
            pid = int(match[1])
            if match[2] == device or pid == likely:
                return pid or -1
    return None


def sees_all_locks() -> bool:
    """Return whether the kernel tells us of locks of whatever process.

    In a pid namespace (a container, as a rule) it leaves out those of processes that are not in it.

    Source: locks_translate_pid in the kernel's fs/locks.c; PROC_PID_INIT_INO in
    include/linux/proc_ns.h.
    """
    return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE


def errno_of_statvfs(path: Path, patience_s: float) -> int | None:
    """Return the errno of a statvfs of *path*, 0 for none; None when there is no answer in time.

    Asked by a process that is left to itself then: the kernel may not let it go. It is no stat, of
    which the kernel may have the answer itself, long after the daemon is gone.
    """
    asking = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _STATVFS, os.fspath(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return asking.wait(patience_s)
    except subprocess.TimeoutExpired:
        asking.kill()
        return None


_STATVFS = f"""
import os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    os._exit(error.errno if 0 < error.errno < 256 else {errno.EIO})
os._exit(0)
"""
