"""What processes did to a directory: every write, name and sync in order, from a system call trace.

Read by ``disk_images.py``, which makes of it what a disk can hold after a power cut. Effects are
kept in the order in which the calls ended. A sync counts for what had ended before it began, and
from its own end on: what the tests rely on is never more than the kernel promised.

The trace must be of ``strace -f -y -xx`` with `TRACED` and no string cut short. What it cannot tell
(a shared map that is written to, a copy inside the kernel) is noted or refused; and what the calls
add up to has to be compared with the directory itself: a call that was missed shows there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.system_calls import Call, parse_trace

TRACED = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,"
    "fallocate,fsync,fdatasync,link,linkat,symlink,symlinkat,rename,renameat,renameat2,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,mmap,sendfile,copy_file_range,splice,io_uring_setup"
)

STRACE = ("-f", "-y", "-xx", "-s", str(64 << 20), "-e", f"trace={TRACED}")
"""Options of strace. The string limit is above what one call writes."""

_FD = re.compile(r"(?P<fd>AT_FDCWD|\d+)<(?P<path>[^>]*)>(?P<gone>\(deleted\))?")
_STRING = re.compile(r'"([^"]*)"(\.\.\.)?')
_NUMBER = re.compile(r"-?\d+")

ROOT = 0
"""The directory that is watched, among objects."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at a place of a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """A file's size, set."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Names:
    """What names in directories lead to from here on: (directory, name, object or None).

    All of it happens or nothing does: a rename is one of these, of two directories perhaps.
    """

    changes: tuple[tuple[int, str, int | None], ...]


Effect = Write | Resize | Names


@dataclass(frozen=True, slots=True)
class Op:
    """One effect, the lines on which its call began and ended, and how people call it."""

    start: int
    end: int
    effect: Effect
    label: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync of a file or a directory that returned 0."""

    start: int
    end: int
    object: int
    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something a program wrote down outside the directory."""

    start: int
    end: int
    data: bytes


