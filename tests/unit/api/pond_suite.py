"""What a `Pond` does, mounted or not: one suite, with the fixture ``tree`` from whoever runs it."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import IO, Any

import pytest

import pondfs
from pondfs import Pond

NAME = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8."""


class FileTests:
    def test_bytes_and_text_come_back(self, tree: Pond) -> None:
        assert tree.write_bytes("/a.bin", b"\0\xff") == 2
        assert tree.read_bytes("a.bin") == b"\0\xff"
        assert tree.write_text(PurePosixPath("/a.txt"), "grün\n") == 5
        assert tree.read_bytes("a.txt") == "grün\n".encode()
        assert tree.read_text(b"a.txt") == "grün\n"
        tree.write_text("a.txt", "kürzer", encoding="latin-1")
        assert tree.read_text("a.txt", "latin-1") == "kürzer"

    def test_names_are_bytes(self, tree: Pond) -> None:
        tree.write_bytes(b"caf\xe9", b"1")
        assert tree.listdir() == [NAME]
        assert list(tree.iterdir()) == [PurePosixPath("/", NAME)]
        assert tree.read_bytes(next(tree.glob("c?f*"))) == b"1"

    def test_modes_of_open(self, tree: Pond) -> None:
        with tree.open("f", "x") as file:
            assert isinstance(file, io.TextIOWrapper)
            file.write("one\n")
        with pytest.raises(FileExistsError) as found:
            tree.open("f", "x")
        assert found.value.filename == "/f"
        with tree.open("f", "a") as file:
            file.write("two\n")
        with tree.open("f") as file:
            assert list(file) == ["one\n", "two\n"]
        with tree.open("f", "r+b") as file:
            assert isinstance(file, io.BufferedRandom)
            file.seek(4)
            file.write(b"TWO")
            file.seek(0)
            assert file.read() == b"one\nTWO\n"
            file.truncate(3)
        assert tree.read_bytes("f") == b"one"
        with tree.open("f", "w") as file, pytest.raises(io.UnsupportedOperation):
            file.read()
        assert tree.read_bytes("f") == b""
        with pytest.raises(ValueError, match="invalid mode"):
            tree.open("f", "rw")
        with pytest.raises(ValueError, match="binary mode"):
            tree.open("f", "rb", encoding="utf-8")

    def test_append_goes_to_the_end_whatever_the_position(self, tree: Pond) -> None:
        tree.write_bytes("f", b"1234")
        with tree.open("f", "a+b", 0) as file:
            file.seek(0)
            file.write(b"5")
            file.seek(1)
            assert file.read() == b"2345"

    def test_unbuffered_and_seeking_beyond_the_end(self, tree: Pond) -> None:
        with tree.open("f", "w+b", buffering=0) as file:
            assert file.seek(10) == 10
            file.write(b"x")
            assert file.seek(-3, os.SEEK_END) == 8
            assert file.read() == b"\0\0x"
            assert file.tell() == 11
            with pytest.raises(OSError, match="Invalid"):
                file.seek(-1)
        with pytest.raises(ValueError, match="closed"):
            file.read()

    def test_lines_and_newlines(self, tree: Pond) -> None:
        tree.write_text("f", "a\nb\n", newline="\r\n")
        assert tree.read_bytes("f") == b"a\r\nb\r\n"
        assert tree.read_text("f") == "a\nb\n"
        with tree.open("f", newline="") as file:
            assert file.readline() == "a\r\n"

    def test_large_file_in_pieces(self, tree: Pond) -> None:
        data = os.urandom(5_000_000)
        with tree.open("big", "wb") as file:
            for start in range(0, len(data), 7919):
                file.write(data[start : start + 7919])
        assert tree.read_bytes("big") == data
        with tree.open("big", "rb") as file:
            file.seek(4_999_000)
            assert file.read(500) == data[4_999_000:4_999_500]

    def test_fsync_of_a_file_is_durable(self, tree: Pond) -> None:
        before = tree.version
        with tree.open("f", "wb", 0) as file:
            file.write(b"kept")
            file.fsync()  # type: ignore[attr-defined]
            assert tree.version > before


