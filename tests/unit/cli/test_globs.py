"""Wildcards: against a slow reference, and in each way a path can be written."""

import errno
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pondfs.cli.globs import (
    Pattern,
    expand,
    expand_new,
    expand_one,
    has_magic,
    match,
    parse,
)
from pondfs.cli.reach import Place
from pondfs.cli.trees import Failures, follow
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.mounted_tree import MountedTree
from pondfs.store.tree import NodeStat

MountTable = Callable[..., Path]

# --- a tree in memory ---


class Memory:
    """A tree of dicts (directories), bytes (files) and text (symlinks), that counts what is asked.

    Names are text in it for short; so are symlinks' targets.
    """

    label = "the tree"
    live_at: bytes | None = None

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.listed: list[bytes] = []
        self.closed_to_us: set[bytes] = set()

    def _at(self, path: bytes) -> Any:
        here: Any = self.root
        for name in os.fsdecode(path).split("/") if path else ():
            if len(name.encode("utf-8", "surrogateescape")) > 255:
                raise OSError(errno.ENAMETOOLONG, "File name too long")
            if not isinstance(here, dict) or name not in here:
                raise NoSuchPath(f"{self.label} has no '/{os.fsdecode(path)}'")
            here = here[name]
        return here

    def lstat(self, path: bytes) -> NodeStat:
        node = self._at(path)
        kinds: dict[type, int] = {dict: stat.S_IFDIR, bytes: stat.S_IFREG, str: stat.S_IFLNK}
        return NodeStat(id(node), kinds[type(node)] | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0)

    def entries(self, path: bytes) -> list[tuple[bytes, NodeStat]]:
        if path in self.closed_to_us:
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
        self.listed.append(path)
        names = sorted(map(os.fsencode, self._at(path)))
        return [(name, self.lstat(os.path.join(path, name))) for name in names]

    def readlink(self, path: bytes) -> bytes:
        return os.fsencode(self._at(path))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a pattern needs no {name}")


def pattern_of(text: str) -> Pattern:
    names = text.split("/")
    start = next((at for at, name in enumerate(names) if has_magic(name)), len(names))
    return Pattern(text, tuple(map(os.fsencode, names)), start)


def found_in(tree: Any, text: str) -> list[tuple[str, tuple[str, ...]]]:
    try:
        found = expand(tree, pattern_of(text))
    except NoSuchPath:
        return []
    assert all(one.typed == os.fsdecode(b"/".join(one.names)) for one in found)
    return [(one.typed, tuple(map(os.fsdecode, one.captures))) for one in found]


# --- the slow reference ---


def bracket(glob: str) -> str:
    """Return the bracket a glob begins with, as fnmatch(3) has it; else nothing."""
    if not glob.startswith("["):
        return ""
    begin = 2 if glob[1:2] == "!" else 1
    # One right at its beginning is one of its characters.
    end = glob.find("]", begin + 1)
    return glob[: end + 1] if end > 0 else ""


def slow_names(glob: str, name: str) -> Iterator[tuple[str, ...]]:
    """Yield every way in which a glob stands for a name, least for the leftmost first."""
    if not glob:
        if not name:
            yield ()
        return
    if found := re.match(r"\*+", glob):
        for size in range(len(name) + 1):
            for rest in slow_names(glob[found.end() :], name[size:]):
                yield (name[:size], *rest)
        return
    if glob[0] == "?" or bracket(glob):
        one = bracket(glob) or "?"
        if name and fnmatchcase(name[0], one):
            for rest in slow_names(glob[len(one) :], name[1:]):
                yield (name[0], *rest)
        return
    if name.startswith(glob[0]):
        yield from slow_names(glob[1:], name[1:])


