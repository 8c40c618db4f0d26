"""What goes over the control socket: one JSON object a line, UTF-8, ended by a newline.

The server speaks first, with a greeting that carries `PROTOCOL`. Each request has an ``op`` and an
``id`` of the client's choice, which the reply repeats; replies come in the order of the requests.
Before the server goes away it says how it ended, on every open connection: a *farewell*. Fields may
be added without a new protocol number; a reader passes over what it does not know.

Behind some replies come bytes, in pieces: a line with ``"bytes": N``, then N bytes, and so on until
N is 0. A line with ``"ok": false`` in the place of a piece says that there will be no more.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pondfs.errors import NotPermitted, PondError, SystemFailure

PROTOCOL = 1
"""The number in the greeting; goes up when an old client would misread a new server."""

MAX_LINE_BYTES = 1 << 20
"""Longest line either side sends or takes: a commit message is under it, a runaway peer is not."""

MAX_REPLY_BYTES = 256 << 20
"""Longest reply: the changes between two versions can be many, and a client trusts its daemon."""

# sun_path is 108 bytes with its closing NUL (unix(7)).
_MAX_PATH_BYTES = 107

Message = dict[str, Any]


class ProtocolError(PondError):
    """The other side sent something that is no message."""

    errno = errno.EPROTO


def encode(message: Message, most_bytes: int = MAX_LINE_BYTES) -> bytes:
    """Return *message* as a line.

    Raises: ProtocolError EMSGSIZE if the line would be longer than the other side takes.
    """
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > most_bytes:
        refusal = ProtocolError(f"a message of {len(line)} bytes is too long for the socket")
        refusal.errno = errno.EMSGSIZE
        raise refusal
    return line


def decode(line: bytes) -> Message:
    """Return the message on *line*.

    Raises: ProtocolError if it is not one JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("not a JSON object")
    return message


def failure(error: BaseException) -> Message:
    """Return the fields that tell *error* to the other side."""
    number = error.errno if isinstance(error, PondError | OSError) else None
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    told: Message = {
        "ok": False,
        "error": text or type(error).__name__,
        "errno": number or errno.EIO,
    }
    if isinstance(error, PondError):
        told["exit_code"] = error.exit_code
    return told


def socket_path(mountpoint: Path) -> Path:
    """Return where the daemon of *mountpoint* puts its socket; its directory exists afterwards.

    Raises: SystemFailure if no directory is ours alone.
    """
    refused = []
    for directory in _directories(os.geteuid()):
        path = directory / _name(os.path.realpath(mountpoint))
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            continue
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if _is_private(directory, os.geteuid()):
                return path
            refused.append(f"{directory} is open to others")
        except OSError as error:
            refused.append(f"{directory}: {error.strerror}")
    raise SystemFailure("no place for the control socket: " + "; ".join(refused))


def find_sockets(mountpoint: Path, owner_uid: int) -> Iterator[Path]:
    """Yield where the socket of a mount of *owner_uid* may be.

    *mountpoint* is as mountinfo has it: without symlinks, so the mount itself is not asked.

    Raises: NotPermitted at the end, if some place is closed to us and no other had one.
    """
    is_closed = is_found = False
    for directory in _directories(owner_uid):
        path = directory / _name(os.fspath(mountpoint))
        try:
            if _is_private(directory, owner_uid) and path.is_socket():
                is_found = True
                yield path
        except PermissionError:
            is_closed = True
        except OSError:
            continue
    if is_closed and not is_found:
        raise NotPermitted(
            f"the mount of {mountpoint} belongs to user {owner_uid}: ask as that user or as root"
        )


def find_all_sockets(uid: int) -> Iterator[Path]:
    """Yield every control socket of user *uid*, whether anybody listens on it or not."""
    for directory in _directories(uid):
        try:
            if _is_private(directory, uid):
                yield from (path for path in sorted(directory.glob("*.sock")) if path.is_socket())
        except OSError:
            continue


def _directories(uid: int) -> Iterator[Path]:
    """Yield the runtime directories to try for *uid*, best first."""
    if uid == 0:
        yield Path("/run/pondfs")
    else:
        given = os.environ.get("XDG_RUNTIME_DIR", "") if uid == os.geteuid() else ""
        yield Path(given if os.path.isabs(given) else f"/run/user/{uid}", "pondfs")
    # A name in /tmp can be taken by anybody: `_is_private` decides whether it is ours.
    yield Path(f"/tmp/pondfs-{uid}")


def _name(real_mountpoint: str) -> str:
    return hashlib.sha256(os.fsencode(real_mountpoint)).hexdigest()[:16] + ".sock"


def _is_private(directory: Path, uid: int) -> bool:
    found = os.lstat(directory)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077
