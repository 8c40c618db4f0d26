"""Named points at which a test can end the process or make a step fail.

``PONDFS_FAULT=commit:link`` kills the process (SIGKILL) when it gets there the first time;
``commit:link:3`` the third time; ``commit:link:ENOSPC`` makes the step fail with that errno
every time, ``commit:link:ENOSPC:2`` the first two times. Unset, which is always outside tests,
a point costs one look at a dictionary that is empty.
"""

import errno
import os
import signal

_faults: dict[str, list[str]] = {}


def _load() -> None:
    for item in os.environ.get("PONDFS_FAULT", "").split(","):
        parts = item.strip().split(":")
        if len(parts) >= 2:
            _faults[":".join(parts[:2])] = parts[2:]


_load()


def fault(name: str) -> None:
    """Do what ``PONDFS_FAULT`` asks for at the point *name*; nothing otherwise."""
    if _faults and name in _faults:
        _trip(name, _faults[name])


def _trip(name: str, action: list[str]) -> None:
    if not action or action[0].isdigit():
        left = int(action[0]) if action else 1
        if left <= 1:
            os.kill(os.getpid(), signal.SIGKILL)
        _faults[name] = [str(left - 1)]
        return
    number = int(getattr(errno, action[0]))
    if len(action) > 1:
        left = int(action[1])
        if left <= 1:
            del _faults[name]
        else:
            _faults[name] = [action[0], str(left - 1)]
    raise OSError(number, f"{os.strerror(number)} (fault {name})")
