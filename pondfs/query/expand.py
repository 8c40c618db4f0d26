"""From a path or glob in a query to the files of a tree."""

import io
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Protocol

from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.follow import Linked, follow
from pondfs.store.tree import NodeStat, not_a_file, shown


class Files(Linked, Protocol):
    """What queries need of a tree: `store.tree.StoredTree`, or one that is mounted."""

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        """Return a directory's names and what they are, sorted."""

    def open(self, path: bytes) -> io.RawIOBase:
        """Return a regular file for reading anywhere in it; UsageError for anything else."""


def find_files(tree: Files, text: str) -> list[tuple[bytes, bytes]]:
    """Return the regular files that *text* means, each as it is called and where it is.

    ``*``, ``?`` and ``[…]`` stand for parts of a name, ``**`` for any directories; a file whose
    name has such characters is found under it all the same. Symlinks are followed within the tree,
    but not below ``**``. Sorted.

    Args:
        tree: where to look.
        text: from the pond's root, with a slash first.

    Raises: NoSuchPath when there is none; UsageError for a path that is no file.
    """
    if not text.startswith("/"):
        raise UsageError(f"'{text}': a path in a query begins with '/', the pond's root")
    if "\0" in text:
        raise UsageError(f"'{shown(os.fsencode(text))}': no path has a NUL in it")
    names = [name for name in os.fsencode(text).split(b"/") if name not in (b"", b".")]
    whole = b"/".join(names)
    try:
        where, info = follow(tree, names, last=True)
    except NoSuchPath:
        if not any(map(_is_glob, names)):
            raise
    else:
        if not stat.S_ISREG(info.mode):
            hint = f": its files are '{text.rstrip('/')}/*'" if stat.S_ISDIR(info.mode) else ""
            raise UsageError(not_a_file(whole, info.mode) + hint)
        return [(whole, where)]
    files = []
    for path in sorted(set(_expand(tree, b"", names))):
        where, info = follow(tree, path.split(b"/"), last=True)
        if stat.S_ISREG(info.mode):
            files.append((path, where))
    if not files:
        raise NoSuchPath(f"{tree.label} has no file like '{shown(os.fsencode(text))}'")
    return files


def _is_glob(name: bytes) -> bool:
    return any(char in name for char in b"*?[")


def _expand(tree: Files, above: bytes, names: list[bytes]) -> Iterator[bytes]:
    """Yield the paths below *above* that *names* mean, some of them maybe twice."""
    if not names:
        yield above
        return
    name, rest = names[0], names[1:]
    if not _is_glob(name):
        path = os.path.join(above, name)
        try:
            follow(tree, path.split(b"/"), last=bool(rest))
        except NoSuchPath:
            return
        yield from _expand(tree, path, rest)
        return
    if name == b"**":
        # At the end it is all files below, elsewhere any number of directories, also none.
        yield from _expand(tree, above, rest or [b"*"])
        for child, info in _entries(tree, above):
            if stat.S_ISDIR(info.mode):
                yield from _expand(tree, os.path.join(above, child), names)
        return
    pattern = os.fsdecode(name)
    for child, _ in _entries(tree, above):
        if fnmatchcase(os.fsdecode(child), pattern):
            yield from _expand(tree, os.path.join(above, child), rest)


def _entries(tree: Files, path: bytes) -> list[tuple[bytes, NodeStat]]:
    """Return what is in a directory; nothing for what is none."""
    try:
        where, info = follow(tree, path.split(b"/") if path else [], last=True)
    except NoSuchPath:  # a symlink to nowhere
        return []
    return tree.entries(where) if stat.S_ISDIR(info.mode) else []
