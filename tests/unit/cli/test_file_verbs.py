"""The parts of the verbs that change files: targets, sides, sources on the host, what fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.api.unmounted import LocalHandle, UnmountedBackend
from pondfs.cli import pond
from pondfs.cli.changing import BackendTree, locate_new, make_parents
from pondfs.cli.cp import _sides
from pondfs.cli.host import open_sources
from pondfs.cli.run import run
from pondfs.cli.targets import fill, find_nested, has_captures, refuse_same
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store import create
from pondfs.store.log import read_versions

MountTable = Callable[..., Path]
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, mount_table: MountTable) -> Path:
    del mount_table  # it is empty: nothing is mounted
    create(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def say(store: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    def say(*args: str) -> tuple[int, str, str]:
        code = run(pond, "pond", ["--pond", str(store), *args])
        return code, *capsys.readouterr()

    return say


# --- targets ---


@pytest.mark.parametrize(
    ("dest", "captures", "filled"),
    [
        ("a/$0-$1.csv", ["x", "y"], "a/x-y.csv"),
        ("$0/$1", ["", "y"], "y"),
        ("/$0/$1", ["", "y"], "/y"),
        ("/$0", [""], "/"),
        ("$0", [""], ""),
        ("a//$0/", ["b/c"], "a//b/c/"),
        ("${0}1$$0$", ["x"], "x1$0$"),
        ("$0", ["$0$1"], "$0$1"),
        ("$0", ["\udcff\n"], "\udcff\n"),
        ("../$0", ["x"], "../x"),
        ("./$a", [], "./$a"),
    ],
)
def test_fill(dest: str, captures: list[str], filled: str) -> None:
    assert fill(dest, tuple(map(os.fsencode, captures))) == filled


@pytest.mark.parametrize(
    ("dest", "captures"),
    [
        ("$1", ["x"]),
        ("$0", []),
        ("$0", [".."]),
        ("a/$0$0", ["."]),
        (".$0/b", ["."]),
        ("a/$0", ["b/../c"]),
        ("a/.$0", [""]),
    ],
)
def test_fill_refuses(dest: str, captures: list[str]) -> None:
    with pytest.raises(UsageError):
        fill(dest, tuple(map(os.fsencode, captures)))


@given(
    st.text("a.$01{}/", max_size=8),
    st.lists(st.text("a.$01\udcff", max_size=3), min_size=2, max_size=2),
)
def test_fill_stays_where_it_was_written(dest: str, captures: list[str]) -> None:
    """No capture leads above, or to the root, or is read as a capture itself."""
    try:
        filled = fill(dest, tuple(map(os.fsencode, captures)))
    except UsageError:
        return
    assert filled.startswith("/") == dest.startswith("/")
    assert filled.split("/").count("..") == dest.split("/").count("..")
    if not has_captures(dest) and "$$" not in dest:
        assert filled == dest


def test_two_things_in_one_place() -> None:
    refuse_same([("a", b"x"), ("b", b"y")])
    with pytest.raises(UsageError, match="'a' and 'c' would both become 'x'"):
        refuse_same([("a", b"x"), ("b", b"y"), ("c", b"x")])


def test_find_nested() -> None:
    assert find_nested([b"a", b"b/c", b"ab", b"b/cd"]) is None
    assert find_nested([b"a/b/c", b"b", b"a"]) == (b"a", b"a/b/c")


@pytest.mark.parametrize(
    ("args", "sides"),
    [
        (("a", "b"), (True, ("a",), False, "b")),
        (("pond:a", "b"), (True, ("a",), False, "b")),
        (("a", "host:b"), (True, ("a",), False, "b")),
        (("a", "pond:b"), (False, ("a",), True, "b")),
        (("host:a", "host:c", "b"), (False, ("a", "c"), True, "b")),
        (("pond:", "pond:b"), (True, ("/",), True, "b")),
        (("host:pond:a", "x:b"), (False, ("pond:a",), True, "x:b")),
    ],
)
def test_sides(args: tuple[str, ...], sides: object) -> None:
    assert _sides(args[:-1], args[-1]) == sides


# --- the host ---


def test_sources_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d/in").mkdir(parents=True)
    (tmp_path / "d/a[1]").touch()
    (tmp_path / "d/a1").touch()
    (tmp_path / "soft").symlink_to(tmp_path / "d")
    monkeypatch.chdir(tmp_path / "d/in")

    def found(typed: str) -> list[tuple[str, bytes]]:
        tree, sources = open_sources(typed)
        tree.close()
        return [(one.typed, one.path) for one in sources]

    assert found("../a[1]") == [("../a[1]", b"a[1]")]
    assert found("../a*") == [("../a1", b"a1"), ("../a[1]", b"a[1]")]
    assert found(f"{tmp_path}/soft/a?") == [(f"{tmp_path}/soft/a1", b"a1")]
    assert found(f"{tmp_path}/*/a1") == [(f"{tmp_path}/d/a1", b"d/a1")]
    # The working directory has no name here, as a pond's root has none: what is in it is meant.
    assert [path for _, path in found(".")] == [b""]
    assert [path for _, path in found("..")] == [b""]
    assert [path for _, path in found("../in/")] == [b"in"]
    for typed in ("none", "none/x", "../x*", "none/*"):
        with pytest.raises(NoSuchPath):
            found(typed)
    for typed in ("", "*/../x"):
        with pytest.raises(UsageError):
            found(typed)


# --- the backend as a tree ---


def test_a_backend_is_a_tree(store: Path) -> None:
    backend = UnmountedBackend(store)
    try:
        tree = BackendTree(backend)
        handle = backend.open(b"sparse", os.O_RDWR | os.O_CREAT)
        handle.pwrite(b"x" * 5000, 3 << 20)
        handle.truncate(8 << 20)
        handle.close()
        pieces = list(tree.read(b"sparse"))
        assert b"".join(data for _, data in pieces).strip(b"\0") == b"x" * 5000
        assert pieces[0][0] == 3 << 20
        assert sum(len(data) for _, data in pieces) <= 8192
        assert make_parents(backend, b"a/b/c") == [b"a", b"a/b"]
        assert make_parents(backend, b"a/b/c") == []
        backend.symlink(b"a/b", b"soft")
        assert locate_new(tree, (b"soft", b"new")) == b"a/b/new"
        assert locate_new(tree, (b"soft", b"x", b"y", b"new"), parents=True) == b"a/b/x/y/new"
        assert [name for name, _ in tree.entries(b"")] == [b"a", b"soft", b"sparse"]
        with pytest.raises(NoSuchPath, match="the pond has no '/a/none'"):
            tree.lstat(b"a/none")
        with pytest.raises(NoSuchPath):
            locate_new(tree, (b"soft", b"x", b"new"))
        for names in ((), (b".pond", b"x")):
            with pytest.raises(UsageError):
                locate_new(tree, names)
    finally:
        backend.discard()


# --- what fails ---


def test_a_copy_in_that_fails_leaves_nothing(
    say: Say, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    put = LocalHandle.pwrite

    def full(self: LocalHandle, data: bytes, offset: int) -> int:
        if data == b"b":
            raise OSError(errno.ENOSPC, "No space left on device", "/source/b")
        return put(self, data, offset)

    monkeypatch.setattr(LocalHandle, "pwrite", full)
    code, out, err = say("cp", f"host:{source}", "pond:/")
    assert (code, out, err) == (2, "", "pond: /source/b: No space left on device\n")
    code, out, err = say("cp", "--force", f"host:{source}", "pond:/")
    # Not what it is called until it is whole.
    assert (code, out, err) == (2, "", "pond: /source/b: No space left on device\n")
    assert len(read_versions(store, None)) == 1
    monkeypatch.undo()
    assert say("cp", f"host:{source}", "pond:/")[0] == 0
    assert say("ls", "source")[1] == "a\nb\nc\n"


def test_the_log_says_how_it_was_called(say: Say, store: Path) -> None:
    assert say("mkdir", "-p", "a b", "é\n\udcff")[0] == 0
    assert say("mkdir", *(f"directory-{number}" for number in range(100)))[0] == 0
    newest, before, _ = read_versions(store, None)
    assert before.message == "pond mkdir -p 'a b' 'é\\n\\xff'"
    assert newest.message.endswith("…")
    assert len(newest.message) <= 500


def test_nothing_to_do_is_no_version(say: Say, store: Path) -> None:
    assert say("rm", "-f", "none") == (0, "", "")
    assert say("touch", "-c", "none") == (0, "", "")
    assert len(read_versions(store, None)) == 1


@pytest.mark.parametrize(
    "args",
    [
        ("ls", ""), ("cat", ""), ("du", ""), ("du", "--by-version", ""), ("find", ""),
        ("find", "--created-between", "1..1", ""), ("describe", ""), ("show", ""), ("touch", ""),
        ("mkdir", ""), ("rm", "-rf", ""), ("ln", "-s", "x", ""), ("ln", "", "x"), ("mv", "", "x"),
        ("cp", "", "x"), ("cp", "pond:f", "host:"), ("history", ""), ("restore", "--at", "1", ""),
    ],
)  # fmt: skip
def test_an_empty_path_is_not_the_root(
    args: tuple[str, ...],
    say: Say,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a variable that was not set."""
    assert say("touch", "f")[0] == 0
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    code, out, err = say(*args)
    assert (code, out) == (1, "")
    assert "is empty" in err
    assert len(read_versions(store, None)) == 2
    assert sorted(os.listdir()) == before


def test_no_pond(
    tmp_path: Path, mount_table: MountTable, capsys: pytest.CaptureFixture[str]
) -> None:
    del mount_table
    for args in (["mkdir", "d"], ["rm", "-n", "d"], ["cp", "host:/etc/hosts", "x"]):
        assert run(pond, "pond", ["--pond", str(tmp_path / "none"), *args]) == 3
        assert "there is no pond at" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