class LookingTests:
    def test_kinds(self, tree: Pond) -> None:
        tree.mkdir("d")
        tree.write_bytes("d/f", b"123")
        tree.symlink_to("l", "d/f")
        tree.symlink_to("nowhere", "nothing")
        tree.symlink_to("out", "/etc/passwd")
        tree.symlink_to("round", "round")
        assert tree.is_file("d/f")
        assert not tree.is_file("d")
        assert tree.is_file("l")
        assert tree.is_dir("d")
        assert tree.is_dir("/")
        assert not tree.is_dir("l")
        assert tree.is_symlink("l")
        assert not tree.is_symlink("d/f")
        assert tree.exists("l")
        assert not tree.exists("nope")
        assert not tree.exists("d/f/g")
        for broken in ("nowhere", "out", "round"):
            assert not tree.exists(broken)
            assert tree.exists(broken, follow_symlinks=False)
        with pytest.raises(OSError, match="out of the pond") as found:
            tree.read_bytes("out")
        assert found.value.errno == errno.EXDEV
        assert tree.readlink("out") == "/etc/passwd"
        with pytest.raises(OSError, match="Invalid argument"):
            tree.readlink("d")

    def test_stat(self, tree: Pond) -> None:
        tree.write_bytes("f", b"123")
        tree.chmod("f", 0o640)
        tree.utime("f", (10**18 + 1, 10**18 + 2))
        tree.hardlink_to("g", "f")
        tree.symlink_to("l", "f")
        found = tree.stat("l")
        assert (found.st_size, found.st_nlink, found.st_mode) == (3, 2, stat.S_IFREG | 0o640)
        assert (found.st_atime_ns, found.st_mtime_ns) == (10**18 + 1, 10**18 + 2)
        assert found.st_mtime == pytest.approx(10**9)
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
        assert found.st_ino == tree.stat("g").st_ino
        assert stat.S_ISLNK(tree.lstat("l").st_mode)
        assert tree.lstat("l").st_size == 1
        for missing in ("x", "f/x"):
            with pytest.raises((FileNotFoundError, NotADirectoryError)) as error:
                tree.stat(missing)
            assert error.value.filename == f"/{missing}"

    def test_listing(self, tree: Pond) -> None:
        for name in ("b", ".a", "c"):
            tree.touch(name)
        tree.mkdir("d/e", parents=True)
        tree.symlink_to("d/up", "..")
        assert tree.listdir() == [".a", "b", "c", "d"]
        assert tree.listdir("d/up/d") == ["e", "up"]
        with pytest.raises(NotADirectoryError):
            tree.listdir("b")
        with pytest.raises(FileNotFoundError):
            tree.iterdir("nope")

    def test_walk(self, tree: Pond) -> None:
        tree.mkdir("a/b/c", parents=True)
        tree.mkdir("a/x")
        tree.touch("a/f")
        tree.touch("a/b/g")
        tree.symlink_to("a/l", "b")
        down = [
            (PurePosixPath("/a"), ["b", "x"], ["f", "l"]),
            (PurePosixPath("/a/b"), ["c"], ["g"]),
            (PurePosixPath("/a/b/c"), [], []),
            (PurePosixPath("/a/x"), [], []),
        ]
        assert list(tree.walk("a")) == down
        up = list(tree.walk("a", top_down=False))
        assert sorted(up) == sorted(down)
        assert up.index(down[2]) < up.index(down[1]) < up.index(down[0])
        pruned = []
        for path, directories, _ in tree.walk("a"):
            directories[:] = [name for name in directories if name != "b"]
            pruned.append(path)
        assert pruned == [PurePosixPath("/a"), PurePosixPath("/a/x")]
        followed = {path for path, _, _ in tree.walk("a", follow_symlinks=True)}
        assert PurePosixPath("/a/l/c") in followed
        errors: list[OSError] = []
        assert list(tree.walk("nope", on_error=errors.append)) == []
        assert [error.errno for error in errors] == [errno.ENOENT]

    def test_glob(self, tree: Pond) -> None:
        tree.mkdir("a/b/c", parents=True)
        for name in ("a/1.csv", "a/2.csv", "a/b/3.csv", "a/b/c/4.csv", "a/.h.csv", "a/b/[x]"):
            tree.touch(name)
        tree.symlink_to("a/l", "b")

        def found(pattern: str, top: str = "/") -> list[str]:
            return [str(path) for path in tree.glob(pattern, top)]

        assert found("a/*.csv") == ["/a/.h.csv", "/a/1.csv", "/a/2.csv"]
        assert found("a/[12].csv") == ["/a/1.csv", "/a/2.csv"]
        assert found("?/?.csv") == ["/a/1.csv", "/a/2.csv"]
        assert found("*/l/*.csv") == ["/a/l/3.csv"]
        assert found("**/[3-4].csv") == ["/a/b/3.csv", "/a/b/c/4.csv"]
        assert found("**/c/**") == ["/a/b/c/4.csv"]
        assert found("**/b/**/*.csv") == ["/a/b/3.csv", "/a/b/c/4.csv"]
        assert found("[[]x]", "/a/b") == ["/a/b/[x]"]
        assert [str(p) for p in tree.rglob("4*", "a")] == ["/a/b/c/4.csv"]
        assert found("nope/*") == []
        assert len(found("**")) == len(set(found("**"))) == 10
        for wrong in ("", "/", "a/../*"):
            with pytest.raises(ValueError, match="unacceptable"):
                found(wrong)


