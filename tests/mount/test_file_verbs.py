"""``pond mkdir``, ``touch``, ``rm``, ``ln``, ``mv``, ``cp``: on a mounted pond, and an unmounted.

What they did is looked at through a mount, by a walk; and how many versions it made.
"""

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pondfs.cli import pond as pond_command
from pondfs.cli.run import run as run_verb
from pondfs.store.log import read_versions
from tests.mount import harness, snapshot
from tests.mount.harness import PondMount, command, run
from tests.mount.place import Say
from tests.mount.test_past_commands import fill, same_tree

OPTIONS = "commit=3600,xattr"


@dataclass
class Bench:
    """A pond, and a way to use verbs on it; the rules about versions are checked on the way."""

    pond: PondMount
    is_mounted: bool
    capsys: pytest.CaptureFixture[str]

    def begin(self, *paths: str) -> None:
        """Make files (and directories, with a slash behind), each with its path as content."""
        for path in paths:
            where = self.pond.mnt / path
            where.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                where.mkdir()
            else:
                where.write_bytes(os.fsencode(path))
        self.ready()

    def ready(self) -> None:
        """Commit what the test made, and unmount if that is what is tested."""
        self.pond.commit("begin")
        if not self.is_mounted:
            self.pond.umount()

    def say(self, *args: str) -> tuple[int, str, str]:
        """Run a verb here, in this process."""
        self.capsys.readouterr()
        code = run_verb(pond_command, "pond", ["--pond", str(self.pond.store), *args])
        told = self.capsys.readouterr()
        return code, told.out, told.err

    def do(self, *args: str) -> str:
        """Run a verb that changes something; return its output, without the version."""
        before = self.versions()
        code, out, err = self.say(*args)
        assert (code, err) == (0, ""), (args, err)
        after = self.versions()
        if self.is_mounted:
            assert len(after) == len(before), "it is pending, as any program's changes"
            return out
        assert len(after) == len(before) + 1, "one version"
        assert after[0][1].startswith(f"pond {args[0]} ")
        if "--json" in args:
            assert json.loads(out)["version"] == after[0][0]
            return out
        assert out.endswith(f"version {after[0][0]}\n")
        return out[: out.rindex("version")]

    def refuse(self, *args: str, code: int = 1, says: str = "") -> None:
        """Run a verb that must fail, and change nothing."""
        before, versions = self.is_mounted and self.tree(), self.versions()
        got, out, err = self.say(*args)
        assert (got, out, err.count("\n")) == (code, "", 1), (args, out, err)
        assert says in err
        # What is not mounted has nothing that is in no version.
        assert (self.is_mounted and self.tree(), self.versions()) == (before, versions)

    def versions(self) -> list[tuple[int, str]]:
        """Return the versions, newest first, and their messages."""
        return [(info.version, info.message) for info in read_versions(self.pond.store, None)]

    def tree(self) -> dict[str, snapshot.Node]:
        """Return what is in the pond, by a walk through a mount."""
        with self.mounted() as mnt:
            found = snapshot.take(mnt)
        return {os.fsdecode(path): node for path, node in found.items() if path}

    def names(self) -> list[str]:
        return sorted(self.tree())

    def mounted(self) -> "_Mounted":
        return _Mounted(self)


