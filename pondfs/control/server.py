"""The daemon's end of the control socket.

Nothing a client sends can end the daemon: a bad line is answered with an error, a client that goes
away is forgotten, and what a handler raises becomes an error reply. Handlers run on the trio thread
between everything else, one at a time for each connection.
"""

import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import trio

from pondfs.control.protocol import (
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    PROTOCOL,
    Message,
    ProtocolError,
    decode,
    encode,
    failure,
)
from pondfs.errors import PondError, PondLocked

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply with bytes behind it; see `protocol`.

    Attributes:
        fields: the reply.
        pieces: the bytes; each is asked for in a worker thread when the one before is sent.
        close: called at the end, however it ends.
    """

    fields: Message
    pieces: Iterator[bytes]
    close: Callable[[], None]


Handler = Callable[[Message], Awaitable[Message | Stream]]

STREAM_TIMEOUT_S = 30.0
"""How long a client may take for one piece: meanwhile the rest is held in memory for it."""

FAREWELL_TIMEOUT_S = 1.0
"""How long leaving may wait for clients that do not read."""

MAX_CONNECTIONS = 64
"""Clients served at once. For a further one, whoever has been silent the longest is hung up on."""

HANG_UP_S = 1.0
"""How long whoever was hung up on may take to go: its request may have come just then."""

_UCRED = struct.Struct("3i")


class _Client:
    """A connection, and since when its other end is waited for; None while we are at work.

    Only the waits can be ended from outside: what is being done for a client is not given up.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.scope = trio.CancelScope()
        self.silent_since: float | None = None

    async def send(self, data: bytes) -> None:
        """Raises: ClosedResourceError when it was hung up on."""
        self.silent_since = trio.current_time()
        with trio.CancelScope() as self.scope:
            await self.stream.send_all(data)
            self.silent_since = None
            return
        raise trio.ClosedResourceError

    async def receive(self) -> bytes | bytearray:
        """Return what came; nothing when it went away, or was hung up on."""
        self.silent_since = trio.current_time()
        with trio.CancelScope() as self.scope:
            chunk = await self.stream.receive_some(65536)
            # If it came at the moment of hanging up, it is a request like any other.
            self.silent_since = None
            return chunk
        return b""


async def _wait_for_room(room: trio.Semaphore, clients: Set[_Client]) -> None:
    """Enter *room*, hanging up on somebody when it is full; and on another, where one stayed."""
    try:
        room.acquire_nowait()
    except trio.WouldBlock:
        entered = False
        while not entered:
            _hang_up_on_one(clients)
            with trio.move_on_after(HANG_UP_S):
                await room.acquire()
                entered = True


def _hang_up_on_one(clients: Set[_Client]) -> None:
    """Make room: end the connection whose other end has been waited for the longest.

    There is none while all are being answered: then the next waits in the listen queue.
    """
    silent = [client for client in clients if client.silent_since is not None]
    if silent:
        client = min(silent, key=lambda one: one.silent_since or 0.0)
        client.silent_since = None  # not twice
        client.scope.cancel()