class ChangingTests:
    def test_mkdir(self, tree: Pond) -> None:
        tree.mkdir("d", 0o700)
        assert stat.S_IMODE(tree.stat("d").st_mode) == 0o700
        with pytest.raises(FileExistsError):
            tree.mkdir("d")
        tree.mkdir("d", exist_ok=True)
        with pytest.raises(FileNotFoundError):
            tree.mkdir("x/y")
        tree.mkdir("x/y/z", parents=True)
        tree.mkdir("x/y/z", parents=True, exist_ok=True)
        tree.touch("f")
        with pytest.raises(FileExistsError):
            tree.mkdir("f", exist_ok=True)
        with pytest.raises(NotADirectoryError):
            tree.mkdir("f/g/h", parents=True)
        tree.mkdir("/", exist_ok=True)

    def test_removing(self, tree: Pond) -> None:
        tree.mkdir("d/e", parents=True)
        tree.touch("d/f")
        tree.symlink_to("l", "d")
        with pytest.raises(OSError, match="not empty"):
            tree.rmdir("d")
        with pytest.raises(NotADirectoryError):
            tree.rmtree("l")
        tree.rmtree("d")
        assert tree.listdir() == ["l"]
        tree.unlink("l")
        with pytest.raises(FileNotFoundError):
            tree.unlink("l")
        tree.unlink("l", missing_ok=True)
        with pytest.raises(FileNotFoundError):
            tree.rmtree("d")

    def test_rename(self, tree: Pond) -> None:
        tree.write_bytes("a", b"a")
        tree.write_bytes("b", b"b")
        assert tree.rename("a", "/c") == PurePosixPath("/c")
        assert tree.replace("c", "b") == PurePosixPath("/b")
        assert tree.listdir() == ["b"]
        assert tree.read_bytes("b") == b"a"
        with pytest.raises(FileNotFoundError) as found:
            tree.rename("a", "z")
        assert (found.value.filename, found.value.filename2) == ("/a", "/z")

    def test_copy(self, tree: Pond) -> None:
        tree.mkdir("d/e", parents=True)
        tree.write_bytes("d/e/f", b"data")
        tree.chmod("d/e/f", 0o640)
        tree.chmod("d/e", 0o500)
        tree.symlink_to("d/l", "e/f")
        tree.utime("d/e/f", (1, 2))
        assert tree.copy("d", "copy") == PurePosixPath("/copy")
        assert tree.read_bytes("copy/l") == b"data"
        assert tree.readlink("copy/l") == "e/f"
        assert stat.S_IMODE(tree.stat("copy/e").st_mode) == 0o500
        assert tree.stat("copy/e/f").st_mtime_ns != 2
        assert tree.stat("copy/e/f").st_ino != tree.stat("d/e/f").st_ino
        tree.copy("d/l", "kept", preserve_metadata=True)
        assert tree.is_file("kept", follow_symlinks=False)
        assert tree.stat("kept").st_mtime_ns == 2
        tree.copy("d/l", "link", follow_symlinks=False)
        assert tree.readlink("link") == "e/f"
        tree.write_bytes("kept", b"longer than before")
        tree.copy("d/e/f", "kept")
        assert tree.read_bytes("kept") == b"data"
        with pytest.raises(FileExistsError):
            tree.copy("d", "copy")
        with pytest.raises(OSError, match="into itself"):
            tree.copy("d", "d/e/d")
        tree.hardlink_to("same", "kept")
        with pytest.raises(OSError, match="same file"):
            tree.copy("kept", "same")
        assert tree.read_bytes("same") == b"data"

    def test_copy_keeps_holes(self, tree: Pond) -> None:
        with tree.open("sparse", "wb") as file:
            file.truncate(50_000_000)
            file.seek(30_000_000)
            file.write(b"island")
        tree.copy("sparse", "copy")
        found = tree.stat("copy")
        assert found.st_size == 50_000_000
        assert found.st_blocks * 512 < 5_000_000
        with tree.open("copy", "rb") as file:
            file.seek(30_000_000)
            assert file.read(7) == b"island\0"

    def test_touch(self, tree: Pond) -> None:
        tree.touch("f")
        tree.utime("f", (1, 1))
        tree.touch("f")
        assert tree.stat("f").st_mtime_ns > 10**18
        with pytest.raises(FileExistsError):
            tree.touch("f", exist_ok=False)

    def test_owner_and_attributes(self, tree: Pond) -> None:
        tree.touch("f")
        tree.symlink_to("l", "f")
        tree.chown("f", 5)
        tree.chown("l", gid=6, follow_symlinks=False)
        assert (tree.stat("f").st_uid, tree.stat("f").st_gid) == (5, os.getegid())
        assert (tree.lstat("l").st_uid, tree.lstat("l").st_gid) == (os.geteuid(), 6)
        tree.setxattr("l", "user.k", b"v")
        assert tree.xattrs("f") == {"user.k": b"v"}
        tree.removexattr("f", "user.k")
        assert tree.xattrs("f") == {}


