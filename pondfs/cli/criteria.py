"""What ``pond find`` looks for: names, types, sizes, times; and what its wildcards stood for."""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pondfs.cli.globs import match
from pondfs.cli.reach import Place
from pondfs.cli.trees import resolve_since
from pondfs.errors import UsageError
from pondfs.options import parse_size
from pondfs.store.tree import NodeStat

TYPES = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
}
"""As find(1) has them."""

Test = Callable[[NodeStat], bool]


@dataclass(frozen=True, slots=True)
class Criteria:
    """All that must hold.

    Attributes:
        globs: what the name is like, or the path below where the search begins; none: anything.
        is_path: which of these.
        tests: what else must hold.
    """

    globs: Sequence[str]
    is_path: bool
    tests: Sequence[Test]

    def match(self, path: bytes, info: NodeStat) -> tuple[str, ...] | None:
        """Return what the wildcards stand for in *path*; None if not all of it holds.

        Args:
            path: from where the search begins; there it is empty.
            info: what is there.
        """
        if not all(test(info) for test in self.tests):
            return None
        if not self.globs:
            return ()
        names = os.fsdecode(path).split("/")
        return match(self.globs, names if self.is_path else names[-1:])


def criteria(
    place: Place,
    *,
    name: str | None,
    kinds: Iterable[str],
    larger: str | None,
    smaller: str | None,
    newer: str | None,
    older: str | None,
    changed_since: str | None,
) -> Criteria:
    """Return what the options of the command line ask for; those of None ask nothing.

    Raises: UsageError; NoSuchVersion.
    """
    tests: list[Test] = []
    if wanted := {TYPES[kind] for kind in kinds}:
        tests.append(lambda info: stat.S_IFMT(info.mode) in wanted)
    try:
        if larger is not None:
            least = parse_size(larger)
            tests.append(lambda info: stat.S_ISREG(info.mode) and info.size_bytes > least)
        if smaller is not None:
            most = parse_size(smaller)
            tests.append(lambda info: stat.S_ISREG(info.mode) and info.size_bytes < most)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if newer is not None:
        first_ns = resolve_since(place, newer)
        tests.append(lambda info: info.mtime_ns >= first_ns)
    if older is not None:
        end_ns = resolve_since(place, older)
        tests.append(lambda info: info.mtime_ns < end_ns)
    if changed_since is not None:
        # The change time, which no program can set, and which a new mode or owner moves as well.
        since_ns = resolve_since(place, changed_since)
        tests.append(lambda info: info.ctime_ns >= since_ns)
    name = name or ""
    globs = name.removeprefix("/").split("/") if name else []
    return Criteria(globs, "/" in name, tests)