class _Mounted:
    """A mount for a moment."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> Path:
        if not self.bench.is_mounted:
            self.bench.pond.mount("ro,xattr")
        return self.bench.pond.mnt

    def __exit__(self, *_: object) -> None:
        if not self.bench.is_mounted:
            self.bench.pond.umount()


@pytest.fixture(params=["mounted", "unmounted"])
def bench(
    request: pytest.FixtureRequest,
    pond: PondMount,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    monkeypatch.delenv("POND", raising=False)
    pond.remount(OPTIONS)
    before = os.umask(0o022)
    yield Bench(pond, request.param == "mounted", capsys)
    os.umask(before)


# --- one verb after the other ---


def test_mkdir(bench: Bench) -> None:
    bench.begin("d/f", "e/")
    bench.do("mkdir", "new", "d/inner")
    bench.do("mkdir", "-p", "a/b/c", "d", "--mode", "1750")
    bench.do("mkdir", "[de]/x*")
    assert bench.names() == [
        "a", "a/b", "a/b/c", "d", "d/f", "d/inner", "d/x*", "e", "e/x*", "new",
    ]  # fmt: skip
    tree = bench.tree()
    assert [oct(tree[name].mode) for name in ("a", "a/b/c", "d", "new")] == [
        "0o40755", "0o41750", "0o40755", "0o40755",
    ]  # fmt: skip
    made = json.loads(bench.do("mkdir", "-p", "--json", "z/y", "z"))
    assert made["done"] == [{"op": "mkdir", "path": "z"}, {"op": "mkdir", "path": "z/y"}]
    bench.refuse("mkdir", "d", "fine", says="'/d' is there already")
    bench.refuse("mkdir", "none/new", code=11, says="pond mkdir -p /none makes it")
    bench.refuse("mkdir", "d/f/new", code=11, says="'/d/f' is no directory")
    bench.refuse("mkdir", "-p", "d/f", says="no directory")
    bench.refuse("mkdir", "q*/new", code=11, says="nothing like '/q*'")
    bench.refuse("mkdir", "/", says="root")
    bench.refuse("mkdir", "--mode", "789", "x", says="octal")


def test_touch(bench: Bench) -> None:
    bench.begin("old.txt", "older.txt", "d/")
    bench.do("touch", "d/new", "old.txt")
    bench.do("touch", "-t", "2020-02-03T04:05:06.789Z", "*.txt", "d", "at")
    with bench.mounted() as mnt:
        when = 1_580_702_706_789_000_000
        for name in ("old.txt", "older.txt", "d", "at"):
            info = (mnt / name).stat()
            assert (info.st_atime_ns, info.st_mtime_ns) == (when, when)
        assert (mnt / "old.txt").read_text() == "old.txt"
        assert (mnt / "d/new").stat().st_mode == stat.S_IFREG | 0o644
    told = json.loads(bench.do("touch", "--json", "-c", "old.txt", "none", "none*"))
    assert told["done"] == [{"op": "touch", "path": "old.txt"}]
    bench.refuse("touch", "fine", "none/x", code=11)
    bench.refuse("touch", "x*", code=11, says="nothing like")
    bench.refuse("touch", "-t", "soon", "x", code=10)


def test_touch_at_a_version(bench: Bench) -> None:
    bench.begin("f")
    bench.do("touch", "-t", "2", "f")
    stamp = bench.pond.log()[-2]["timestamp"]
    with bench.mounted() as mnt:
        written = (mnt / "f").stat().st_mtime_ns
    assert written // 1000 == int(
        subprocess.run(
            ["date", "-d", stamp, "+%s%6N"], capture_output=True, check=True, text=True
        ).stdout
    )


def test_rm(bench: Bench) -> None:
    bench.begin("a.txt", "b.txt", "d/c.txt", "d/e/f", "keep/x", "other/y")
    dry = bench.say("rm", "-r", "-n", "d", "*.txt")
    assert dry == (0, "would remove d\nwould remove a.txt\nwould remove b.txt\n", "")
    assert len(bench.names()) == 10
    told = json.loads(bench.do("rm", "--json", "-r", "**/*.txt", "d", "d/e"))
    assert sorted((one["path"], one["type"]) for one in told["done"]) == [
        ("a.txt", "file"), ("b.txt", "file"), ("d", "directory"),
    ]  # fmt: skip
    assert bench.names() == ["keep", "keep/x", "other", "other/y"]
    bench.refuse("rm", "keep/x", "other", says="-r removes it")
    bench.refuse("rm", "keep/x", "none", code=11, says="has no '/none'")
    bench.refuse("rm", "-r", "keep", "n*", code=11)
    for root in ("/", ".", "keep/..", ".pond", ".pond/at", "/.pond/versions/1"):
        bench.refuse("rm", "-rf", "keep", root)
    bench.do("rm", "-f", "none", "n*", "keep/x")
    assert bench.names() == ["keep", "other", "other/y"]


def test_rm_does_not_follow(bench: Bench) -> None:
    mnt = bench.pond.mnt
    (mnt / "d").mkdir()
    (mnt / "d/f").touch()
    (mnt / "soft").symlink_to("d")
    (mnt / "t").mkdir()
    (mnt / "t/in").symlink_to("../d")
    bench.ready()
    bench.do("rm", "-r", "soft", "t")
    assert bench.names() == ["d", "d/f"]


def test_rm_of_a_deep_tree(bench: Bench) -> None:
    """Deeper than a path may be long."""
    here = os.open(bench.pond.mnt, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    bench.ready()
    code, _, err = bench.say("rm", "-r", "deep")
    assert (code, err) == (0, "")
    assert bench.names() == []


def test_ln(bench: Bench) -> None:
    bench.begin("d/f", "e/")
    bench.do("ln", "d/f", "e/g")
    bench.do("ln", "d/?", "e")
    bench.do("ln", "-s", "../d/f", "e/soft")
    bench.do("ln", "-s", "/nowhere/at/all", "e")
    bench.do("ln", "e/soft", "soft too")
    tree = bench.tree()
    assert sorted(tree) == ["d", "d/f", "e", "e/all", "e/f", "e/g", "e/soft", "soft too"]
    assert {tree[name].inode for name in ("d/f", "e/f", "e/g")} == {b"d/f"}
    assert tree["e/soft"].content == b"../d/f"
    assert tree["e/all"].content == b"/nowhere/at/all"
    assert tree["soft too"].inode == b"e/soft"
    told = json.loads(bench.do("ln", "--json", "-s", "f", "d/x"))
    assert told["done"] == [{"op": "symlink", "path": "d/x", "target": "f"}]
    bench.refuse("ln", "d/f", "e/g", says="'/e/g' is there already")
    bench.refuse("ln", "-s", "x", "e/g", says="'/e/g' is there already")
    bench.refuse("ln", "d", "new", says="is a directory")
    bench.refuse("ln", "e/*", "new", says="stands for 4 paths")
    bench.refuse("ln", "none", "new", code=11)
    bench.refuse("ln", "d/f", "none/new", code=11)
    bench.refuse("ln", "-s", "..", "e", says="which name")


def test_mv(bench: Bench) -> None:
    bench.begin("a", "b", "d/f", "e/")
    inode = None
    if bench.is_mounted:
        inode = (bench.pond.mnt / "a").stat().st_ino
    bench.do("mv", "a", "new")
    if inode is not None:
        assert (bench.pond.mnt / "new").stat().st_ino == inode
    bench.do("mv", "new", "b", "d", "e")
    tree = bench.tree()
    assert sorted(tree) == ["e", "e/b", "e/d", "e/d/f", "e/new"]
    assert tree["e/new"].content == b"a"
    bench.do("mv", "--force", "e/new", "e/b")
    bench.do("mv", "-p", "e/b", "x/y/z")
    assert bench.names() == ["e", "e/d", "e/d/f", "x", "x/y", "x/y/z"]
    assert bench.tree()["x/y/z"].content == b"a"
    # The history goes on under the new name.
    assert "renamed" in bench.say("history", "x/y/z")[1] or bench.is_mounted


def test_mv_many(bench: Bench) -> None:
    bench.begin("raw/ann/2026-01.csv", "raw/bob/2026-01.csv", "raw/bob/2026-02.csv", "done/")
    dry = bench.say("mv", "-n", "raw/*/2026-*.csv", "done/$0-$1.csv")[1].splitlines()
    assert dry[0] == "raw/ann/2026-01.csv -> done/ann-01.csv"
    assert len(dry) == 3
    told = json.loads(bench.do("mv", "--json", "raw/*/2026-*.csv", "done/$0-${1}0.csv"))
    assert told["done"][0] == {
        "op": "move", "from": "raw/ann/2026-01.csv", "path": "done/ann-010.csv",
    }  # fmt: skip
    assert [name for name in bench.names() if "." in name] == [
        "done/ann-010.csv", "done/bob-010.csv", "done/bob-020.csv",
    ]  # fmt: skip
    bench.do("mv", "-p", "**/[ab]*-*.csv", "$0/$1/$2$3-$$.txt")
    assert [name for name in bench.names() if "." in name] == [
        "done/a/nn010-$.txt", "done/b/ob010-$.txt", "done/b/ob020-$.txt",
    ]  # fmt: skip


def test_mv_refuses_before_it_moves(bench: Bench) -> None:
    bench.begin("a1", "a2", "b1", "d/a1", "d/x/y", "t/")
    bench.refuse("mv", "a*", "new", says="several things")
    bench.refuse("mv", "a?", "n$1", says="1 wildcard in")
    bench.refuse("mv", "[ab]?", "n$1", says="would both become 'n1'")
    bench.refuse("mv", "a?", "b$0", says="'b1' is there already: --force")
    bench.refuse("mv", "a?", "d", says="'d/a1' is there already")
    bench.refuse("mv", "a?", "t/$0$0/x", code=11)
    bench.refuse("mv", "--force", "?1", "$0$0/x", code=11)
    bench.refuse("mv", "d", "d/x/in", says="inside 'd'")
    bench.refuse("mv", "d", "d/x", "t", says="is in 'd'")
    bench.refuse("mv", "a1", "a1", says="'a1' would become itself")
    bench.refuse("mv", "--force", "a1", "a2", "a2", says="several things")
    bench.refuse("mv", "/", "t", says="root")
    bench.refuse("mv", "a1", ".pond/at/x", says="no part of the tree")
    bench.refuse("mv", "none", "t", code=11)
    bench.refuse("mv", "a1", "none/", says="no directory")
    bench.refuse("mv", "--force", "t", "a1", says="no directory")


def test_all_or_nothing(bench: Bench) -> None:
    """What fails in the middle leaves an unmounted pond as it was."""
    bench.begin("a", "b", "d/")
    if bench.is_mounted:
        return  # what was done is the mount's
    bench.refuse("mkdir", "new", "new/x", "a", says="is there already")
    bench.refuse("touch", "new", "d/x", "none/x", code=11)


def test_commit_at_once_or_not(bench: Bench) -> None:
    bench.begin("a")
    code, out, _ = bench.say("mkdir", "d", "-m", "made by hand")
    newest = bench.pond.log()[0]
    assert (code, out) == (0, f"version {newest['version']}\n")
    assert newest["message"] == "made by hand"
    bench.refuse("mkdir", "x", "-m", "y", "--no-commit", says="choose one")
    if bench.is_mounted:
        bench.do("mkdir", "e", "--no-commit")
        return
    bench.refuse("mkdir", "x", "--no-commit", says="not mounted")
    assert bench.say("rm", "a", "-n")[0] == 0
    assert len(bench.pond.log()) == newest["version"]


# --- copying ---


def test_cp_in_and_out_is_the_same(bench: Bench, tmp_path: Path) -> None:
    """One of everything, from the host into the pond, and back, and within it."""
    host = tmp_path / "host"
    host.mkdir()
    fill(host)
    bench.ready()
    said = bench.do("cp", f"host:{host}/d", "pond:/")
    assert said.startswith("copied 12 files, ")
    with bench.mounted() as mnt:
        same_tree(host / "d", mnt / "d")
        assert (mnt / "d/sparse").stat().st_blocks < 100
    bench.do("cp", "pond:d", "pond:again")
    bench.do("cp", f"host:{host}", "pond:whole")
    assert bench.say("cp", "again", str(tmp_path / "out"))[::2] == (0, "")
    same_tree(host / "d", tmp_path / "out")
    with bench.mounted() as mnt:
        same_tree(host / "d", mnt / "again")
        same_tree(host, mnt / "whole")


def test_cp_replaces_by_force_only(bench: Bench, tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "inner").mkdir(parents=True)
    (host / "inner/a").write_text("new")
    (host / "inner/b").write_text("new")
    bench.begin("host/inner/b", "host/mine")
    bench.refuse("cp", f"host:{host}", "pond:/", says="'/host/inner/b' is there already")
    dry = bench.say("cp", "--force", "-n", f"host:{host}", "pond:/")
    assert dry == (0, f"{host} -> host\n", "")
    bench.do("cp", "--force", f"host:{host}", "pond:/")
    bench.do("cp", "--force", f"host:{host}", "pond:/")
    tree = bench.tree()
    assert sorted(tree) == ["host", "host/inner", "host/inner/a", "host/inner/b", "host/mine"]
    assert (tree["host/inner/b"].content, tree["host/mine"].content) == (b"new", b"host/mine")
    (host / "inner/a").unlink()
    (host / "inner/a").mkdir()
    bench.refuse("cp", "--force", f"host:{host}", "pond:/", says="what is copied there is one")


def test_cp_sides(bench: Bench, tmp_path: Path) -> None:
    bench.begin("f", "pond:g")
    (tmp_path / "h").write_text("h")
    here = f"{tmp_path}/h"
    for number, args in enumerate(
        [
            (f"host:{here}", "n0"),
            (here, "pond:n1"),
            (f"host:{here}", "pond:n2"),
            ("pond:f", "pond:n3"),
        ]
    ):
        bench.do("cp", *args)
        assert f"n{number}" in bench.names()
    for number, source in enumerate(["f", "pond:f", "pond:pond:g", "./pond:g"]):
        out = tmp_path / f"out{number}"
        assert bench.say("cp", source, str(out))[0] == 0
        assert out.read_text() == ("f" if number < 2 else "pond:g")
    assert bench.say("cp", "f", f"host:{tmp_path}/host")[0] == 0
    bench.refuse("cp", f"host:{here}", "host:/tmp/x", says="both are on the host")
    bench.refuse("cp", "pond:f", f"host:{here}", "pond:x", says="all in the pond or all on")
    bench.refuse("cp", "f", f"host:{here}", "x", says="all in the pond or all on")
    bench.refuse("cp", "--at", "2", f"host:{here}", "x", says="--at")
    bench.refuse("cp", "-m", "x", "f", "/tmp/x", says="-m")
    bench.refuse("cp", "none", "/tmp/x", code=11)
    bench.refuse("cp", f"host:{tmp_path}/none", "x", code=11, says="is not there")
    bench.refuse("cp", f"host:{tmp_path}/n*", "x", code=11, says="nothing like")
    bench.refuse("cp", f"host:{here}", "none/x", code=11, says="pond mkdir -p /none makes it")
    bench.refuse("cp", f"host:{here}", "pond:new/", says="no directory")


def test_cp_with_wildcards(bench: Bench, tmp_path: Path) -> None:
    bench.begin("raw/ann/1.csv", "raw/bob/1.csv", "raw/bob/2.csv", "raw/note")
    out = tmp_path / "out"
    dry = bench.say("cp", "-n", "-p", "raw/**/*.csv", f"{out}/$0/$1.txt")
    assert dry[1].splitlines()[0] == f"raw/ann/1.csv -> {out}/ann/1.txt"
    assert not out.exists()
    assert bench.say("cp", "-p", "raw/**/*.csv", f"{out}/$0/$1.txt")[0] == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.txt")) == [
        "ann/1.txt", "bob/1.txt", "bob/2.txt",
    ]  # fmt: skip
    assert bench.say("cp", "raw/*/1.csv", str(out))[0] == 1
    assert bench.say("cp", "raw/bob/?.csv", str(out))[0] == 0
    assert (out / "2.csv").read_text() == "raw/bob/2.csv"
    told = json.loads(bench.do("cp", "--json", "-p", f"host:{out}/*/?.txt", "pond:in/$0$1"))
    assert [one["path"] for one in told["done"]] == [
        "pond:/in/ann1",
        "pond:/in/bob1",
        "pond:/in/bob2",
    ]
    assert (told["files"], told["bytes"]) == (3, 39)
    assert bench.tree()["in/bob2"].content == b"raw/bob/2.csv"
    bench.do("cp", "-p", f"host:{out}/ann/1.txt", f"host:{out}/2.csv", "pond:new")
    bench.do("cp", "pond:raw/*/?.csv", "pond:new/$0.$1")
    assert [name for name in bench.names() if name.startswith("new/")] == [
        "new/1.txt", "new/2.csv", "new/ann.1", "new/bob.1", "new/bob.2",
    ]  # fmt: skip
    bench.refuse("cp", "pond:raw/*/1.csv", "pond:new", says="would both become")


def test_cp_into_itself(bench: Bench, tmp_path: Path) -> None:
    bench.begin("d/f")
    bench.refuse("cp", "pond:d", "pond:d/x", says="inside what is to be copied")
    bench.refuse("cp", "pond:/", "pond:d/x", says="inside what is to be copied")
    bench.do("cp", "--at", "2", "pond:/", "pond:d/x")
    assert bench.names() == ["d", "d/f", "d/x", "d/x/d", "d/x/d/f"]
    if bench.is_mounted:
        code, _, err = bench.say("cp", f"host:{bench.pond.mnt}", "pond:d/y")
        assert (code, "inside what is to be copied" in err) == (1, True)


def test_cp_of_what_was(bench: Bench) -> None:
    bench.begin("f")
    bench.do("rm", "f")
    bench.do("cp", "--at", "2", "pond:f", "pond:back")
    assert bench.tree()["back"].content == b"f"


def test_cp_uses_little_memory(bench: Bench, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as file:
        for _ in range(150):
            file.write(os.urandom(1 << 20))
    bench.ready()
    args = [command("pond"), "--pond", str(bench.pond.store), "cp", f"host:{big}", "pond:big"]
    measured = ["/usr/bin/env", "python3", "-c", _MEASURE, *args]
    peak_kib = int(run(measured, env=bench.pond.env).stdout.splitlines()[-1])
    # The heavy libraries of an unmounted pond alone take some 150 MB.
    assert peak_kib < 320 << 10
    with bench.mounted() as mnt:
        run(["cmp", big, mnt / "big"])


_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


# --- names ---

ODD = [
    "a\nb", "$0", "$$", "-rf", "--", "*", "[ab]", "what?", "..x", "host:x", "pond:y", "é",
    os.fsdecode(b"\xff\xfe"), " ", "a\\b", "~", "{x}",
]  # fmt: skip


def test_odd_names(bench: Bench, tmp_path: Path) -> None:
    """None of them is anything else than a name: not on the way in, out, or within."""
    host = tmp_path / "host"
    host.mkdir()
    for number, name in enumerate(ODD):
        (host / name).write_text(str(number))
    bench.ready()
    bench.do("cp", f"host:{host}/?*", "pond:/")
    assert bench.names() == sorted(ODD)
    bench.do("mv", "-p", "?*", "one/$0$1")
    assert bench.names() == sorted(["one", *(f"one/{name}" for name in ODD)])
    out = tmp_path / "out"
    out.mkdir()
    assert bench.say("cp", "one/?*", str(out))[0] == 0
    same_tree(host, out)
    bench.do("rm", "--", *(f"one/{name}" for name in ODD))
    assert bench.names() == ["one"]


def test_what_is_captured_is_no_pattern(bench: Bench, tmp_path: Path) -> None:
    names = ["x$0", "x$1", "x*", "x$$", "x" + os.fsdecode(b"\xff"), "x-n"]
    bench.begin(*names)
    bench.do("mv", "-p", "x?*", "to/$0-$1")
    assert bench.names() == sorted(
        ["to", "to/$-0", "to/$-1", "to/*-", "to/$-$", "to/" + os.fsdecode(b"\xff") + "-", "to/--n"]
    )


def test_a_name_leads_nowhere_else(bench: Bench, tmp_path: Path) -> None:
    """Captured dots make no way up, and what was captured empty no way to the root."""
    bench.begin("d/x..", "d/y.", "d/z")
    out = tmp_path / "out/in"
    out.mkdir(parents=True)
    for pattern in ("d/x*", "d/y*"):
        bench.refuse("mv", pattern, "d/$0", says="another directory")
        bench.refuse("cp", pattern, f"{out}/$0", says="another directory")
        bench.refuse("cp", pattern, f"{out}/$0/name", says="another directory")
    bench.refuse("cp", "[d]/z*", "$1", says="DEST is empty")
    assert sorted(os.listdir(out.parent)) == ["in"]
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        # Not below the host's root.
        assert bench.say("cp", "-p", "d/**/z", "$0/copy-of-z")[0] == 0
        assert (tmp_path / "copy-of-z").read_text() == "d/z"
    finally:
        os.chdir(here)
    assert not Path("/copy-of-z").exists()


def test_symlinks_that_lead_out(bench: Bench, tmp_path: Path) -> None:
    """They are copied, moved and removed as such; no verb goes through them."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "f").write_text("mine")
    mnt = bench.pond.mnt
    (mnt / "out").symlink_to(victim)
    (mnt / "up").symlink_to("../" * 12 + str(victim).lstrip("/"))
    (mnt / "file").write_text("file")
    (mnt / "dangling").symlink_to("none")
    bench.ready()
    for args in (
        ("rm", "out/f"), ("touch", "out/f"), ("touch", "out"), ("mkdir", "out/d"),
        ("mv", "file", "out"), ("mv", "file", "out/g"), ("mv", "out/f", "g"),
        ("ln", "file", "out/g"), ("ln", "out/f", "g"), ("ln", "-s", "x", "out/g"),
        ("cp", "pond:file", "pond:out/g"), ("cp", f"host:{victim}/f", "pond:out"),
        ("cp", "pond:out/f", "pond:g"), ("rm", "out/*"),
    ):  # fmt: skip
        bench.refuse(*args, says="leads out of")
    # `..` does not lead above the pond's root: there is nothing like it inside.
    for args in (("rm", "up/f"), ("mkdir", "up/d"), ("mv", "file", "up/g"), ("touch", "dangling")):
        bench.refuse(*args, code=11)
    bench.do("cp", "pond:out", "pond:copy")
    bench.do("mv", "out", "moved")
    bench.do("rm", "up", "dangling")
    assert bench.tree()["copy"].content == os.fsencode(victim)
    assert bench.names() == ["copy", "file", "moved"]
    assert (os.listdir(victim), (victim / "f").read_text()) == (["f"], "mine")


