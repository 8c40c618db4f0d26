"""Where a move or a copy goes: captures filled in, directories gone into, collisions refused."""

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator

from pondfs.cli.changing import locate_new, refuse_special
from pondfs.cli.globs import Captures
from pondfs.cli.output import format_path
from pondfs.cli.reach import Place, path_in_pond
from pondfs.cli.trees import Tree, follow
from pondfs.errors import NoSuchPath, UsageError

_CAPTURE = re.compile(rb"\$(?:(\d+)|\{(\d+)\}|\$)")


def has_captures(dest: str) -> bool:
    """Return whether there is a ``$0`` or the like in *dest*."""
    return any(found[1] or found[2] for found in _CAPTURE.finditer(os.fsencode(dest)))


def fill(dest: str, captures: Captures) -> str:
    """Return *dest* with ``$0``, ``${1}`` … replaced by *captures*, and ``$$`` by a dollar sign.

    A name that becomes empty, as ``**`` may stand for nothing, is left out. No name becomes ``.``
    or ``..`` that was not written so: a file's name must not lead elsewhere.

    Raises: UsageError.
    """

    def put(found: re.Match[bytes]) -> bytes:
        digits = found[1] or found[2]
        if digits is None:
            return b"$"
        if int(digits) >= len(captures):
            count = f"{len(captures)} wildcard{'' if len(captures) == 1 else 's'}"
            raise UsageError(
                f"'{dest}' has ${int(digits)}, but there are {count} in what it is made from, and "
                "the first is $0"
            )
        return captures[int(digits)]

    parts = []
    for part in os.fsencode(dest).split(b"/"):
        filled = _CAPTURE.sub(put, part)
        if filled != part:
            if not filled:
                continue
            if {b".", b".."} & set(filled.split(b"/")):
                raise UsageError(
                    f"'{dest}' would become {format_path(filled)} in it, another directory: add "
                    "something to that name"
                )
        parts.append(filled)
    whole = b"/".join(parts)
    return os.fsdecode(b"/" if dest.startswith("/") and not whole else whole)


def find_in_pond(
    tree: Tree, place: Place, dest: str, name: bytes, *, parents: bool, is_directory: bool
) -> bytes:
    """Return the path in the pond where something goes: *dest*, or *name* in it as a directory.

    Args:
        tree: the pond as it is.
        place: the pond.
        dest: what a person calls it.
        name: what it is called now; empty for a root, whose content goes into *dest* itself.
        parents: directories on the way will be made.
        is_directory: what goes there is one.
    Raises: NoSuchPath for a directory on the way; UsageError.
    """
    if not dest:
        raise UsageError("DEST is empty: name a file or a directory")
    names = path_in_pond(place, dest, as_seen=True)
    if names:
        refuse_special(b"/".join(names))
    try:
        where, info = follow(tree, names, last=True)
    except NoSuchPath:
        if dest.endswith("/") and not is_directory and not parents:
            raise UsageError(f"'{dest}' is no directory: make it, or leave the slash out") from None
        inner = bool(dest.endswith("/") and not is_directory)
        return locate_new(tree, (*names, name) if inner else names, parents=parents)
    if stat.S_ISDIR(info.mode):
        if not name:
            if where:
                refuse_special(where)
            return where
        return locate_new(tree, (*(part for part in where.split(b"/") if part), name))
    if dest.endswith("/"):
        raise UsageError(f"'{dest}' is no directory: leave the slash out")
    return locate_new(tree, names)


def require_directory(tree: Tree, place: Place, dest: str, *, parents: bool) -> str:
    """Return *dest* as it is written for a directory, for several things to go into.

    Raises: UsageError if it is none, and will not be made one.
    """
    try:
        _, info = follow(tree, path_in_pond(place, dest, as_seen=True), last=True)
        is_directory = stat.S_ISDIR(info.mode)
    except NoSuchPath:
        is_directory = parents
    if not is_directory:
        refuse_several(dest)
    return dest.rstrip("/") + "/"


def refuse_several(dest: str) -> None:
    """Raises: UsageError saying what to do about it."""
    raise UsageError(
        f"'{dest}' is no directory, and several things go there: make it one, or use what the "
        "wildcards stand for ($0, $1, …) in DEST"
    )


def refuse_same(pairs: Iterable[tuple[str, bytes]]) -> None:
    """Refuse to put two things in one place.

    Args:
        pairs: what a person calls each source, and where it goes.
    Raises: UsageError naming the first two.
    """
    taken: dict[bytes, str] = {}
    for typed, target in pairs:
        if target in taken:
            raise UsageError(
                f"'{taken[target]}' and '{typed}' would both become '{format_path(target)}'"
            )
        taken[target] = typed


def directories_above(path: bytes) -> Iterator[bytes]:
    """Yield the directories *path* is in, the nearest first, without the root."""
    while path := os.path.dirname(path):
        yield path


def find_nested(paths: Collection[bytes]) -> tuple[bytes, bytes] | None:
    """Return two of *paths* of which the second is below the first; None if there are none."""
    known = set(paths)
    for path in paths:
        for above in directories_above(path):
            if above in known:
                return above, path
    return None
