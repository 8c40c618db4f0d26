"""``.pond/control``: asking the daemon through the mount, for whoever may read the mount.

The control socket answers the pond's owner and root only. Here the kernel vouches for the caller of
``open``, whoever that is, and the daemon answers as far as that user's permissions go. What is
written are requests, a JSON object a line, as on the socket; what is read next are their replies.
A program that only reads it finds it empty.
"""

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3

Answer = Callable[[bytes, dict[str, Any]], Awaitable[bytes]]
"""Takes a request line and the peer who sent it; returns the reply line."""

MAX_REQUEST_BYTES = 1 << 20


async def refuse_all(line: bytes, peer: dict[str, Any]) -> bytes:
    """Answer nothing: what a mount does that nobody gave an `Answer`."""
    return b'{"id": null, "ok": false, "error": "nobody answers here", "errno": 95}\n'


class Talk:
    """One open handle of ``.pond/control``."""

    def __init__(self, ctx: pyfuse3.RequestContext, answer: Answer) -> None:
        self._peer = {
            "uid": ctx.uid,
            "gid": ctx.gid,
            "pid": ctx.pid,
            "groups": _groups(ctx.pid),
        }
        self._answer = answer
        self._request = bytearray()
        self._replies = bytearray()

    async def write(self, data: bytes) -> int:
        """Take a piece of a request; return when all whole requests in it are answered."""
        self._request += data
        while (end := self._request.find(b"\n")) >= 0:
            line = bytes(self._request[:end])
            del self._request[: end + 1]
            if line.strip():
                self._replies += await self._answer(line, self._peer)
        if len(self._request) > MAX_REQUEST_BYTES:
            self._request.clear()
            raise pyfuse3.FUSEError(errno.EMSGSIZE)
        return len(data)

    def read(self, size: int) -> bytes:
        """Return the next bytes of the replies; none when all are read."""
        found = bytes(self._replies[:size])
        del self._replies[:size]
        return found


def _groups(pid: int) -> list[int]:
    """Return a process's supplementary groups; none for one outside our pid namespace."""
    try:
        return sorted(pyfuse3.get_sup_groups(pid))
    except (OSError, RuntimeError, ValueError):
        return []