# --- where one stands; who one is ---


def test_what_was_can_not_be_changed(pond: PondMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standing in an old version, a name is that of the old version, not of the one now."""
    pond.remount(OPTIONS)
    (pond.mnt / "d").mkdir()
    (pond.mnt / "d/f").write_text("f")
    pond.commit()
    inside = pond.mnt / ".pond/at/2/d"
    for args in (
        ["rm", "f"], ["rm", "*"], ["mv", "f", "g"], ["touch", "f"], ["mkdir", "x"],
        ["ln", "-s", "x", "y"], ["cp", "pond:f", "pond:g"],
        ["rm", str(inside / "f")], ["mv", str(pond.mnt / "d/f"), str(inside / "g")],
    ):  # fmt: skip
        done = run([command("pond"), *args], cwd=inside, check=False)
        assert (done.returncode, done.stdout) == (1, ""), args
        assert "no part of the tree" in done.stderr
    assert (pond.mnt / "d/f").read_text() == "f"
    # But it can be copied from.
    run([command("pond"), "cp", "pond:f", f"pond:{pond.mnt}/g"], cwd=inside)
    assert (pond.mnt / "g").read_text() == "f"


def test_standing_in_the_mount(pond: PondMount) -> None:
    pond.remount(OPTIONS)
    (pond.mnt / "d").mkdir()

    def say(*args: str) -> None:
        run([command("pond"), *args], cwd=pond.mnt / "d")

    say("mkdir", "x", "../y", str(pond.mnt / "z"))
    say("touch", "x/f", "../y/g")
    say("mv", "*/f", "../y/$0")
    assert sorted(snapshot.take(pond.mnt)) == [b"", b"d", b"d/x", b"y", b"y/g", b"y/x", b"z"]


def test_as_another_user(public: PondMount, say: Say) -> None:
    """The kernel says what that user may; a commit by message goes through the mount."""
    (public.mnt / "open").mkdir(mode=0o777)
    (public.mnt / "open").chmod(0o777)
    (public.mnt / "closed").mkdir(mode=0o755)
    (public.mnt / "closed/f").touch()
    public.commit()
    before = len(public.log())
    assert say("mkdir", "open/mine", "-m", "from alice")[0] == 0
    assert public.log()[0]["message"] == "from alice"
    assert (public.mnt / "open/mine").stat().st_uid != 0
    for args in (["rm", "closed/f"], ["touch", "closed/g"], ["mv", "closed/f", "open"]):
        code, _, err = say(*args)
        assert (code, "Permission denied" in err) == (2, True)
    code, _, err = say("cp", "pond:closed/f", "pond:open/f")
    assert (code, err) == (0, "pond: 1 of them had another owner: root keeps owners\n")
    assert len(public.log()) == before + 1
    code, out, err = say("status", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["version"] == public.log()[0]["version"]


def test_a_dead_daemon(pond: PondMount) -> None:
    pond.remount(OPTIONS)
    os.kill(pond.pid, 9)
    done = pond.pond("mkdir", "d", check=False)
    assert done.returncode == 7
    assert "daemon does not answer" in done.stderr


def test_a_daemon_that_dies_meanwhile(
    pond: PondMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is under way fails, with the exit code of a daemon that is gone."""
    from pondfs.api.mounted import MountedHandle

    pond.remount(OPTIONS)
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 32_768)
    write, daemons = MountedHandle.pwrite, [pond.pid]

    def kill_and_write(self: MountedHandle, data: bytes, offset: int) -> int:
        if offset and daemons:
            os.kill(daemons.pop(), 9)
        return write(self, data, offset)

    monkeypatch.setattr(MountedHandle, "pwrite", kill_and_write)
    code = run_verb(pond_command, "pond", ["--pond", str(pond.store), "cp", f"host:{source}", "x"])
    assert code == 7
    assert "daemon does not answer" in capsys.readouterr().err


