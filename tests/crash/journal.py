"""What a program did to a tree, step by step, and which trees it can have left behind.

The load (``load.py``) writes each step into a journal outside the mount before it does it and says
``ok`` after it; this reads that journal against a tree found after a crash.

A step is atomic as the daemon sees it, except ``write``, whose pages may arrive one by one. Every
step ends with its bytes handed to the daemon: the kernel writes a file's pages back at close(2).
So whatever the daemon committed last, the tree is the one after some step, perhaps with a part of
the next step's write. The exception is a ``write`` that keeps its file open (``held``): its pages
may still be the kernel's when the daemon dies, but the next step is then its fsync.
"""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = 4096

SYNCS = {"fsync", "fdatasync", "osync", "msync"}
"""Steps whose end says that they, and all before them, are durable; the last two write as well."""

WRITES = {"write", "held", "mmap", "osync", "msync"}
"""Steps whose pages may arrive one by one."""

Step = list[str | int]
"""``[verb, path, …]``, for example ``["write", path, offset, length, seed]``."""

ARROW = b"-> "


def content_of(seed: int, length: int) -> bytes:
    """Return the bytes that the step with *seed* writes."""
    return random.Random(seed).randbytes(length)


@dataclass
class Journal:
    """The steps begun, and how many of them ended; only the last one can be unfinished.

    ``failure`` is the error the load ended with, if it did.
    """

    steps: list[Step] = field(default_factory=list)
    done: int = 0
    failure: int | None = None

    @property
    def last_fsync(self) -> int:
        """How many steps precede the end of the last acknowledged fsync; 0 if there is none."""
        done = range(self.done, 0, -1)
        return next((number for number in done if self.steps[number - 1][0] in SYNCS), 0)


def read_journal(path: Path) -> Journal:
    """Read a journal up to its last complete line."""
    journal = Journal()
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        if record == "ok":
            journal.done += 1
        elif record[0] == "failed":
            journal.failure = record[1]
        else:
            journal.steps.append(record)
    return journal


def read_commits(path: Path) -> tuple[int, int, int]:
    """Read the second thread's journal.

    Returns: the last number it began to write, the last one it knows to be durable (0 if none),
        and how many steps of the load that one's fsync covers.
    """
    begun = durable = covered = 0
    lines = path.read_text().splitlines() if path.exists() else []
    for verb, number, count in (line.split() for line in lines):
        if verb == "ok":
            durable, covered = int(number), int(count)
        else:
            begun = int(number)
    return begun, durable, covered


@dataclass
class TreeModel:
    """A tree: its directories, its names with the file behind each, and the files' bytes.

    A symlink is a file whose bytes are its target behind an arrow.
    """

    directories: set[str] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    xattrs: dict[int, dict[str, bytes]] = field(default_factory=dict)
    _next_file: int = 0

    def copy(self) -> TreeModel:
        """Return an independent copy."""
        return TreeModel(
            set(self.directories),
            dict(self.names),
            dict(self.contents),
            {file: dict(named) for file, named in self.xattrs.items()},
            self._next_file,
        )

    def apply(self, step: Step) -> None:
        """Do to the model what *step* does to the tree."""
        verb, path, *rest = step
        assert isinstance(path, str)
        match verb, *rest:
            case ["mkdir"]:
                self.directories.add(path)
            case ["rmdir"]:
                self.directories.remove(path)
            case ["create"]:
                self._add(path, b"")
            case ["symlink", str(target)]:
                self._add(path, ARROW + target.encode())
            case [str(write), int(offset), int(length), int(seed)] if write in WRITES:
                old = self.contents[self.names[path]].ljust(offset, b"\0")
                new = old[:offset] + content_of(seed, length) + old[offset + length :]
                self.contents[self.names[path]] = new
            case ["truncate", int(size)]:
                old = self.contents[self.names[path]]
                self.contents[self.names[path]] = old[:size].ljust(size, b"\0")
            case ["rename", str(new_path)]:
                self.names[new_path] = self.names.pop(path)
                self._forget_nameless()
            case ["exchange", str(other)]:
                self.names[path], self.names[other] = self.names[other], self.names[path]
            case ["link", str(new_path)]:
                self.names[new_path] = self.names[path]
            case ["unlink"]:
                del self.names[path]
                self._forget_nameless()
            case ["setxattr", str(name), str(value)]:
                self.xattrs.setdefault(self.names[path], {})[name] = value.encode()
            case ["removexattr", str(name)]:
                del self.xattrs[self.names[path]][name]
            case ["fsync" | "fdatasync"]:
                pass
            case _:
                raise AssertionError(f"unknown step {step}")

    def _add(self, path: str, content: bytes) -> None:
        self._next_file -= 1  # never an inode number
        self.names[path] = self._next_file
        self.contents[self._next_file] = content

    def _forget_nameless(self) -> None:
        named = set(self.names.values())
        self.contents = {file: data for file, data in self.contents.items() if file in named}
        self.xattrs = {file: those for file, those in self.xattrs.items() if file in named}

    def differences(self, other: TreeModel) -> set[str]:
        """Return the paths at which the two trees differ: in being, bytes, attributes or links."""
        found = self.directories ^ other.directories
        found |= self.names.keys() ^ other.names.keys()
        mine, theirs = _links(self.names), _links(other.names)
        for path in self.names.keys() & other.names.keys():
            ours, others = self.names[path], other.names[path]
            if (
                self.contents[ours] != other.contents[others]
                or (self.xattrs.get(ours) or {}) != (other.xattrs.get(others) or {})
                or mine[ours] != theirs[others]
            ):
                found.add(path)
        return found


