"""``.pond/control``: asking the daemon through the mount, for whoever may read the mount.

The control socket answers the pond's owner and root only. Here the kernel vouches for the caller of
``open``, whoever that is, and the daemon answers as far as that user's permissions go. One write is
one request, a line of JSON as on the socket; what is read next is its reply. A program that only
reads it finds it empty.

Nobody may hold up others, or the unmounting: a write only takes the request (the kernel lets one
write at a time into a file), a read that waits for a reply gives up every WAIT_S with EAGAIN, and
there is room for few handles and one request on each.
"""

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3
import trio

log = logging.getLogger("pondfs.fuse")

Answer = Callable[[bytes, dict[str, Any]], Awaitable[bytes]]
"""Takes a request line and the peer who sent it; returns the reply line."""

WAIT_S = 0.5
MAX_REQUEST_BYTES = 128 << 10
MAX_HANDLES = 16
MAX_HANDLES_OF_ONE = 4


async def refuse_all(line: bytes, peer: dict[str, Any]) -> bytes:
    """Answer nothing: what a mount does that nobody gave an `Answer`."""
    return b'{"id": null, "ok": false, "error": "nobody answers here", "errno": 95}\n'


class Talk:
    """One open handle of ``.pond/control``."""

    def __init__(self, peer: dict[str, Any]) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self._asked = False
        self._is_read = False
        self._answered = trio.Event()
        self._reply = b""

    async def answer(self, answer: Answer, line: bytes) -> None:
        """Have *line* answered; the task of one request. Whatever happens, the mount goes on."""
        try:
            with self.scope:
                self._reply = await answer(line, self.peer)
        except Exception:
            log.exception("a bug in pondfs; please report it")
        self._answered.set()

    def ask(self) -> None:
        """Take note that a request came. Raises: FUSEError EBUSY while the last is unread."""
        if self._asked:
            raise pyfuse3.FUSEError(errno.EBUSY)
        self._asked = True
        self._answered = trio.Event()
        self.scope = trio.CancelScope()

    async def read(self, size: int) -> bytes:
        """Return the next bytes of the reply; none when all are read, or nobody asked.

        Raises: FUSEError EAGAIN when it is not there yet.
        """
        if not self._asked:
            return b""
        if not self._is_read:
            # One at a time: those that wait take the places of other programs' requests.
            self._is_read = True
            with trio.move_on_after(WAIT_S):
                await self._answered.wait()
            self._is_read = False
        if not self._answered.is_set():
            raise pyfuse3.FUSEError(errno.EAGAIN)
        found, self._reply = self._reply[:size], self._reply[size:]
        if not found:
            self._asked = False
        return found


class Talks:
    """All open handles of ``.pond/control``.

    Attributes:
        nursery: where requests are worked on; set while the mount is served.
    """

    def __init__(self, answer: Answer, first_handle: int) -> None:
        self.nursery: trio.Nursery | None = None
        self._answer = answer
        self._open: dict[int, Talk] = {}
        self._next = first_handle

    def __contains__(self, handle: int) -> bool:
        return handle in self._open

    def open(self, ctx: pyfuse3.RequestContext) -> int:
        """Return a new handle. Raises: FUSEError EUSERS when there are too many."""
        users = Counter(talk.peer["uid"] for talk in self._open.values())
        if len(self._open) >= MAX_HANDLES or users[ctx.uid] >= MAX_HANDLES_OF_ONE:
            raise pyfuse3.FUSEError(errno.EUSERS)
        handle = self._next
        self._next += 1
        groups = _groups(ctx.pid)
        peer = {"uid": ctx.uid, "gid": ctx.gid, "pid": ctx.pid, "groups": groups}
        self._open[handle] = Talk(peer)
        return handle

    def write(self, handle: int, data: bytes) -> int:
        """Take a request: one whole line.

        Raises: FUSEError EINVAL for anything else, EMSGSIZE for a long one, EBUSY while the last
            reply is unread, ENOTCONN at the end.
        """
        if len(data) > MAX_REQUEST_BYTES:
            raise pyfuse3.FUSEError(errno.EMSGSIZE)
        if data.find(b"\n") != len(data) - 1:
            raise pyfuse3.FUSEError(errno.EINVAL)
        if self.nursery is None:
            raise pyfuse3.FUSEError(errno.ENOTCONN)
        talk = self._open[handle]
        talk.ask()
        self.nursery.start_soon(talk.answer, self._answer, data)
        return len(data)

    async def read(self, handle: int, size: int) -> bytes:
        """Return bytes of the reply. See `Talk.read`."""
        return await self._open[handle].read(size)

    def close(self, handle: int) -> None:
        """Forget a handle; a request nobody waits for any more is given up."""
        self._open.pop(handle).scope.cancel()


def _groups(pid: int) -> list[int]:
    """Return a process's supplementary groups; none for one outside our pid namespace."""
    try:
        return sorted(pyfuse3.get_sup_groups(pid))
    except (OSError, RuntimeError, ValueError):
        return []