def test_somebody_else_writes(pond: PondMount) -> None:
    """Mounted where we do not see it, say: the lock says so."""
    pond.umount()
    from pondfs.store import open_writer

    writer = open_writer(pond.store, mountpoint="", socket="")
    try:
        done = pond.pond("mkdir", "d", check=False)
    finally:
        writer.close()
    assert done.returncode == 5


def test_a_slash_behind_means_a_directory(bench: Bench, tmp_path: Path) -> None:
    """As in a shell: ``rm -r */`` spares files, and what is none is not taken for one."""
    bench.begin("d/f", "e/", "f")
    for args in (["rm", "f/"], ["rm", "-r", "f/"], ["cat", "f/"], ["cp", "f/", str(tmp_path)]):
        bench.refuse(*args, code=11, says="'f/' is no directory")
    for args in (["touch", "f/"], ["touch", "new/"], ["ln", "f", "new/"], ["mv", "f", "new/"]):
        bench.refuse(*args, says="is no directory")
    bench.refuse("cp", f"host:{__file__}/", "pond:/", code=11, says="is no directory")
    bench.refuse("rm", "f*/", code=11, says="nothing like '/f*/'")
    bench.do("rm", "-r", "*/")
    assert bench.names() == ["f"]


def test_what_to_do_about_a_missing_directory(bench: Bench) -> None:
    bench.begin("f")
    for args in (
        ["mkdir", "a b/c/d"],
        ["touch", "a b/c/d"],
        ["ln", "-s", "x", "a b/c/d"],
        ["mv", "f", "a b/c/d"],
        ["cp", "pond:f", "pond:a b/c/d"],
    ):
        bench.refuse(*args, code=11, says="pond mkdir -p '/a b/c' makes it")
    bench.do("ln", "-s", "nowhere", "dangling")
    bench.refuse("mkdir", "-p", "dangling/x", code=11, says="symlink that leads nowhere")
    bench.refuse("touch", "dangling/x", code=11, says="symlink that leads nowhere")
    bench.refuse("touch", "f/x", code=11, says="'/f' is no directory")


