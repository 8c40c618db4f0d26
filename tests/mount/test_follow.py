"""`-o ro,follow`: a reader that keeps up with a writer in another process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MakePond
from tests.mount.harness import PondMount, require, run, wait_until
from tests.mount.place import errno_of
from tests.mount.test_past import same_tree
from tests.mount.test_programs import GIT_ENV

WAIT_S = 10.0
"""Ten times what is promised."""


def soon(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, what, WAIT_S)


class Pair:
    """A writer's mount and a follower's."""

    def __init__(self, writer: PondMount, follower: PondMount) -> None:
        self.writer = writer
        self.follower = follower
        self.w = writer.mnt
        self.r = follower.mnt

    def change(self, what: str, change: Callable[[], object], seen: Callable[[], object]) -> None:
        """Change something, commit, and wait until the follower shows it."""
        assert not seen(), f"{what}: seen before it was done"
        change()
        self.writer.commit(what)
        soon(seen, what)

    def caught_up(self) -> None:
        """Commit and wait until the follower shows that version."""
        self.writer.commit()
        newest = self.writer.log()[0]["version"]
        text = self.r / ".pond/status"
        soon(lambda: f'"version": {newest},' in text.read_text(), f"version {newest}")


@pytest.fixture
def pair(make_pond: MakePond) -> Iterator[Pair]:
    writer = make_pond("pond").mount("commit=3600")
    follower = make_pond("follower", store=writer.store)
    follower.mount("ro", "follow")
    yield Pair(writer, follower)
    writer.umount()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_that_can_happen_to_a_name(pair: Pair) -> None:
    """With the names, attributes and bytes of before in the kernel's caches."""
    w, r = pair.w, pair.r
    assert os.listdir(r) == []
    assert errno_of(os.stat, r / "a") == "ENOENT"  # and now the kernel remembers that
    pair.change("create", lambda: (w / "a").write_bytes(b"one"), (r / "a").exists)
    assert os.listdir(r) == ["a"]
    assert (r / "a").read_bytes() == b"one"
    pair.change(
        "overwrite, same size",
        lambda: (w / "a").write_bytes(b"two"),
        lambda: (r / "a").read_bytes() == b"two",
    )
    with open(w / "a", "ab", buffering=0) as file:
        pair.change(
            "append",
            lambda: file.write(b" and more"),
            lambda: (r / "a").read_bytes() == b"two and more",
        )
    pair.change("truncate", lambda: os.truncate(w / "a", 1), lambda: (r / "a").stat().st_size == 1)
    assert (r / "a").read_bytes() == b"t"
    pair.change("chmod", lambda: (w / "a").chmod(0o640), lambda: mode_of(r / "a") == 0o640)
    pair.change("chown", lambda: os.chown(w / "a", 5, 6), lambda: (r / "a").stat().st_uid == 5)
    pair.change("utime", lambda: os.utime(w / "a", (1, 2)), lambda: (r / "a").stat().st_mtime == 2)
    pair.change("link", lambda: os.link(w / "a", w / "b"), (r / "b").exists)
    assert (r / "a").stat().st_nlink == 2
    assert (r / "a").stat().st_ino == (r / "b").stat().st_ino
    pair.change("unlink", (w / "a").unlink, lambda: not (r / "a").exists())
    assert (r / "b").stat().st_nlink == 1
    pair.change("symlink", lambda: (w / "soft").symlink_to("b"), (r / "soft").is_symlink)
    assert (r / "soft").read_bytes() == b"t"
    pair.change("mkdir", lambda: (w / "d").mkdir(), (r / "d").is_dir)
    assert r.stat().st_nlink == 3
    pair.change("rename", lambda: (w / "b").rename(w / "d/c"), (r / "d/c").exists)
    assert sorted(os.listdir(r)) == ["d", "soft"]
    assert not (r / "soft").exists()
    (w / "new").write_bytes(b"replacement")
    pair.change(
        "rename over",
        lambda: (w / "new").rename(w / "d/c"),
        lambda: (r / "d/c").read_bytes() == b"replacement",
    )
    pair.change("rename of a directory", lambda: (w / "d").rename(w / "e"), (r / "e/c").exists)
    assert errno_of(os.stat, r / "d") == "ENOENT"
    (w / "e/c").unlink()
    pair.change("rmdir", (w / "e").rmdir, lambda: not (r / "e").exists())
    assert os.listdir(r) == ["soft"]
    (w / "soft").unlink()
    pair.change("a directory where a link was", lambda: (w / "soft").mkdir(), (r / "soft").is_dir)
    assert errno_of((r / "x").touch) == "EROFS"
    same_tree(w, r)