class VersionTests:
    def test_commit_and_log(self, tree: Pond) -> None:
        assert tree.version == 1
        tree.write_bytes("f", b"1")
        assert tree.commit("first") == 2
        assert tree.commit("nothing") is None
        assert [(one.version, one.message) for one in tree.log()] == [(2, "first"), (1, "init")]
        assert [one.version for one in tree.log(1)] == [2]
        assert tree.version == 2
        assert tree.tags == {}

    def test_the_past(self, tree: Pond) -> None:
        tree.mkdir("d")
        tree.write_bytes("d/f", b"old")
        tree.symlink_to("l", "d/f")
        second = tree.commit()
        assert second is not None
        between = datetime.now(UTC) + timedelta(milliseconds=1)
        while datetime.now(UTC) <= between:
            pass
        tree.write_bytes("d/f", b"new!")
        tree.unlink("l")
        tree.commit()
        for when in (second, str(second), between):
            with tree.at(when) as old:
                assert old.version == second
                assert old.read_bytes("l") == b"old"
                assert old.listdir() == ["d", "l"]
                assert [str(path) for path in old.rglob("f")] == ["/d/f"]
                assert old.stat("l").st_size == 3
        with tree.at("latest") as newest:
            assert newest.read_text("d/f") == "new!"
        for wrong in (99, "99", "no-such-tag", datetime(2000, 1, 1, tzinfo=UTC)):
            with pytest.raises(pondfs.NoSuchVersion):
                tree.at(wrong)
        with pytest.raises(ValueError, match="time zone"):
            tree.at(datetime(2026, 1, 1))  # noqa: DTZ001

    def test_the_past_can_not_be_written(self, tree: Pond) -> None:
        tree.write_bytes("f", b"old")
        tree.commit()
        with tree.at("latest") as old:
            for change in (
                lambda: old.open("f", "r+"),
                lambda: old.open("new", "w"),
                lambda: old.write_bytes("f", b""),
                lambda: old.mkdir("d"),
                lambda: old.unlink("f"),
                lambda: old.rename("f", "g"),
                lambda: old.symlink_to("l", "f"),
                lambda: old.chmod("f", 0o600),
                lambda: old.touch("f"),
            ):
                with pytest.raises(OSError, match="can't be changed") as found:
                    change()
                assert found.value.errno == errno.EROFS
            with pytest.raises(FileNotFoundError):
                old.read_bytes("g")
            file = old.open("f", "rb")
        assert file.read() == b"old"  # what is open outlives the tree
        file.close()
        with pytest.raises(ValueError, match="closed"):
            old.listdir()

    def test_changes_and_history(self, tree: Pond) -> None:
        tree.write_bytes("f", b"1")
        tree.commit()
        tree.rename("f", "g")
        tree.write_bytes("new", b"")
        tree.commit()
        assert [(one.change, one.path) for one in tree.changes(2)] == [
            ("renamed", b"g"),
            ("added", b"new"),
        ]
        assert [one.path for one in tree.changes(1, 2, "/f")] == [b"f"]
        assert [one.what for one in tree.history("g")] == [("renamed",), ("created",)]
        with pytest.raises(pondfs.NoSuchPath):
            tree.history("nope")