class Trace:
    """All that happened below one directory, which was empty when it began.

    Attributes:
        ops: by the line they ended on.
        syncs: the same.
        marks: what was written to the file of marks.
        directories: objects that are one; all others are files.
        mapped: paths of files that were written to through a map: their bytes are not known.
    """

    def __init__(self, lines: Sequence[str], place: Path, marks: Path) -> None:
        self.ops: list[Op] = []
        self.syncs: list[Sync] = []
        self.marks: list[Mark] = []
        self.directories = {ROOT}
        self.mapped: set[str] = set()
        self._place = os.fspath(place)
        self._marks = os.fspath(marks)
        self._count = 1
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._sizes: dict[int, int] = {}
        # Files without a name, or not that one any more, as strace calls them.
        self._gone: dict[str, int] = {}
        # The file position of each open file, and the file behind a descriptor without a name.
        self._positions: dict[tuple[str, int], int] = {}
        self._nameless: dict[tuple[int, str], int] = {}
        self._appends: set[tuple[str, int]] = set()
        for call in parse_trace(lines):
            if call.result >= 0:
                self._take(call)

    # --- the calls ---

    def _take(self, call: Call) -> None:
        name = call.name.removesuffix("64")
        match name:
            case "open" | "openat" | "creat":
                self._open(call)
            case "write" | "writev" | "pwrite" | "pwritev" | "pwritev2":
                self._write(call)
            case "lseek":
                if (found := self._file(call)) is not None:
                    self._positions[found] = call.result
            case "ftruncate":
                if (found := self._file(call)) is not None:
                    self._resize(call, found[1], self._number(call, 1))
            case "truncate":
                path = _text(call, 0)
                if (target := self._find(path)) is not None:
                    self._resize(call, target, self._number(call, 1))
            case "fallocate":
                if (found := self._file(call)) is not None:
                    mode, offset, length = (self._number(call, at) for at in (1, 2, 3))
                    self._must(mode == 0, call)
                    self._resize(call, found[1], max(self._sizes[found[1]], offset + length))
            case "fsync" | "fdatasync":
                if (target := self._target(call)) is not None:
                    self.syncs.append(Sync(call.start, call.end, target, self._path(call)))
            case "link" | "linkat" | "rename" | "renameat" | "renameat2":
                self._name(call, keep=name.startswith("link"))
            case "unlink" | "unlinkat" | "rmdir":
                self._unlink(call)
            case "mkdir" | "mkdirat":
                path = _paths(call)[0]
                if (spot := self._spot(path)) is not None:
                    made = self._new(is_directory=True)
                    self._point(call, [(*spot, made)], f"mkdir {self._short(path)}")
            case "mmap":
                found = self._file(call)
                if found is not None and "MAP_SHARED" in call.args and "PROT_WRITE" in call.args:
                    self.mapped.add(self._short(self._path(call)))
            case _:
                # Names of symlinks, copies inside the kernel: nothing here makes them so far.
                told = call.args + call.returned
                self._must(_hex(self._place) not in told and name != "io_uring_setup", call)

    def _open(self, call: Call) -> None:
        path = _paths(call)[0]
        is_nameless = "O_TMPFILE" in call.args
        spot = self._spot(path)
        if is_nameless and (spot is not None or path == self._place):
            made = self._new()
            opened = _fd_path(call.returned)
            self._gone[opened] = made
            self._nameless[call.pid, str(call.result)] = made
            self._positions[f"{call.result} {opened}", made] = 0
            return
        if spot is None:
            return
        self._must("O_SYNC" not in call.args and "O_DSYNC" not in call.args, call)
        target = self._names[spot[0]].get(spot[1])
        if target is None:
            self._must(call.name == "creat" or "O_CREAT" in call.args, call)
            target = self._new()
            self._point(call, [(*spot, target)], f"create {self._short(path)}")
        elif "O_TRUNC" in call.args and self._sizes[target]:
            self._resize(call, target, 0)
        if target not in self.directories:
            key = f"{call.result} {_fd_path(call.returned)}", target
            self._positions[key] = 0
            self._appends.discard(key)
            if "O_APPEND" in call.args:
                self._appends.add(key)

    def _write(self, call: Call) -> None:
        found = self._file(call)
        if found is None:
            if self._path(call) == self._marks:
                self.marks.append(Mark(call.start, call.end, _data(call)))
            return
        target, data = found[1], _data(call)
        if call.name.startswith("pwrite"):
            numbers = _NUMBER.findall(call.args[call.args.rindex('"') :])
            offset = int(numbers[-2] if call.name == "pwritev2" else numbers[-1])
        elif found in self._appends:
            offset = self._sizes[target]
        else:
            offset = self._positions.get(found, 0)
            self._positions[found] = offset + len(data)
        if data:
            self._sizes[target] = max(self._sizes[target], offset + len(data))
            label = f"write {self._short(self._path(call))} {offset}+{len(data)}"
            self.ops.append(Op(call.start, call.end, Write(target, offset, data), label))

    def _resize(self, call: Call, target: int, size: int) -> None:
        if size != self._sizes[target]:
            self._sizes[target] = size
            label = f"{call.name} {self._short(self._path(call))} to {size}"
            self.ops.append(Op(call.start, call.end, Resize(target, size), label))

    def _name(self, call: Call, *, keep: bool) -> None:
        old, new = _paths(call)
        source = self._find(old)
        if match := re.fullmatch(r"/proc/self/fd/(\d+)", old):
            source = self._nameless.get((call.pid, match[1]))
        spot, old_spot = self._spot(new), self._spot(old)
        if spot is None and old_spot is None:
            return
        self._must(spot is not None and source is not None, call)
        assert spot is not None
        replaced = self._names[spot[0]].get(spot[1])
        if replaced == source:
            return  # rename(2) of two names of one file
        if replaced is not None:
            self._gone[new + "(deleted)"] = replaced
        changes: list[tuple[int, str, int | None]] = [(*spot, source)]
        if not keep:
            assert old_spot is not None
            changes.append((*old_spot, None))
        verb = "link" if keep else f"rename {self._short(old)} to"
        self._point(call, changes, f"{verb} {self._short(new)}")

    def _unlink(self, call: Call) -> None:
        path = _paths(call)[0]
        spot = self._spot(path)
        if spot is not None:
            self._gone[path + "(deleted)"] = self._names[spot[0]][spot[1]]
            self._point(call, [(*spot, None)], f"unlink {self._short(path)}")

    def _point(self, call: Call, changes: list[tuple[int, str, int | None]], label: str) -> None:
        for directory, name, target in changes:
            if target is None:
                del self._names[directory][name]
            else:
                self._names[directory][name] = target
        self.ops.append(Op(call.start, call.end, Names(tuple(changes)), label))

    # --- what is where ---

    def _new(self, *, is_directory: bool = False) -> int:
        number, self._count = self._count, self._count + 1
        if is_directory:
            self.directories.add(number)
            self._names[number] = {}
        else:
            self._sizes[number] = 0
        return number

    def _path(self, call: Call) -> str:
        match = _FD.search(call.args)
        return _fd_path(match[0]) if match else _text(call, 0)

    def _file(self, call: Call) -> tuple[str, int] | None:
        """Return an open file and the object, if the call is about one of the directory's."""
        match = _FD.search(call.args)
        target = self._target(call)
        if match is None or target is None or target in self.directories:
            return None
        return f"{match['fd']} {_fd_path(match[0])}", target

    def _target(self, call: Call) -> int | None:
        match = _FD.search(call.args)
        if match is None:
            return None
        path = _fd_path(match[0])
        return self._gone.get(path) if match["gone"] else self._find(path)

    def _find(self, path: str) -> int | None:
        if path == self._place:
            return ROOT
        spot = self._spot(path)
        return None if spot is None else self._names[spot[0]].get(spot[1])

    def _spot(self, path: str) -> tuple[int, str] | None:
        """Return the directory a path is in, and its name there; None outside of what is seen."""
        if not path.startswith(self._place + "/"):
            return None
        directory = ROOT
        *above, name = path[len(self._place) + 1 :].split("/")
        for each in above:
            found = self._names[directory].get(each)
            if found not in self.directories:
                return None
            directory = found
        return directory, name

    def _short(self, path: str) -> str:
        return path.removeprefix(self._place + "/")

    def _number(self, call: Call, at: int) -> int:
        return int(call.args.split(", ")[at])

    def _must(self, holds: bool, call: Call) -> None:
        if not holds:
            raise AssertionError(f"not expected in the trace: {call.name}({call.args[:2000]})")


def _fd_path(text: str) -> str:
    """Return the path that strace shows with a descriptor, given or returned."""
    match = _FD.search("0" + text if text.startswith("<") else text)
    assert match is not None, text
    return _unhex(match["path"]).decode() + (match["gone"] or "")


def _text(call: Call, at: int) -> str:
    return _unhex(_STRING.findall(call.args)[at][0]).decode()


def _paths(call: Call) -> list[str]:
    """Return the paths that a call is given, absolute: directories by their descriptors.

    A relative one without a descriptor is the load's, whose directory is in the mount.
    """
    directories = [_fd_path(match[0]) for match in _FD.finditer(call.args)]
    names = [_unhex(text).decode() for text, _ in _STRING.findall(call.args)]
    if not directories:
        return names
    return [os.path.join(*pair) for pair in zip(directories, names, strict=False)]


def _data(call: Call) -> bytes:
    pieces = _STRING.findall(call.args)
    assert not any(cut for _, cut in pieces), "strace cut a string short"
    return b"".join(_unhex(text) for text, _ in pieces)[: call.result]


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(text))
