"""Wildcards in paths, ``*`` ``?`` ``[…]`` in names and ``**`` for directories, and what they match.

Names are matched as text, so that ``?`` is a character; what is not UTF-8 is a character a byte.
Hidden names are names like any other, but ``.pond`` is never meant.
"""

import errno
import functools
import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate

from pondfs.cli.output import format_path
from pondfs.cli.reach import Place, path_in_pond
from pondfs.cli.trees import Tree, follow
from pondfs.errors import NoSuchPath, PondError, UsageError
from pondfs.store.tree import NodeStat

Captures = tuple[bytes, ...]
"""What each wildcard stood for, in their order; of ``**`` the directories, with slashes between."""

# Possessive: a bracket right after the first is one of the characters (fnmatch(3)).
_MAGIC = re.compile(r"\*+|\?|\[!?+\]?+[^\]]*\]", re.DOTALL)
_PIECE = re.compile(_MAGIC.pattern + "|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path as a person wrote it.

    Attributes:
        typed: what was written.
        names: where it leads from the root, if its wildcards are characters like any other.
        start: how many of *names* come before the first with a wildcard; all if none has any.
    """

    typed: str
    names: tuple[bytes, ...]
    start: int

    @property
    def is_glob(self) -> bool:
        """Whether there are wildcards in it."""
        return self.start < len(self.names)

    @property
    def is_directory(self) -> bool:
        """Whether it was written as one: with a slash behind."""
        return self.typed.endswith("/")

    @property
    def globs(self) -> list[str]:
        """The names from the first with a wildcard on."""
        return [os.fsdecode(name) for name in self.names[self.start :]]

    def spell(self, names: Sequence[bytes]) -> str:
        """Return *names*, which stand for the globs, in the words of who wrote the pattern."""
        parts = os.path.normpath(self.typed).split("/")[: self.start - len(self.names)]
        return "/".join([*parts, *map(os.fsdecode, names)])


@dataclass(frozen=True, slots=True)
class Found:
    """What a pattern stood for.

    Attributes:
        typed: its path in the words of who wrote the pattern.
        names: the same from the root; symlinks among them are not followed.
        path: where that is: symlinks on the way are followed, one at the end is not.
        info: what is there.
        captures: what the wildcards stood for; none if the pattern is itself there.
    """

    typed: str
    names: tuple[bytes, ...]
    path: bytes
    info: NodeStat
    captures: Captures = ()

    def follow(self, tree: Tree) -> tuple[bytes, NodeStat]:
        """Return where it leads if it is a symlink, and what is there.

        Raises: as `trees.follow`.
        """
        if not stat.S_ISLNK(self.info.mode):
            return self.path, self.info
        return follow(tree, self.path.split(b"/"), last=True)


def has_magic(name: str) -> bool:
    """Return whether there are wildcards in *name*."""
    return _MAGIC.search(name) is not None


def is_missing(error: PondError) -> bool:
    """Return whether *error*, which a daemon may have had, says that there is no such path."""
    return error.exit_code == NoSuchPath.exit_code


def parse(place: Place, typed: str, *, as_seen: bool = False) -> Pattern:
    """Return what a person calls *typed* in a pond. Args and errors as of `path_in_pond`."""
    names = path_in_pond(place, typed, as_seen=as_seen)
    # Where one stands, and where the pond is mounted, was not written as a pattern.
    written = os.fsencode(os.path.normpath(typed)).split(b"/")
    start = len(names)
    pairs = zip(reversed(names), reversed(written), strict=False)
    for number, (name, part) in enumerate(pairs, 1):
        if name != part:
            break
        if has_magic(os.fsdecode(name)):
            start = len(names) - number
    return Pattern(typed, names, start)


def expand_all(
    tree: Tree,
    place: Place,
    texts: Iterable[str],
    failed: Callable[[OSError], None] | None = None,
    *,
    as_seen: bool = False,
) -> list[Found]:
    """Return what each of *texts* stands for, one after the other. As `parse`, then `expand`."""
    patterns = [parse(place, text, as_seen=as_seen) for text in texts]
    return [found for pattern in patterns for found in expand(tree, pattern, failed)]


def expand(
    tree: Tree, pattern: Pattern, failed: Callable[[OSError], None] | None = None
) -> list[Found]:
    """Return what *pattern* stands for, sorted.

    A path that is there is itself, even with wildcard characters in it. Symlinks on the way are
    followed, but by ``**``; one that leads nowhere, or out of the tree, leads to no match. With a
    slash behind it stands for directories only, and symlinks to them.

    Args:
        tree: where to look.
        pattern: what for.
        failed: told of directories that could not be read; without it that is an error.
    Raises: NoSuchPath for no match; OSError; UsageError as `trees.follow`.
    """
    try:
        path, info = follow(tree, pattern.names, last=False)
        one = Found(pattern.typed, pattern.names, path, info)
        if pattern.is_directory and not _leads_to_directory(tree, one):
            raise NoSuchPath(f"'{format_path(os.fsencode(pattern.typed))}' is no directory")
        return [one]
    except NoSuchPath:
        if not pattern.is_glob:
            raise
    except OSError as error:
        # Longer than a name can be, as a pattern may.
        if error.errno != errno.ENAMETOOLONG or not pattern.is_glob:
            raise
    found = list(_search(tree, pattern, failed))
    if pattern.is_directory:
        found = [one for one in found if _leads_to_directory(tree, one)]
    if not found:
        raise NoSuchPath(
            f"{tree.label} has nothing like '/{format_path(b'/'.join(pattern.names))}"
            f"{'/' if pattern.is_directory else ''}'"
        )
    return found


def _leads_to_directory(tree: Tree, found: Found) -> bool:
    info = found.info
    if stat.S_ISLNK(info.mode):
        _, info = _follow_to_directory(tree, found.path, info)
    return stat.S_ISDIR(info.mode)


def expand_one(tree: Tree, pattern: Pattern) -> Found:
    """As `expand`, for what can be done with one path only. Raises: UsageError for several."""
    found = expand(tree, pattern)
    if len(found) > 1:
        raise UsageError(
            f"'{pattern.typed}' stands for {len(found)} paths, {format_path(found[0].path)} and "
            f"{format_path(found[1].path)} among them: name one"
        )
    return found[0]


def expand_new(
    tree: Tree, place: Place, typed: str, *, parents: bool = False
) -> list[tuple[bytes, ...]]:
    """Return the names, from the root, of what shall be made at *typed*.

    Wildcards stand for what is there, but in the last name.

    Args:
        tree: where.
        place: the pond.
        typed: what a person calls it.
        parents: what follows the last name with wildcards may be missing.
    Raises: NoSuchPath; UsageError as `parse`.
    """
    pattern = parse(place, typed, as_seen=True)
    above = range(pattern.start, len(pattern.names) - 1)
    # Up to the last name with wildcards; what comes behind it need not be there.
    end = max((at + 1 for at in above if has_magic(os.fsdecode(pattern.names[at]))), default=0)
    if not end:
        return [pattern.names]
    head = Pattern(os.path.dirname(typed), pattern.names[:end], pattern.start)
    return [(*found.names, *pattern.names[end:]) for found in expand(tree, head)]


@dataclass(frozen=True, slots=True)
class _Visit:
    """A directory to look into.

    Attributes:
        path: where it is.
        names: how the search got there, from its beginning.
        links: which of these are symlinks, by number.
        places: the globs that what is in it may match.
    """

    path: bytes
    names: tuple[bytes, ...]
    links: frozenset[int]
    places: frozenset[int]


def _search(
    tree: Tree, pattern: Pattern, failed: Callable[[OSError], None] | None
) -> Iterator[Found]:
    globs, head = pattern.globs, pattern.names[: pattern.start]
    top, info = follow(tree, head, last=True)
    if not stat.S_ISDIR(info.mode):
        return

    def step(visit: _Visit) -> Iterator[tuple[Found | None, _Visit | None]]:
        """Yield what matches in a directory, and what to look into for it."""
        for name, info in _candidates(tree, visit, globs, failed):
            text = os.fsdecode(name)
            if not visit.path and text == ".pond":
                continue
            path = os.path.join(visit.path, name)
            names = (*visit.names, name)
            here = [
                at
                for at in visit.places
                if globs[at] != "**" and _like(globs[at], text) is not None
            ]
            within = [at for at in visit.places if globs[at] == "**"]
            is_match = len(globs) - 1 in (*here, *within)
            found = None
            if is_match:
                captures = match(globs, [*map(os.fsdecode, names)], visit.links)
                assert captures is not None, (globs, names)
                found = Found(
                    pattern.spell(names),
                    (*head, *names),
                    path,
                    info,
                    tuple(map(os.fsencode, captures)),
                )
            is_link = stat.S_ISLNK(info.mode)
            # `**` does not go into symlinks: it would go round and round.
            beyond = {at + 1 for at in here} | (set() if is_link else set(within))
            places = _beyond_stars(globs, {at for at in beyond if at < len(globs)})
            if not places:
                yield found, None
                continue
            if is_link:
                path, info = _follow_to_directory(tree, path, info)
            links = visit.links | {len(names) - 1} if is_link else visit.links
            inner = _Visit(path, names, links, places) if stat.S_ISDIR(info.mode) else None
            yield found, inner

    # Not by recursion: a path may be deeper than Python's stack.
    todo = [step(_Visit(top, (), frozenset(), _beyond_stars(globs, {0})))]
    while todo:
        for found, inner in todo[-1]:
            if found is not None:
                yield found
            if inner is not None:
                todo.append(step(inner))
                break
        else:
            todo.pop()


def _candidates(
    tree: Tree, visit: _Visit, globs: Sequence[str], failed: Callable[[OSError], None] | None
) -> Iterator[tuple[bytes, NodeStat]]:
    """Yield what may match in a directory, which is not listed if it is certain names only."""
    try:
        if any(has_magic(globs[at]) for at in visit.places):
            yield from tree.entries(visit.path)
            return
        for name in sorted({os.fsencode(globs[at]) for at in visit.places}):
            try:
                yield name, tree.lstat(os.path.join(visit.path, name))
            except NoSuchPath:
                continue
    except NoSuchPath:
        return  # gone since its own directory was listed
    except OSError as error:
        if failed is None:
            raise
        failed(error)


def _follow_to_directory(tree: Tree, path: bytes, info: NodeStat) -> tuple[bytes, NodeStat]:
    try:
        return follow(tree, path.split(b"/"), last=True)
    except (NoSuchPath, UsageError, OSError):
        return path, info  # leads nowhere, out of the tree or round


def _beyond_stars(globs: Sequence[str], places: Iterable[int]) -> frozenset[int]:
    """Add the places one gets to because ``**`` may stand for nothing; the last never does."""
    reached = set(places)
    for at in tuple(reached):
        while at < len(globs) - 1 and globs[at] == "**":
            at += 1
            reached.add(at)
    return frozenset(reached)


def match(
    globs: Sequence[str], names: Sequence[str], links: Container[int] = ()
) -> tuple[str, ...] | None:
    """Return what the wildcards stand for if a path is like a pattern, both split at slashes.

    As `glob.translate` has it from Python 3.13 on, but hidden names are names like any other:
    ``**`` is any directories or none; at the end it is anything, and not nothing. Of several ways
    it is the one where the leftmost wildcard stands for the least.

    Args:
        globs: the pattern.
        names: the path.
        links: numbers of names that ``**`` may only end with.
    """
    last = len(globs) - 1
    # is_like[at][number]: whether the pattern from `at` on is like the path from `number` on.
    is_like = [[False] * (len(names) + 1) for _ in range(len(globs) + 1)]
    is_like[-1][-1] = True
    for at in reversed(range(len(globs))):
        row, beyond = is_like[at], is_like[at + 1]
        for number in reversed(range(len(names) + (at < last))):
            if globs[at] == "**":
                row[number] = (at < last and beyond[number]) or (
                    number < len(names)
                    and (row[number + 1] or (at == last and number == len(names) - 1))
                    and (number not in links or number == len(names) - 1)
                )
            elif number < len(names) and beyond[number + 1]:
                row[number] = _like(globs[at], names[number]) is not None
    if not is_like[0][0]:
        return None
    captures = list[str]()
    number = 0
    for at, glob in enumerate(globs):
        start = number
        if glob == "**":
            number = len(names) if at == last else is_like[at + 1].index(True, start)
            captures.append("/".join(names[start:number]))
        else:
            captures.extend(_like(glob, names[number]) or ())
            number += 1
    return tuple(captures)


def _like(glob: str, name: str) -> tuple[str, ...] | None:
    """Return what the wildcards stand for if a name is like a glob."""
    found = _compile(glob).fullmatch(name)
    return None if found is None else found.groups()


@functools.lru_cache(1024)
def _compile(glob: str) -> re.Pattern[str]:
    """Return a glob as an expression with a group for each wildcard.

    What follows a star has one length, so that its first place is as good as any: atomic groups
    keep names from taking a time that grows with a power of their length.
    """
    parts = [""]
    for piece in _PIECE.findall(glob):
        if piece.startswith("*"):
            parts.append("")
        elif has_magic(piece):
            parts[-1] += f"({translate(piece)[:-2]})"
        else:
            parts[-1] += re.escape(piece)
    first, *rest = parts
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    between = "".join(f"(?>(.*?){part})" for part in middle)
    return re.compile(f"{first}{between}(.*){last}", re.DOTALL)