def test_what_is_open_stays_what_it_is(pair: Pair) -> None:
    """An open file shows its new bytes; one that was removed or replaced keeps its own."""
    w, r = pair.w, pair.r
    (w / "log").write_bytes(b"line 1\n")
    (w / "gone").write_bytes(b"removed, but open")
    (w / "old").write_bytes(b"replaced, but open")
    (w / "dir").mkdir()
    pair.caught_up()
    with (
        open(r / "log", "rb", buffering=0) as log,
        open(r / "gone", "rb", buffering=0) as gone,
        open(r / "old", "rb", buffering=0) as old,
    ):
        assert log.read() == b"line 1\n"
        here = os.open(r / "dir", os.O_RDONLY)
        (w / "new").write_bytes(b"the replacement")
        (w / "new").rename(w / "old")
        (w / "gone").unlink()
        (w / "dir").rmdir()
        with open(w / "log", "ab") as file:
            file.write(b"line 2\n")
        pair.caught_up()
        soon(lambda: log.read() == b"line 2\n", "the appended line")
        soon(lambda: not (r / "gone").exists(), "the file's name gone")
        assert gone.read() == b"removed, but open"
        assert os.fstat(gone.fileno()).st_nlink == 0
        assert old.read() == b"replaced, but open"
        assert (r / "old").read_bytes() == b"the replacement"
        assert os.listdir(here) == []
        os.close(here)