def test_becoming_itself(bench: Bench) -> None:
    bench.begin("d/f")
    bench.refuse("mv", "d/f", "d", says="'d/f' would become itself")
    bench.refuse("mv", "-f", "d/f", "./d/f", says="'d/f' would become itself")
    bench.refuse("cp", "-f", "pond:d/f", "pond:d/f", says="'d/f' would become itself")


# --- wildcards in the verbs that read ---


def test_wildcards_everywhere(bench: Bench) -> None:
    bench.begin("d/a.txt", "d/b.txt", "e/c.txt", "e/[x]")
    if not bench.is_mounted:
        bench.pond.mount(OPTIONS)
    (bench.pond.mnt / "d/a.txt").write_text("changed")
    (bench.pond.mnt / "e/c.txt").unlink()
    bench.ready()

    def out(*args: str) -> str:
        code, told, err = bench.say(*args)
        assert (code, err) == (0, ""), (args, err)
        return told

    assert out("cat", "*/?.txt") == "changed" + "d/b.txt"
    assert out("cat", "--at", "2", "**/*.txt") == "d/a.txtd/b.txte/c.txt"
    assert out("ls", "*/*.txt") == "d/a.txt\nd/b.txt\n"
    assert out("ls", "[de]") == "d:\na.txt\nb.txt\n\ne:\n[x]\n"
    assert out("ls", "e/[x]") == "e/[x]\n"
    assert len(json.loads(out("ls", "--json", "*/*"))) == 3
    assert out("diff", "2..3", "**/*.txt") == "M d/a.txt\nD e/c.txt\n"
    assert out("diff", "2..3", "e*") == "D e/c.txt\n"
    assert out("diff", "2..3", "e/[x]") == ""
    assert [one["version"] for one in json.loads(out("log", "--json", "d/*"))] == [3, 2]
    assert [one["version"] for one in json.loads(out("log", "--json", "*/b*"))] == [2]
    assert len(json.loads(out("history", "--json", "d/a*"))) == 2
    bench.refuse("history", "d/*", says="stands for 2 paths")
    for verb in (["cat"], ["ls"], ["history"], ["log"], ["restore", "--at", "2"]):
        bench.refuse(*verb, "d/x*", code=11)
    told = out("restore", "--at", "2", "*/?.txt")
    assert told.startswith("M d/a.txt\nA e/c.txt\n")
    assert bench.tree()["e/c.txt"].content == b"e/c.txt"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_back_what_is_half_done(
    pond_unmounted: PondMount, pond_env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    store = pond_unmounted.store
    env = {**pond_env, "POND": str(store)}
    harness.run([harness.command("pond"), "init", str(store)], env=env)
    source = tmp_path / "large"
    with source.open("wb") as file:
        for _ in range(500):
            file.write(bytes(1 << 20))
    before = set(store.glob("*.parquet"))
    copying = subprocess.Popen(
        [harness.command("pond"), "cp", f"host:{source}", "pond:/large"],
        env=env,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    harness.wait_until(lambda: set(store.glob("*.parquet")) != before, "something staged")
    copying.send_signal(number)
    assert copying.wait(60) == 128 + number
    told = harness.run([harness.command("pond"), "log", "--json"], env=env).stdout
    assert [info["version"] for info in json.loads(told)] == [1]
    # Nobody has the lock any more.
    harness.run([harness.command("pond"), "mkdir", "/d"], env=env)
