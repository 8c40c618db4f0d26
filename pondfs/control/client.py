"""The commands' end of the control socket: blocking, and only the standard library.

A command that imports trio starts 100 ms later than one that does not.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pondfs.control.protocol import (
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    PROTOCOL,
    Message,
    decode,
    encode,
)
from pondfs.errors import DaemonGone, DaemonRefused, NotPermitted

DEFAULT_TIMEOUT_S = 10.0
"""How long a daemon may take to connect, greet, or answer something quick."""


class _Closing(ABC):
    """What `with` closes."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class MountClient(_Closing):
    """The way through a mount's ``.pond/control``, for who may read the mount but is not its owner.

    Nobody greets and nobody says farewell; the kernel tells the daemon who asks.
    """

    def __init__(self, mountpoint: Path) -> None:
        """Open it. Raises: OSError as the mount says (EROFS: it is mounted read-only)."""
        self.mountpoint = mountpoint
        self._fd = os.open(mountpoint / ".pond" / "control", os.O_RDWR | os.O_CLOEXEC)

    def call(self, op: str, *, timeout_s: float | None = None, **fields: Any) -> Message:
        """As `Client.call`; it waits as long as the daemon lives.

        Raises: DaemonRefused; DaemonGone.
        """
        line = bytearray()
        try:
            os.write(self._fd, encode({"id": 1, "op": op, **fields}))
            while True:
                try:
                    chunk = os.read(self._fd, 1 << 20)
                except BlockingIOError:
                    continue  # it is still at it
                if not chunk:
                    break
                line += chunk
        except OSError as error:
            raise DaemonGone(
                f"lost the daemon of {self.mountpoint}: {error.strerror or error}"
            ) from None
        reply = decode(bytes(line))
        if not reply.get("ok"):
            raise _refused(reply)
        return reply

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Client(_Closing):
    """A connection to one daemon.

    Attributes:
        hello: the daemon's greeting.
    """

    def __init__(self, path: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect and read the greeting.

        Raises: DaemonGone: ECONNREFUSED or ENOENT if nobody listens any more, ETIMEDOUT if a
            process is there but does not answer; NotPermitted for somebody else's daemon.
        """
        self._path = path
        self._received = bytearray()
        self._next_id = 1
        self._farewell: Message | None = None
        self._pidfd: int | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                # Not settimeout: with it, a full listen queue is EAGAIN at once (unix(7)).
                limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
                self._socket.connect(os.fspath(path))
            except PermissionError:
                raise NotPermitted(
                    f"the daemon at {path} belongs to somebody else: ask as its owner or as root"
                ) from None
            except OSError as error:
                nobody = DaemonGone(f"no daemon answers at {path}: {error.strerror or error}")
                nobody.errno = errno.ETIMEDOUT if error.errno == errno.EAGAIN else error.errno or 0
                raise nobody from None
            self.hello = self._receive(time.monotonic() + timeout_s, MAX_LINE_BYTES)
            if self.hello.get("ok") is False:
                raise NotPermitted(str(self.hello.get("error")))
            if self.hello.get("pondfs") != PROTOCOL:
                raise DaemonGone(
                    f"the daemon at {path} speaks protocol {self.hello.get('pondfs')}, "
                    f"this command {PROTOCOL}: use the same version of pondfs for both"
                )
            # Now, while the daemon certainly lives: later its pid could be somebody else's. Where
            # its pid is not ours to see (another pid namespace), its hanging up has to do.
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return int(self.hello["pid"])

    @property
    def mountpoint(self) -> Path:
        """Where the daemon's mount is."""
        return Path(self.hello["mountpoint"])

    def call(
        self, op: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S, **fields: Any
    ) -> Message:
        """Ask the daemon for *op* and return its reply.

        Args:
            op: see ``docs/reference/control.md``.
            timeout_s: None waits for as long as the daemon lives.
            fields: go into the request.
        Raises: DaemonRefused with the daemon's errno and words; DaemonGone if it hangs up, or does
            not answer in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return self._ask(op, deadline, fields)

    def call_table(
        self, op: str, *, timeout_s: float | None = None, **fields: Any
    ) -> tuple[Message, bytes]:
        """As `call`, for an *op* that has bytes behind its reply: return them as well.

        Raises: as `call`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reply = self._ask(op, deadline, fields)
        pieces: list[bytes] = []
        while True:
            piece = self._receive(deadline)
            if piece.get("farewell"):
                self._farewell = piece
                raise self._gone("it ended in the middle of an answer")
            if not piece.get("ok"):
                raise _refused(piece)
            if not piece["bytes"]:
                return reply, b"".join(pieces)
            pieces.append(self._receive_bytes(piece["bytes"], deadline))

    def _ask(self, op: str, deadline: float | None, fields: Message) -> Message:
        request_id = self._next_id
        self._next_id += 1
        try:
            timeout_s = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            self._socket.settimeout(timeout_s)
            self._socket.sendall(encode({"id": request_id, "op": op, **fields}))
        except OSError as error:
            raise self._gone(error.strerror or "timed out") from None
        while True:
            reply = self._receive(deadline)
            if reply.get("farewell"):
                self._farewell = reply
            # An id we gave up on earlier: its answer comes late and is nobody's.
            elif reply.get("id") in (request_id, None):
                break
        if not reply.get("ok"):
            raise _refused(reply)
        return reply

    def wait_exit(self, timeout_s: float | None = None) -> Message | None:
        """Wait until the daemon's process is gone; return its farewell if it said one.

        Raises: DaemonGone if it is still there after *timeout_s*.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with contextlib.suppress(DaemonGone):
            while self._farewell is None:
                message = self._receive(deadline)
                if message.get("farewell"):
                    self._farewell = message
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left_ms):
                raise DaemonGone(f"the daemon (pid {self.pid}) has not finished in time")
        return self._farewell

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _receive(self, deadline: float | None, most_bytes: int = MAX_REPLY_BYTES) -> Message:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > most_bytes:
                raise self._gone("it sends something else than messages")
            self._receive_more(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return decode(line)

    def _receive_bytes(self, count: int, deadline: float | None) -> bytes:
        while len(self._received) < count:
            self._receive_more(deadline)
        found = bytes(memoryview(self._received)[:count])
        del self._received[:count]
        return found

    def _receive_more(self, deadline: float | None) -> None:
        try:
            self._socket.settimeout(
                None if deadline is None else max(deadline - time.monotonic(), 0.001)
            )
            chunk = self._socket.recv(1 << 20)
        except TimeoutError:
            silent = self._gone("it does not answer in time")
            silent.errno = errno.ETIMEDOUT
            raise silent from None
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from None
        if not chunk:
            raise self._gone("it hung up")
        self._received += chunk

    def _gone(self, why: str) -> DaemonGone:
        return DaemonGone(f"lost the daemon at {self._path}: {why}")


def _refused(reply: Message) -> DaemonRefused:
    return DaemonRefused(
        str(reply.get("error")), int(reply.get("errno") or 0), reply.get("exit_code")
    )
