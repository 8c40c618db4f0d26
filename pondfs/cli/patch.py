"""Changes as a patch: what ``pond diff --patch`` prints, and ``patch -p1`` applies.

In git's dialect, which GNU patch understands from 2.7 on, because plain unified diffs can't say
that a file was renamed, made empty, or has another mode. What no patch can say is a line of its
own between the others, which patch passes over.
"""

import difflib
import hashlib
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pondfs.cli.cat import whole
from pondfs.cli.output import format_size
from pondfs.cli.trees import Tree, walk
from pondfs.node import FILE_TYPES
from pondfs.store.tree import NodeStat

if TYPE_CHECKING:
    from pondfs.change import Change

LARGEST_BYTES = 4 << 20
"""Files beyond this are not compared as text: difflib takes a second for a few MiB of changes."""

_QUOTED = {0x07: b"a", 0x08: b"b", 0x09: b"t", 0x0A: b"n", 0x0B: b"v", 0x0C: b"f", 0x0D: b"r",
           0x22: b'"', 0x5C: b"\\"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pair:
    """What one path was and is; None where it was or is not.

    Attributes:
        has_changed: whether its content is another one, and so worth reading.
    """

    before: bytes | None
    after: bytes | None
    has_changed: bool


def write_patch(
    changes: "Sequence[Change]", old: Tree, new: Tree, failed: Callable[[OSError], None]
) -> Iterator[bytes]:
    """Yield the patch's lines that turn *old* into *new*."""
    for pair in _pairs(changes, new, failed):
        try:
            before = None if pair.before is None else old.lstat(pair.before)
            after = None if pair.after is None else new.lstat(pair.after)
            yield from _Piece(old, new, pair, before, after).lines()
        except OSError as error:
            failed(error)


def _pairs(
    changes: "Sequence[Change]", new: Tree, failed: Callable[[OSError], None]
) -> Iterator[_Pair]:
    """Yield what to compare, sorted by path: one pair a path, whatever changed about it.

    A directory that moved is one change; each file in it that says nothing itself moved with it.
    """
    moved = {
        change.path: change.source
        for change in changes
        if change.source is not None and change.type == "directory"
    }
    pairs: dict[tuple[bytes, bool], _Pair] = {}
    for change in changes:
        if change.change == "removed":
            pairs[change.path, False] = _Pair(change.path, None, True)
        elif change.change == "added":
            pairs[change.path, True] = _Pair(None, change.path, True)
        else:
            # Several changes may be about one path; where it was, a rename alone says.
            known = pairs.get((change.path, True))
            before = change.source or (known.before if known else _before(change.path, moved))
            has_changed = change.change == "changed" or (known is not None and known.has_changed)
            pairs[change.path, True] = _Pair(before, change.path, has_changed)
    for target in moved:
        for path, _ in walk(new, target, failed):
            pairs.setdefault((path, True), _Pair(_before(path, moved), path, False))
    for _, pair in sorted(pairs.items()):
        yield pair


def _before(path: bytes, moved: dict[bytes, bytes]) -> bytes:
    """Return where *path* was, by the innermost directory around it that moved."""
    above = path
    while above:
        above = posixpath.dirname(above)
        if above in moved:
            return posixpath.join(moved[above], path[len(above) + 1 :])
    return path


class _Piece:
    """One pair, and the lines about it."""

    def __init__(
        self, old: Tree, new: Tree, pair: _Pair, before: NodeStat | None, after: NodeStat | None
    ) -> None:
        self._old, self._new = old, new
        self._pair = pair
        self._before, self._after = before, after
        # Either name stands for both where there is but one.
        self._a = b"a/" + (pair.before if pair.before is not None else pair.after or b"")
        self._b = b"b/" + (pair.after if pair.after is not None else pair.before or b"")

    def lines(self) -> Iterator[bytes]:
        kinds = {stat.S_IFMT(info.mode) for info in (self._before, self._after) if info}
        yield from self._owners()
        if not kinds <= {stat.S_IFREG, stat.S_IFLNK}:
            yield from self._no_file(kinds.pop())
            return
        moved = list(self._moved())
        if not self._pair.has_changed:
            if moved:
                yield self._title()
                yield from moved
            return
        one = self._content(self._old, self._pair.before, self._before)
        two = self._content(self._new, self._pair.after, self._after)
        if one is not None and two is not None:
            yield self._title()
            yield from moved
            yield self._index(one, two)
            yield from _hunks(one, two, *self._names())
            return
        # With no hunks, patch would make an empty file of a new one.
        if moved and self._before is not None and self._after is not None:
            yield self._title()
            yield from moved
        yield b"Binary files %s and %s differ%s\n" % (*self._names(), self._too_large())

    def _title(self) -> bytes:
        return b"diff --git %s %s\n" % (quote(self._a), quote(self._b))

    def _names(self) -> tuple[bytes, bytes]:
        """Return the two names as the lines before the hunks have them."""
        return (
            b"/dev/null" if self._before is None else quote(self._a),
            b"/dev/null" if self._after is None else quote(self._b),
        )

    def _moved(self) -> Iterator[bytes]:
        """Yield git's lines about names and modes."""
        before, after = self._before, self._after
        if before is None and after is not None:
            yield b"new file mode %06o\n" % _git_mode(after.mode)
        elif after is None and before is not None:
            yield b"deleted file mode %06o\n" % _git_mode(before.mode)
        elif before is not None and after is not None:
            if before.mode != after.mode:
                yield b"old mode %06o\nnew mode %06o\n" % (before.mode, after.mode)
            if self._pair.before != self._pair.after:
                yield b"rename from %s\nrename to %s\n" % (quote(self._a[2:]), quote(self._b[2:]))

    def _index(self, one: bytes, two: bytes) -> bytes:
        """Return git's line about contents.

        By it GNU patch knows a symlink, and a file that is gone though it was empty.
        """
        before, after = self._before, self._after
        names = [
            b"0000000" if info is None else _blob_name(data)
            for info, data in ((before, one), (after, two))
        ]
        line = b"index %s..%s" % (names[0], names[1])
        if before is not None and after is not None and before.mode == after.mode:
            line += b" %06o" % _git_mode(before.mode)
        return line + b"\n"

    def _owners(self) -> Iterator[bytes]:
        before, after = self._before, self._after
        if before is None or after is None:
            return
        was, now = (before.uid, before.gid), (after.uid, after.gid)
        if was != now:
            yield b"Owner of %s: %d:%d -> %d:%d\n" % (quote(self._b), *was, *now)

    def _no_file(self, kind: int) -> Iterator[bytes]:
        what, before, after = FILE_TYPES[kind].encode(), self._before, self._after
        if before is None:
            yield b"New %s: %s\n" % (what, quote(self._b))
        elif after is None:
            yield b"Removed %s: %s\n" % (what, quote(self._a))
        else:
            if self._pair.before != self._pair.after and kind != stat.S_IFDIR:
                yield b"Moved %s: %s -> %s\n" % (what, quote(self._a), quote(self._b))
            if before.mode != after.mode:
                modes = stat.S_IMODE(before.mode), stat.S_IMODE(after.mode)
                yield b"Mode of %s: %04o -> %04o\n" % (quote(self._b), *modes)

    def _content(self, tree: Tree, path: bytes | None, info: NodeStat | None) -> bytes | None:
        """Return a text's bytes, a symlink's target; None if it is no text, or too large."""
        if path is None or info is None:
            return b""
        if stat.S_ISLNK(info.mode):
            return tree.readlink(path)
        if info.size_bytes > LARGEST_BYTES:
            return None
        data = b"".join(whole(tree, path, info.size_bytes))
        # As git and diff(1): any encoding is text as long as it has no NUL.
        return None if b"\0" in data else data

    def _too_large(self) -> bytes:
        infos = [info for info in (self._before, self._after) if info]
        if max(info.size_bytes for info in infos) <= LARGEST_BYTES:
            return b""
        return f" (over {format_size(LARGEST_BYTES)}, not looked into)".encode()


def _git_mode(mode: int) -> int:
    return stat.S_IFLNK if stat.S_ISLNK(mode) else mode


def _blob_name(data: bytes) -> bytes:
    """Return git's short name of a content."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return blob.hexdigest()[:7].encode()


def _hunks(one: bytes, two: bytes, a: bytes, b: bytes) -> Iterator[bytes]:
    lines = difflib.diff_bytes(difflib.unified_diff, _lines(one), _lines(two), a, b, lineterm=b"\n")
    for line in lines:
        yield line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"


def _lines(data: bytes) -> list[bytes]:
    """Return the lines with their ends: only newlines end one, for patch(1)."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def quote(name: bytes) -> bytes:
    """Return a name as git and GNU patch write it: in quotes if it could be misread.

    UTF-8 stays readable. A blank is quoted, which git only does where it must: patch(1) ends a name
    there, and where there are no hunks it knows the names from ``diff --git`` alone.
    """
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and not set(text) & set(' "\\'):
        return name
    quoted = b""
    for char in text:
        if char.isprintable() and char not in '"\\':
            quoted += char.encode()
            continue
        for byte in char.encode("utf-8", "surrogateescape"):
            quoted += b"\\" + _QUOTED.get(byte, b"%03o" % byte)
    return b'"' + quoted + b'"'