def _links(names: dict[str, int]) -> dict[int, list[str]]:
    links: dict[int, list[str]] = {}
    for path, file in sorted(names.items()):
        links.setdefault(file, []).append(path)
    return links


def snapshot(root: Path, *, xattrs: bool = False) -> TreeModel:
    """Return the tree below *root* as it is, read byte for byte; with *xattrs*, those as well.

    Raises: AssertionError where the tree contradicts itself: a wrong link count, or a size that
        is not what can be read.
    """
    tree = TreeModel()
    link_counts: dict[int, int] = {}
    for path, status in _walk(root, ""):
        if stat.S_ISDIR(status.st_mode):
            tree.directories.add(path)
        else:
            tree.names[path] = status.st_ino
            link_counts[status.st_ino] = status.st_nlink
            if status.st_ino not in tree.contents:
                tree.contents[status.st_ino] = _content(root / path, status)
                if xattrs and (names := os.listxattr(root / path, follow_symlinks=False)):
                    tree.xattrs[status.st_ino] = {
                        name: os.getxattr(root / path, name, follow_symlinks=False)
                        for name in names
                    }
    for file, paths in _links(tree.names).items():
        assert link_counts[file] == len(paths), f"{paths} have nlink {link_counts[file]}"
    return tree


def _content(path: Path, status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(path))
        assert len(target) == status.st_size, path
        return ARROW + target
    content = path.read_bytes()
    assert len(content) == status.st_size, path
    return content


def _walk(root: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        path = f"{below}/{name}" if below else name
        status = os.lstat(root / path)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, path)


def find_state(
    before: TreeModel,
    journal: Journal,
    found: TreeModel,
    *,
    at_fsyncs_only: bool,
    acknowledged: int = 0,
) -> int:
    """Return the number of steps after which the tree was *found*; the latest that fits."""
    return find_states(
        before, journal, found, at_fsyncs_only=at_fsyncs_only, acknowledged=acknowledged
    )[-1]


def find_states(
    before: TreeModel,
    journal: Journal,
    found: TreeModel,
    *,
    at_fsyncs_only: bool,
    acknowledged: int = 0,
) -> list[int]:
    """Return the numbers of steps after which the tree was as *found*, or was becoming so.

    Args:
        before: the tree before the first step.
        journal: what was done; everything up to its last acknowledged fsync must be there.
        found: the tree after the crash.
        at_fsyncs_only: nothing but the load's own fsyncs made commits, so that the tree must be
            that at the last acknowledged one, or at one that was under way.
        acknowledged: how many steps another program's acknowledged fsync covers.

    Raises: AssertionError if no state fits: something acknowledged is lost, or half of something
        is there.
    """
    model, least = before.copy(), max(journal.last_fsync, acknowledged)
    if least and journal.steps[least - 1][0] == "held":
        least -= 1  # its bytes may be the kernel's still
    fitting: list[int] = []
    closest: tuple[int, set[str]] | None = None
    for number in range(len(journal.steps) + 1):
        if number:
            model.apply(journal.steps[number - 1])
        if number < least:
            continue
        upcoming = journal.steps[number] if number < len(journal.steps) else None
        is_cut = upcoming is not None and upcoming[0] in SYNCS
        if at_fsyncs_only and not is_cut and number != least:
            continue
        differing = model.differences(found)
        is_torn = upcoming is not None and not at_fsyncs_only
        if not differing or (is_torn and _is_part_of(upcoming, model, found)):
            fitting.append(number)
        elif closest is None or len(differing) < len(closest[1]):
            closest = number, differing
    assert fitting, (
        f"the tree is none that the load can have left from step {least} (the last acknowledged"
        f" one) to {len(journal.steps)}; closest after step {closest and closest[0]}, but for"
        f" {closest and sorted(closest[1])}; steps around: "
        f"{journal.steps[max(0, (closest[0] if closest else 0) - 3) :][:8]}"
    )
    return fitting


def _is_part_of(step: Step | None, model: TreeModel, found: TreeModel) -> bool:
    """Say whether *found* is *model* with some of the pages of the write *step*."""
    if step is None or step[0] not in WRITES:
        return False
    path = step[1]
    assert isinstance(path, str)
    after = model.copy()
    after.apply(step)
    if path not in found.names:
        return False
    old, new = model.contents[model.names[path]], after.contents[after.names[path]]
    is_now = found.contents[found.names[path]]
    if not len(old) <= len(is_now) <= len(new):
        return False
    for page in range(0, len(is_now), PAGE_BYTES):
        piece = slice(page, min(page + PAGE_BYTES, len(is_now)))
        length = piece.stop - piece.start
        if is_now[piece] not in (new[piece], old[piece].ljust(length, b"\0")):
            return False
    after.contents[after.names[path]] = is_now
    return not after.differences(found)