async def serve(
    path: Path,
    hello: Callable[[], Message],
    handlers: Mapping[str, Handler],
    *,
    farewell: Callable[[], Message] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the socket at *path* until cancelled.

    Every request reaches its handler with ``peer`` added: ``{"uid", "pid"}`` of the caller, as the
    kernel vouches for them.

    Args:
        path: from `protocol.socket_path`; its directory is ours alone.
        hello: the greeting's fields: at least ``pid``, ``mountpoint`` and ``store``.
        handlers: by ``op``. What they return goes into the reply; what they raise becomes its
            ``error`` and ``errno``.
        farewell: asked at the end, after cancellation; told to every client still connected.
            ``{"ok": true}`` or `protocol.failure`.
        task_status: started once clients can connect.
    Raises: PondLocked if a living daemon answers at *path*; OSError if it can't be bound.
    """
    clients: set[_Client] = set()
    room = trio.Semaphore(MAX_CONNECTIONS)

    async def converse(client: _Client) -> None:
        try:
            await _converse(client, hello, handlers)
        finally:
            room.release()
        # Not reached when all are cancelled: these clients still get the farewell.
        clients.discard(client)
        await trio.aclose_forcefully(client.stream)

    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        await _bind(listener, path)
        inode = os.stat(path).st_ino
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client = _Client(trio.SocketStream(await _accept(listener)))
                    await _wait_for_room(room, clients)
                    clients.add(client)
                    nursery.start_soon(converse, client)
        finally:
            await _take_leave({client.stream for client in clients}, farewell)
            _unlink(path, inode)


async def _bind(listener: trio.socket.SocketType, path: Path) -> None:
    """Listen at *path*, taking the place of a socket that a dead daemon left."""
    for attempt in (1, 2):
        try:
            await listener.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == 2:
                raise
            if await _answers(path):
                raise PondLocked(
                    f"another daemon already answers at {path}: unmount that pond first"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        else:
            break
    # Between bind and listen no one can connect, and the directory is ours alone anyway.
    os.chmod(path, 0o600)
    listener.listen(MAX_CONNECTIONS)


async def _answers(path: Path) -> bool:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            await probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    while True:
        try:
            connection, _ = await listener.accept()
        except OSError as error:
            # accept(2): errors of the connection it took off the queue, or a passing shortage.
            log.warning("control socket: %s", error)
            await trio.sleep(0.1)
        else:
            return connection


async def _converse(
    client: _Client, hello: Callable[[], Message], handlers: Mapping[str, Handler]
) -> None:
    """Greet one client and answer it until it goes away."""
    stream = client.stream
    try:
        pid, uid, _ = _UCRED.unpack(
            stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        if uid not in (0, os.geteuid()):
            refusal = PermissionError(errno.EPERM, "only the pond's owner and root may ask")
            await client.send(encode({"id": None, **failure(refusal)}))
            return
        await client.send(encode({"pondfs": PROTOCOL, **hello()}))
        pending = bytearray()
        while chunk := await client.receive():
            pending += chunk
            while (end := pending.find(b"\n")) >= 0:
                line = bytes(pending[:end])
                del pending[: end + 1]
                if line.strip():
                    reply, found = await _answer(line, {"uid": uid, "pid": pid}, handlers)
                    if found is None:
                        await client.send(reply)
                    else:
                        await _send(client, reply, found)
            if len(pending) > MAX_LINE_BYTES:
                # Where the next message starts is anybody's guess: answer and hang up.
                too_long = OSError(errno.EMSGSIZE, f"a line is at most {MAX_LINE_BYTES} bytes")
                await client.send(encode({"id": None, **failure(too_long)}))
                return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("a control client went away")
    except trio.TooSlowError:
        log.debug("a control client does not take what it asked for")
    except Exception:
        log.exception("control connection")


async def _send(client: _Client, reply: bytes, found: Stream) -> None:
    """Send a reply and the bytes behind it."""
    request_id = decode(reply).get("id")

    async def send(fields: Message, piece: bytes = b"") -> None:
        with trio.fail_after(STREAM_TIMEOUT_S):
            await client.stream.send_all(encode({"id": request_id, **fields}))
            await client.stream.send_all(piece)

    try:
        await client.send(reply)
        while piece := await trio.to_thread.run_sync(next, found.pieces, b""):
            await send({"ok": True, "bytes": len(piece)}, piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        raise
    except Exception as error:
        log.exception("control request")
        await send(failure(error))
    else:
        await send({"ok": True, "bytes": 0})
    finally:
        found.close()


async def answer(line: bytes, peer: Message, handlers: Mapping[str, Handler]) -> bytes:
    """Return the reply to one request line, whatever is in it; it has no bytes behind it."""
    reply, found = await _answer(line, peer, handlers)
    if found is not None:
        found.close()
        raise ValueError("a handler that streams can't be asked here")
    return reply


async def _answer(
    line: bytes, peer: Message, handlers: Mapping[str, Handler]
) -> tuple[bytes, Stream | None]:
    request_id = None
    try:
        request = decode(line)
        request_id = request.get("id")
        op = request.get("op")
        handler = handlers.get(op) if isinstance(op, str) else None
        if handler is None:
            known = ", ".join(sorted(handlers))
            raise OSError(errno.EOPNOTSUPP, f"unknown op {op!r}; this daemon knows: {known}")
        reply = await handler({**request, "peer": peer})
        fields, found = (reply.fields, reply) if isinstance(reply, Stream) else (reply, None)
        return encode({"id": request_id, "ok": True, **fields}, MAX_REPLY_BYTES), found
    except (PondError, OSError) as error:
        return _refuse(request_id, error), None
    except Exception as error:
        log.exception("control request")
        return _refuse(request_id, error), None


def _refuse(request_id: object, error: Exception) -> bytes:
    try:
        return encode({"id": request_id, **failure(error)})
    except ProtocolError:
        # An id as long as a line: the client gets its error without it.
        return encode({"id": None, **failure(error)})


async def _take_leave(
    connections: set[trio.SocketStream], farewell: Callable[[], Message] | None
) -> None:
    """Tell every client how it ended, and hang up."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_TIMEOUT_S):
        line = encode({"farewell": True, **(farewell() if farewell else {"ok": True})})
        for stream in connections:
            try:
                await stream.send_all(line)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                continue
    for stream in connections:
        stream.socket.close()


def _unlink(path: Path, inode: int) -> None:
    """Remove our socket, and only ours: a successor may have taken the name."""
    try:
        if os.stat(path).st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass
