"""Does a trace prove that fsync(2) returned only after everything it promises was on the disk?

The promise (DESIGN: commit): every data file of the commit, then the directory that names it, then
the log entry's own bytes are synced before the entry gets its name; then the log's directory is
synced; then the kernel hears the answer. Each break of that chain has its own message, so that a
handmade trace can show that this checker sees it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from tests.crash.system_calls import Call

_FD_PATH = re.compile(r"(?P<fd>\d+|AT_FDCWD)<(?P<path>[^>]*)>")
_ENTRY_NAME = re.compile(r"\d{20}\.json")
_WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "fallocate")
_SYNCS = ("fsync", "fdatasync")
_OPENS = ("open", "openat", "creat")
_NAMINGS = ("link", "linkat", "rename", "renameat", "renameat2")

# Source: the kernel's include/uapi/linux/fuse.h: struct fuse_in_header, struct fuse_out_header.
_IN_HEADER = struct.Struct("<IIQ")
_OUT_HEADER = struct.Struct("<IiQ")
_FUSE_FSYNC, _FUSE_FSYNCDIR = 20, 30
_DEV_FUSE = "/dev/fuse"


class OrderError(AssertionError):
    """The trace does not prove the order; the message says which link of the chain is missing."""


class Proof:
    """The calls of one traced fsync, and the checks on them.

    Args:
        calls: daemon and client, from one strace.
        store: the pond's store.
        target: what the client fsynced, as a path below the mount.
        data_files: what the published entry adds.
    """

    def __init__(
        self, calls: Sequence[Call], store: Path, target: Path, data_files: Sequence[Path]
    ) -> None:
        self._calls = sorted(calls, key=lambda call: call.start)
        self._store = str(store)
        self._log = str(store / "_delta_log")
        self._target = str(target)
        self._data_files = [str(path) for path in data_files]
        self._fd_paths = self._trace_fds()

    def check(self) -> None:
        """Raise OrderError unless the whole chain is there, in order."""
        client = self._the_client()
        reply = self._the_reply(client)
        entry = self._the_entry(reply)
        source, _ = self._naming(entry)
        self._require_synced(source, entry, "log entry")
        if not self._data_files:
            raise OrderError("the entry adds no data file")
        for path in self._data_files:
            name = os.path.basename(path)
            self._require_synced(path, entry, f"data file {name}")
            made = self._the_making(path, entry)
            self._require_sync(self._store, made.end, entry.start, f"directory of {name}")
        self._require_sync(self._log, entry.end, reply.start, "directory of the log")

    def check_journaled(self) -> None:
        """Raise OrderError unless the journal alone has it all, before the kernel hears of it."""
        reply = self._the_reply(self._the_client())
        path = os.path.join(self._store, "_pond", "journal")
        writes = [
            call
            for call in self._calls
            if call.name in _WRITES and self._first_fd_path(call) == path
            if call.start < reply.start
        ]
        if not writes:
            raise OrderError("no write of the journal before the answer")
        self._require_sync(path, max(call.end for call in writes), reply.start, "journal")
        made = [
            call
            for call in self._succeeded(_OPENS)
            if "O_CREAT" in call.args and self._opened(call) == path
        ]
        if made:
            folder = os.path.dirname(path)
            self._require_sync(folder, made[-1].end, reply.start, "directory of the journal")

    def _the_client(self) -> Call:
        for call in self._calls:
            if call.name in _SYNCS and self._first_fd_path(call) == self._target:
                if call.result != 0:
                    raise OrderError(f"fsync on the mount failed:{call.returned}")
                return call
        raise OrderError(f"no fsync of {self._target} in the trace")

    def _the_reply(self, client: Call) -> Call:
        """Return the answer to the request that the client's fsync made."""
        wanted = {
            unique
            for call in self._calls
            if call.name == "read" and client.start < call.end < client.end
            if (unique := _fsync_request(call)) is not None
        }
        if not wanted:
            raise OrderError("the daemon read no FUSE_FSYNC request during the client's fsync")
        for call in self._calls:
            if call.name in ("write", "writev") and self._first_fd_path(call) == _DEV_FUSE:
                length, error, unique = _OUT_HEADER.unpack_from(call.strings[0])
                if unique in wanted:
                    if error or length != _OUT_HEADER.size:
                        raise OrderError(f"the daemon answered the fsync with error {error}")
                    return call
        raise OrderError("the daemon never answered the fsync")

    def _the_entry(self, reply: Call) -> Call:
        """Return the call that gave the log entry its name."""
        named = [
            call
            for call in self._succeeded(_NAMINGS)
            if call.end < reply.start
            and os.path.dirname(self._naming(call)[1]) == self._log
            and _ENTRY_NAME.fullmatch(os.path.basename(self._naming(call)[1]))
        ]
        if not named:
            raise OrderError("no log entry was published before the answer")
        return named[-1]

    def _the_making(self, path: str, entry: Call) -> Call:
        """Return the call after which the store's directory holds the name *path*."""
        made = [
            call
            for call in self._succeeded(_OPENS)
            if "O_CREAT" in call.args and self._opened(call) == path
        ]
        made += [call for call in self._succeeded(_NAMINGS) if self._naming(call)[1] == path]
        if not made:
            raise OrderError(f"{path} was not made in this trace")
        if made[-1].end >= entry.start:
            raise OrderError(f"{path} got its name after the log entry that refers to it")
        return made[-1]

    def _require_synced(self, path: str, entry: Call, what: str) -> None:
        """Every write to *path* has ended before a sync of it that ended before the entry."""
        names = {path, *(self._naming(c)[0] for c in self._renames_to(path))}
        writes = [
            call
            for call in self._calls
            if call.name in _WRITES and self._first_fd_path(call) in names
        ]
        if not writes:
            raise OrderError(f"no write of the {what} in the trace")
        last = max(call.end for call in writes)
        if last >= entry.start:
            raise OrderError(f"the {what} was written after the log entry was published")
        for name in names:
            if self._find_sync(name, last, entry.start):
                return
        raise OrderError(f"no sync of the {what} between its last write and the link")

    def _require_sync(self, path: str, after: int, before: int, what: str) -> None:
        if not self._find_sync(path, after, before):
            raise OrderError(f"no sync of the {what} where it is needed")

    def _find_sync(self, path: str, after: int, before: int) -> bool:
        return any(
            self._first_fd_path(call) == path and call.start > after and call.end < before
            for call in self._succeeded(_SYNCS)
        )

    def _renames_to(self, path: str) -> list[Call]:
        return [call for call in self._succeeded(_NAMINGS) if self._naming(call)[1] == path]

    def _succeeded(self, names: Sequence[str]) -> list[Call]:
        return [call for call in self._calls if call.name in names and call.result >= 0]

    def _first_fd_path(self, call: Call) -> str | None:
        match = _FD_PATH.match(call.args)
        return match["path"] if match else None

    def _opened(self, call: Call) -> str | None:
        match = re.match(r"<([^>]*)>", call.returned)
        return match[1] if match else None

    def _trace_fds(self) -> list[tuple[int, int, str]]:
        """Return (line, descriptor, path) of every open in the store, for /proc/self/fd/N.

        Threads share their descriptors and the client opens nothing in the store, so the number
        alone tells.
        """
        return [
            (call.end, call.result, path)
            for call in self._calls
            if call.name in _OPENS and call.result >= 0
            if (path := self._opened(call)) and path.startswith(self._store)
        ]

    def _naming(self, call: Call) -> tuple[str, str]:
        """Return the source and the destination of a link or rename, as absolute paths."""
        directories = [match["path"] for match in _FD_PATH.finditer(call.args)]
        names = [os.fsdecode(name) for name in call.strings]
        if call.name in ("link", "rename"):
            directories = ["", ""]
        source = os.path.join(directories[0], names[0]) if names[0] else directories[0]
        if match := re.fullmatch(r"/proc/(?:self|thread-self|\d+)/fd/(\d+)", source):
            fd = int(match[1])
            opened = [
                path for line, number, path in self._fd_paths if number == fd and line < call.start
            ]
            source = opened[-1] if opened else source
        return source, os.path.join(directories[1], names[1])


def _fsync_request(call: Call) -> int | None:
    """Return the unique number of the FUSE_FSYNC(DIR) request this read brought, if it did."""
    if not call.strings or len(call.strings[0]) < _IN_HEADER.size:
        return None
    length, opcode, unique = _IN_HEADER.unpack_from(call.strings[0])
    is_fsync = opcode in (_FUSE_FSYNC, _FUSE_FSYNCDIR) and length == call.result
    return int(unique) if is_fsync else None