class TransactionTests:
    def test_is_one_version(self, tree: Pond) -> None:
        before = tree.version
        with tree.transaction("all of it") as done:
            tree.mkdir("d")
            tree.write_bytes("d/f", b"1")
            assert tree.read_bytes("d/f") == b"1"
            with tree.open("d/open", "w") as file:
                file.write("closed with it")
        assert done.version == before + 1
        assert tree.log(1)[0].message == "all of it"
        assert tree.read_text("d/open") == "closed with it"
        with tree.at(done.version) as old:
            assert old.listdir("d") == ["f", "open"]

    def test_an_exception_leaves_nothing(self, tree: Pond) -> None:
        tree.write_bytes("kept", b"kept")
        tree.commit()
        before = tree.version
        left: list[IO[Any]] = []

        def fail() -> None:
            with tree.transaction("never"):
                tree.unlink("kept")
                tree.write_bytes("new", b"x" * 3_000_000)
                left.append(tree.open("left", "w"))
                left[0].write("open")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert left[0].closed
        assert tree.listdir() == ["kept"]
        tree.commit()
        assert tree.version == before
        tree.write_bytes("after", b"1")
        assert tree.read_bytes("after") == b"1"

    def test_that_changes_nothing_is_no_version(self, tree: Pond) -> None:
        before = tree.version
        with tree.transaction() as done:
            tree.listdir()
        assert done.version is None
        assert tree.version == before

    def test_can_not_be_nested_committed_or_closed_inside(self, tree: Pond) -> None:
        with tree.transaction() as outer:
            tree.write_bytes("f", b"1")
            with pytest.raises(pondfs.UsageError, match="open already"), tree.transaction():
                pass
            with pytest.raises(pondfs.UsageError, match="one version"):
                tree.commit()
            with pytest.raises(pondfs.UsageError, match="end it"):
                tree.close()
            assert tree.read_bytes("f") == b"1"
        assert outer.version is not None

    def test_waits_for_no_open_file(self, tree: Pond) -> None:
        with tree.open("f", "w") as file:
            with pytest.raises(pondfs.UsageError, match="close them"), tree.transaction():
                pass
            file.write("whole")
        assert tree.read_text("f") == "whole"

    def test_several_after_each_other(self, tree: Pond) -> None:
        numbers = []
        for number in range(3):
            with tree.transaction(str(number)) as done:
                tree.write_text("f", str(number))
            numbers.append(done.version)
        assert [one.message for one in tree.log(3)] == ["2", "1", "0"]
        assert numbers == [one.version for one in tree.log(3)][::-1]


class LifeTests:
    def test_read_only(self, tree: Pond) -> None:
        tree.write_bytes("f", b"1")
        tree.commit()
        with Pond(tree.store, "r") as reader:
            assert reader.read_bytes("f") == b"1"
            with pytest.raises(OSError, match="mode='r'") as found:
                reader.write_bytes("f", b"2")
            assert found.value.errno == errno.EROFS
            with pytest.raises(OSError, match="mode='r'"), reader.transaction():
                pass
            assert reader.at("latest").read_bytes("f") == b"1"

    def test_closing(self, tree: Pond) -> None:
        left = tree.open("f", "w")
        left.write("held back")
        tree.close()
        tree.close()
        assert tree.closed
        assert left.closed
        for use in (tree.listdir, lambda: tree.write_bytes("f", b"")):
            with pytest.raises(ValueError, match="closed"):
                use()
        with pondfs.open(tree.store) as again:
            assert again.read_text("f") == "held back"

    def test_threads(self, tree: Pond) -> None:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for at in range(20):
                    path = f"t{number}/{at}"
                    tree.mkdir(f"t{number}", exist_ok=True)
                    tree.write_text(path, path)
                    assert tree.read_text(path) == path
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert len(list(tree.rglob("*"))) == 4 + 80


class PondTests(FileTests, LookingTests, ChangingTests, VersionTests, TransactionTests, LifeTests):
    """All of it."""
