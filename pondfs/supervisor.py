"""What the service manager is told: sd_notify(3), by the library of that name.

Without ``$NOTIFY_SOCKET`` all of this says nothing. What systemd may believe:

- ``READY=1``: a stat through the mount has worked;
- ``WATCHDOG=1``: a statvfs through the mount, which the kernel never answers by itself, came back
  and the committer was not stuck: kernel, daemon, engine and the store's disk are well;
- ``STOPPING=1``, and ``EXTEND_TIMEOUT_USEC`` again and again while the last commit is under way:
  a slow disk is no reason to kill a daemon that still writes;
- ``STATUS=``: one line for ``systemctl status``.
"""

import logging
import os
import time
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

import sdnotify
import trio

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.supervisor")

STATUS_S = 5.0
"""How often the status line is renewed."""

EXTEND_S = 10.0
"""How often more time is asked for while ending."""

EXTENSION_US = 45_000_000
"""The time that is asked for: what systemd shall wait from each such word on."""

STUCK_S = 300.0
"""A commit that neither ends nor fails for so long: no disk is that slow; whoever waits for it had
better be told by a new daemon, and what was acknowledged is on the disk."""


class Supervisor:
    """The daemon's side of `Type=notify`."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._notifier = None
        if environ.get("NOTIFY_SOCKET"):
            self._notifier = sdnotify.SystemdNotifier()
            # Not for the processes that we start: a word of theirs would be taken for ours.
            del environ["NOTIFY_SOCKET"]
            if self._notifier.socket is not None:
                # A service manager that does not read (its queue holds some ten words) must not
                # hold up everybody on the mount: then a word is lost.
                self._notifier.socket.setblocking(False)
        self._watchdog_s = _watchdog_s(environ)

    def tell(self, *words: str) -> None:
        """Send these assignments in one message."""
        if self._notifier is not None:
            self._notifier.notify("\n".join(words))

    def reloading(self) -> None:
        """Say that the configuration is read again; `reloaded` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def reloaded(self, what: str) -> None:
        """Say that it was read, and in *what* that ended."""
        self.tell("READY=1", f"STATUS={what}")

    async def watch(self, vfs: "Vfs", mountpoint: str, device: int) -> None:
        """Renew the status line and feed the watchdog, until cancelled."""
        if self._notifier is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_status, vfs)
            if self._watchdog_s is not None:
                nursery.start_soon(self._feed, vfs, mountpoint, device, self._watchdog_s / 3)

    async def ending(self, vfs: "Vfs") -> None:
        """Say that the mount ends, and ask for time, until cancelled."""
        self.tell("STOPPING=1")
        while True:
            self.tell(f"EXTEND_TIMEOUT_USEC={EXTENSION_US}", f"STATUS={ending_line(vfs)}")
            await trio.sleep(EXTEND_S)

    async def _tell_status(self, vfs: "Vfs") -> None:
        while True:
            self.tell(f"STATUS={status_line(vfs)}")
            await trio.sleep(STATUS_S)

    async def _feed(self, vfs: "Vfs", mountpoint: str, device: int, every_s: float) -> None:
        busy_since: float | None = None
        while True:
            busy_since = (busy_since or time.monotonic()) if vfs.committer.is_busy else None
            if busy_since is not None and time.monotonic() - busy_since > STUCK_S:
                log.error("a commit has not ended for %.0f s: the watchdog is not fed", STUCK_S)
            # Abandoned when we are cancelled: a hung disk must not keep the mount from ending.
            elif await trio.to_thread.run_sync(
                _answers, mountpoint, device, abandon_on_cancel=True
            ):
                self.tell("WATCHDOG=1")
            await trio.sleep(every_s)


def _answers(mountpoint: str, device: int) -> bool:
    """Ask the store through the mount, as a program would; in a thread.

    The kernel remembers attributes and names but no statvfs. When the mount is not where it was
    (detached lazily, or something is mounted over it) nobody could ask: then that we ask will do.
    """
    try:
        if os.stat(mountpoint).st_dev == device:
            os.statvfs(mountpoint)
    except OSError as error:
        log.warning("the mount does not answer as it should: %s", error)
        return False
    return True


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return how long systemd waits for a word; None when it does not.

    Source: sd_watchdog_enabled(3).
    """
    pid = environ.get("WATCHDOG_PID")
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


def status_line(vfs: "Vfs") -> str:
    """Return what ``systemctl status`` shows."""
    committer, pending = vfs.committer, vfs.pending
    if committer.failure is not None:
        return f"version {committer.published}; {committer.failure} (kept, and tried again)"
    line = f"version {committer.durable}"
    if not pending.empty:
        line += f"; pending: {pending.memory_bytes + pending.staged_bytes:,} bytes"
    return line


def ending_line(vfs: "Vfs") -> str:
    """Return the same while the last commit is made."""
    if vfs.committer.failure is not None:
        return f"ending: {vfs.committer.failure}; free the disk, or a second SIGTERM gives up"
    return "ending: committing what is pending"