def test_tail_f(pair: Pair) -> None:
    (pair.w / "log").write_bytes(b"0\n")
    pair.caught_up()
    command = [require("tail"), "-n", "+1", "-s", "0.05", "-F", str(pair.r / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
        try:
            assert tail.stdout is not None
            for number in range(1, 10):
                assert tail.stdout.readline() == b"%d\n" % (number - 1)
                with open(pair.w / "log", "ab") as file:
                    file.write(b"%d\n" % number)
                pair.writer.commit()
        finally:
            tail.kill()


def test_a_git_repository_is_whole_at_every_version(pair: Pair) -> None:
    """Each commit of ours comes after one of git's, so git finds nothing half done."""
    work = pair.w / "work"

    def git(*args: str, at: Path = work) -> str:
        return run([require("git"), *args], cwd=at, env=GIT_ENV).stdout

    run([require("git"), "init", "-q", work], env=GIT_ENV)
    read = [
        "--no-optional-locks", "-c", f"safe.directory={pair.r / 'work'}",
    ]  # fmt: skip
    for number in range(6):
        (work / f"file{number}").write_text(f"{number}\n" * 2000)
        (work / "common").write_text("\n".join(str(n) for n in range(number, 500)))
        git("add", "-A")
        git("commit", "-q", "-m", f"commit {number}")
        if number == 4:
            git("gc", "-q")
        head = git("rev-parse", "HEAD")
        pair.caught_up()
        soon(lambda: git(*read, "rev-parse", "HEAD", at=pair.r / "work") == head, "HEAD")  # noqa: B023  # called at once
        assert git(*read, "log", "--oneline", at=pair.r / "work").count("\n") == number + 1
        git(*read, "fsck", "--full", at=pair.r / "work")
        assert git(*read, "status", "--porcelain", at=pair.r / "work") == ""


def test_a_database_is_read_while_it_is_written(pair: Pair) -> None:
    """SQLite in its rollback mode: every transaction that a version holds is seen whole."""
    with contextlib.closing(sqlite3.connect(pair.w / "db")) as writing:
        writing.execute("create table t (n integer, filler text)")
        for number in range(8):
            writing.executemany(
                "insert into t values (?, ?)", [(number, "x" * 500) for _ in range(200)]
            )
            writing.commit()
            pair.caught_up()
            reading = sqlite3.connect(f"file:{pair.r}/db?mode=ro", uri=True)

            def rows(reading: sqlite3.Connection = reading) -> int:
                found: int = reading.execute("select count(*) from t").fetchone()[0]
                return found

            soon(lambda: rows() == (number + 1) * 200, "the new rows")  # noqa: B023  # at once
            assert reading.execute("pragma integrity_check").fetchone() == ("ok",)
            reading.close()


def test_the_writer_comes_and_goes(make_pond: MakePond) -> None:
    """The follower is there first, and stays while the writer is unmounted, mounted, killed."""
    writer = make_pond("pond").mount()
    (writer.mnt / "file").write_bytes(b"0")
    writer.umount()
    follower = make_pond("follower", store=writer.store).mount("ro", "follow")
    assert (follower.mnt / "file").read_bytes() == b"0"
    for number in (1, 2, 3):
        writer.mount("commit=3600")
        (writer.mnt / "file").write_bytes(b"%d" % number)
        if number == 2:
            writer.commit()
            (writer.mnt / "file").write_bytes(b"never committed")
            writer.kill()
        else:
            writer.umount()
        soon(lambda: (follower.mnt / "file").read_bytes() == b"%d" % number, "the byte")  # noqa: B023  # called at once
    versions = sorted(int(name) for name in os.listdir(follower.mnt / ".pond/versions"))
    assert versions == sorted(info["version"] for info in writer.log())
    assert (follower.mnt / ".pond/versions" / str(versions[-2]) / "file").read_bytes() == b"2"


def test_files_are_exchanged_under_it(pair: Pair) -> None:
    """Another engine compacts the table, and takes the old files away: nobody notices."""
    w, r = pair.w, pair.r
    for number in range(12):
        (w / f"file{number}").write_bytes(b"%d" % number * 3000)
        pair.writer.commit()
    pair.caught_up()
    assert (r / "file3").read_bytes() == b"3" * 3000
    pair.writer.umount()
    script = (
        "import sys, os, deltalake\n"
        "table = deltalake.DeltaTable(sys.argv[1])\n"
        "before = set(table.file_uris())\n"
        "table.optimize.compact()\n"
        "for uri in before - set(deltalake.DeltaTable(sys.argv[1]).file_uris()):\n"
        "    os.unlink(uri.removeprefix('file://'))\n"
    )
    run([sys.executable, "-c", script, pair.writer.store])
    for number in range(12):
        assert (r / f"file{number}").read_bytes() == b"%d" % number * 3000
    pair.writer.mount("commit=3600")
    pair.change("append", lambda: (w / "file3").write_bytes(b"x"),
                lambda: (r / "file3").read_bytes() == b"x")  # fmt: skip
    same_tree(w, r)


def test_a_prune_while_it_follows(pair: Pair) -> None:
    """The old data files go although it is mounted, and it reads on from the new ones."""
    w, r = pair.w, pair.r
    for number in range(12):
        (w / f"file{number}").write_bytes(b"%d" % number * 3000)
        (w / "again").write_bytes(b"%d" % number * 5000)
        pair.writer.commit()
    pair.caught_up()
    before = set(pair.writer.store.glob("*.parquet"))
    with open(r / "file3", "rb", buffering=0) as file:
        assert file.read(10) == b"3" * 10
        pair.writer.umount()
        pair.writer.pond("prune", "--keep-last", "2")
        gone = before - set(pair.writer.store.glob("*.parquet"))
        assert len(gone) > 5
        for number in range(12):
            assert (r / f"file{number}").read_bytes() == b"%d" % number * 3000
        assert (r / "again").read_bytes() == b"11" * 5000
        assert file.read() == b"3" * 2990
    pair.writer.mount("commit=3600")
    kept = sorted(str(info["version"]) for info in pair.writer.log())
    soon(lambda: sorted(os.listdir(r / ".pond/versions")) == kept, "the kept versions alone")
    same_tree(w, r)
    same_tree(w, r / ".pond/versions" / kept[-1])
    pair.change("append", lambda: (w / "file3").write_bytes(b"x"),
                lambda: (r / "file3").read_bytes() == b"x")  # fmt: skip
    same_tree(w, r)


def test_follow_needs_ro_and_no_version(pond: PondMount, tmp_path: Path) -> None:
    """One line that says what to do; nothing is mounted."""
    other = tmp_path / "other"
    other.mkdir()
    for options, says in (
        ("follow", "-o ro"),
        ("ro,follow,version=1", "version="),
        ("ro,follow,at=latest", "at="),
    ):
        done = pond.run("mount.pond", str(pond.store), str(other), "-o", options, check=False)
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
