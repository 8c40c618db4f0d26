"""Paths at the edge: what people write, what they get back, and what patterns match."""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""From the pond's root, with or without a leading slash. Text stands for bytes as `os.fsencode`."""

List = Callable[[bytes], list[tuple[bytes, int]]]
"""Returns a directory's names with their modes, sorted; nothing for what can't be listed."""


def to_bytes(path: AnyPath) -> bytes:
    """Return *path* as the backends have it: no leading slash, the root is empty."""
    parts = os.fsencode(path).split(b"/")
    return b"/".join(part for part in parts if part not in (b"", b"."))


def to_names(path: AnyPath) -> tuple[bytes, ...]:
    """Return the names in *path*; none for the root."""
    found = to_bytes(path)
    return tuple(found.split(b"/")) if found else ()


def to_text(path: bytes) -> str:
    """Return *path* as text with a leading slash."""
    return "/" + os.fsdecode(path)


def to_path(path: bytes) -> PurePosixPath:
    """Return *path* as people get it."""
    return PurePosixPath(to_text(path))


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of what is in *directory*."""
    return directory + b"/" + name if directory else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory a path is in, and its name there."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def match(top: bytes, pattern: str | bytes | os.PathLike[str], entries: List) -> Iterator[bytes]:
    """Yield what is below *top* and matches, sorted within each directory, nothing twice.

    ``*``, ``?`` and ``[…]`` match within a name, ``**`` as a whole name any number of directories
    (none, too), without going through symlinks. A dot in front of a name is like any other letter.
    With a slash at its end a pattern matches directories only.

    Raises: ValueError for a pattern that is empty or has ``..``.
    """
    parts = to_bytes(pattern).split(b"/")
    if parts == [b""] or b".." in parts:
        raise ValueError(f"unacceptable pattern: {os.fsdecode(pattern)!r}")
    seen: set[bytes] = set()
    only_directories = os.fsencode(pattern).endswith(b"/")
    compiled = [_compile(part) for part in parts]
    for path in _match(top, compiled, entries, only_directories=only_directories):
        if path not in seen:
            seen.add(path)
            yield path


_ANY_DEPTH = None


def _compile(part: bytes) -> re.Pattern[str] | None:
    if part == b"**":
        return _ANY_DEPTH
    return re.compile(fnmatch.translate(os.fsdecode(part)), re.DOTALL)


def _match(
    top: bytes, parts: list[re.Pattern[str] | None], entries: List, *, only_directories: bool
) -> Iterator[bytes]:
    # Not by recursion: a tree may be deeper than Python's stack.
    todo = [(top, 0)]
    while todo:
        directory, at = todo.pop()
        part, is_last = parts[at], at + 1 == len(parts)
        deeper: list[tuple[bytes, int]] = []
        if part is _ANY_DEPTH and not is_last:
            deeper.append((directory, at + 1))
        for name, mode in entries(directory):
            path = join(directory, name)
            is_meant = is_last and (stat.S_ISDIR(mode) or not only_directories)
            if part is None:
                if stat.S_ISDIR(mode):
                    deeper.append((path, at))
                if is_meant:
                    yield path
            elif part.match(os.fsdecode(name)):
                if is_meant:
                    yield path
                elif is_last:
                    continue
                elif stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
                    deeper.append((path, at + 1))
        todo.extend(reversed(deeper))