def slow_tree(
    tree: Memory, at: bytes, globs: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield every path below a directory that is like *globs*, in every way, with captures."""
    first, *rest = globs
    try:
        names = [os.fsdecode(name) for name, _ in tree.entries(at)]
    except NoSuchPath:
        return

    def inner(name: str) -> bytes:
        return os.path.join(at, os.fsencode(name))

    if first == "**":
        # All ways down through real directories: the least first.
        todo: list[tuple[bytes, tuple[str, ...]]] = [(at, ())]
        while todo:
            here, down = todo.pop(0)
            for entry, info in tree.entries(here):
                if not here and entry == b".pond":
                    continue
                below = (*down, os.fsdecode(entry))
                if not rest:
                    yield below, ("/".join(below),)
                if stat.S_ISDIR(info.mode):
                    todo.append((os.path.join(here, entry), below))
            if rest:
                for path, captures in slow_tree(tree, here, rest):
                    yield (*down, *path), ("/".join(down), *captures)
        return
    for name in names:
        if not at and name == ".pond":
            continue
        for captures in itertools.islice(slow_names(first, name), 1):
            if not rest:
                yield (name,), captures
                continue
            try:
                where, info = follow(tree, inner(name).split(b"/"), last=True)
            except (NoSuchPath, UsageError, OSError):
                continue
            if stat.S_ISDIR(info.mode):
                for path, more in slow_tree(tree, where, rest):
                    yield (name, *path), (*captures, *more)


def slow(tree: Memory, text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    for path, captures in slow_tree(tree, b"", text.split("/")):
        found.setdefault("/".join(path), []).append(captures)
    # The way in which the leftmost `**` has fewest names; within names the leftmost has the least.
    return {
        path: min(ways, key=lambda way: [len(part.split("/")) if part else 0 for part in way])
        for path, ways in found.items()
    }


NAMES = st.sampled_from(["a", "b", "ab", "aab", ".h", ".pond", "é", "\udcff", "-a", "$0", "a\nb"])
TARGETS = st.sampled_from(["a", "b", "../a", "a/b", "..", "/etc", "ab", "none", "."])
TREES = st.recursive(
    st.just(b"") | TARGETS,
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=16,
).filter(lambda root: isinstance(root, dict))
GLOBS = st.sampled_from(
    ["*", "**", "a", "b", "?", "a*", "*a*b", "[ab]", "[!a]", "*[b]", "*?", ".*", "ab", "**b", "[a"]
)


@settings(max_examples=600, deadline=None)
@given(TREES, st.lists(GLOBS, min_size=1, max_size=4))
def test_it_finds_what_the_slow_reference_finds(root: dict[str, Any], globs: list[str]) -> None:
    tree = Memory(root)
    text = "/".join(globs)
    try:
        found = found_in(tree, text)
    except (UsageError, OSError):
        found = []  # what comes before the first wildcard leads out or round: it is said
    try:
        follow(tree, [os.fsencode(glob) for glob in globs], last=False)
        is_there = True
    except (NoSuchPath, UsageError, OSError):
        is_there = False
    if is_there:
        assert found == [(text, ())]
        return
    wanted = slow(Memory(root), text)
    assert [path for path, _ in found] == sorted(
        wanted, key=lambda path: [os.fsencode(name) for name in path.split("/")]
    )
    assert dict(found) == wanted


@settings(max_examples=600, deadline=None)
@given(
    st.text("ab*?[]!-é\udcff\n$", min_size=1, max_size=7).filter(lambda glob: glob != "**"),
    st.text("ab]!-é\udcff\n$[", min_size=1, max_size=7),
)
def test_a_name_is_like_a_glob(glob: str, name: str) -> None:
    assert match([glob], [name]) == next(slow_names(glob, name), None)


def test_a_glob_takes_no_time_that_grows_with_a_power() -> None:
    assert match(["*a" * 40 + "b"], ["a" * 255]) is None
    assert match(["**"] * 20 + ["b"], ["a"] * 200) is None


# --- what is asked of the tree ---


def test_only_what_is_needed_is_listed() -> None:
    inner = {"x.csv": b"", "y.txt": b""}
    tree = Memory({"big": {"one": {"data": inner}, "two": {}}, "other": {"a": {}}})
    assert found_in(tree, "big/one/data/*.csv") == [("big/one/data/x.csv", ("x",))]
    assert tree.listed == [b"big/one/data"]
    tree.listed.clear()
    assert found_in(tree, "big/*/data/x.csv") == [("big/one/data/x.csv", ("one",))]
    assert tree.listed == [b"big"]
    tree.listed.clear()
    assert len(found_in(tree, "big/**")) == 5
    assert tree.listed == [b"big", b"big/one", b"big/one/data", b"big/two"]


def test_what_can_not_be_listed() -> None:
    tree = Memory({"a": {"x": b""}, "b": {"x": b""}})
    tree.closed_to_us.add(b"a")
    with pytest.raises(PermissionError):
        expand(tree, pattern_of("*/*"))
    failed = Failures()
    (found,) = expand(tree, pattern_of("*/*"), failed)
    assert (found.path, failed.code) == (b"b/x", 2)


def test_a_pattern_may_be_longer_than_a_name() -> None:
    tree = Memory({"a" * 200: b""})
    assert found_in(tree, "[a]" * 100 + "a" * 100)[0][0] == "a" * 200


def test_symlinks() -> None:
    tree = Memory(
        {
            "real": {"sub": {"x": b""}},
            "soft": "real",
            "up": {"to": "../real/sub"},
            "round": "round",
            "out": "/etc",
            "nowhere": "none",
        }
    )
    assert [path for path, _ in found_in(tree, "*/sub/x")] == ["real/sub/x", "soft/sub/x"]
    assert found_in(tree, "soft/**/x") == [("soft/sub/x", ("sub",))]
    assert [path for path, _ in found_in(tree, "**/x")] == ["real/sub/x"]
    assert found_in(tree, "*/to/*") == [("up/to/x", ("up", "x"))]
    (found,) = expand(tree, pattern_of("up/t?/x"))
    assert found.path == b"real/sub/x"
    # What leads out, round or nowhere is a name, and no way.
    assert [path for path, _ in found_in(tree, "[onr]*")] == [
        "nowhere", "out", "real", "round",
    ]  # fmt: skip
    assert found_in(tree, "o*/passwd") == []
    with pytest.raises(UsageError, match="leads out"):
        expand(tree, pattern_of("out/*"))


def test_what_is_there_is_itself() -> None:
    tree = Memory({"a*": b"", "ab": b"", "[b]": {"c": b""}, "b": {"c": b""}})
    assert found_in(tree, "a*") == [("a*", ())]
    assert found_in(tree, "[b]/c") == [("[b]/c", ())]
    assert found_in(tree, "[b]/?") == [("b/c", ("b", "c"))]
    assert found_in(tree, "a[*]") == [("a*", ("*",))]
    assert found_in(tree, "[[]b]/?") == [("[b]/c", ("[", "c"))]


# --- what a person wrote ---


@pytest.fixture
def top(tmp_path: Path, mount_table: MountTable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the mount table, with odd names, in which we stand."""
    top = tmp_path / "m[1]"
    (top / "w[x]/sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (top / "w[x]" / name).touch()
    (top / "wx").mkdir()
    mount_table(tmp_path / "store", top)
    monkeypatch.chdir(top / "w[x]")
    return top


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("./*.txt", ["a.txt", "b.txt"]),
        ("sub/../?.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "sub/c.txt"]),
        ("../w?/", ["../wx"]),
        ("../*/sub", ["../w[x]/sub"]),
        ("../w[x]", ["../w[x]"]),
        ("{top}/w*/a.txt", ["{top}/w[x]/a.txt"]),
        ("{top}/w?", ["{top}/wx"]),
        ("{top}/*", ["{top}/w[x]", "{top}/wx"]),
    ],
)
def test_in_the_words_of_who_wrote_it(top: Path, typed: str, found: list[str]) -> None:
    place = Place(top.parent / "store")
    tree = MountedTree(os.open(top, os.O_PATH), "the pond", os.fsencode(top))
    try:
        pattern = parse(place, typed.format(top=top))
        assert [one.typed for one in expand(tree, pattern)] == [
            path.format(top=top) for path in found
        ]
    finally:
        tree.close()


def test_from_the_root_of_what_is_not_mounted(tmp_path: Path, mount_table: MountTable) -> None:
    del mount_table
    tree: Any = Memory({"d": {"a": b"", ".b": b""}, ".pond": {"x": b""}})
    place = Place(tmp_path / "store")
    for typed, wanted in (("/d/*", ["/d/.b", "/d/a"]), ("*", ["d"]), ("d//?", ["d/a"])):
        assert [one.typed for one in expand(tree, parse(place, typed))] == wanted
    assert [one.path for one in expand(tree, parse(place, "**"))] == [b"d", b"d/.b", b"d/a"]
    assert expand_one(tree, parse(place, "d/[a-z]")).captures == (b"a",)
    with pytest.raises(UsageError, match=r"'d/\*' stands for 2 paths, d/\.b and d/a among them"):
        expand_one(tree, parse(place, "d/*"))
    with pytest.raises(NoSuchPath, match=r"the tree has nothing like '/x\*'"):
        expand(tree, parse(place, "x*"))
    with pytest.raises(NoSuchPath, match="the tree has no '/x'"):
        expand(tree, parse(place, "x"))


def test_names_to_be(tmp_path: Path, mount_table: MountTable) -> None:
    del mount_table
    tree: Any = Memory({"p1": {"q": {}}, "p2": {}, "[x]": {}})
    place = Place(tmp_path / "store")

    def new(typed: str) -> list[str]:
        return [os.fsdecode(b"/".join(names)) for names in expand_new(tree, place, typed)]

    assert new("what?") == ["what?"]
    assert new("p*/new*") == ["p1/new*", "p2/new*"]
    assert new("p*/a/b") == ["p1/a/b", "p2/a/b"]
    assert new("p?/q/new") == ["p1/q/new", "p2/q/new"]
    assert new("[x]/new") == ["[x]/new"]
    with pytest.raises(NoSuchPath):
        new("q*/new")
