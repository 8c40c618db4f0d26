"""fsspec's own tests, and ours of what `PondFileSystem` adds: for a pond, mounted or not.

Whoever runs it gives the fixture ``pond_fs``.
"""

from __future__ import annotations

import os
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.tests.abstract import (  # type: ignore[import-untyped]
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from pondfs import Pond
from pondfs.api.fs import PondFileSystem


def live(fs: PondFileSystem) -> Pond:
    """Return the pond behind a filesystem that shows no old version."""
    assert isinstance(fs.pond, Pond)
    return fs.pond


class PondFixtures(AbstractFixtures):  # type: ignore[misc]
    @pytest.fixture
    def fs(self, pond_fs: PondFileSystem) -> PondFileSystem:
        return pond_fs

    @pytest.fixture
    def fs_join(self) -> object:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self, fs: PondFileSystem) -> str:
        fs.makedirs("/top/of tests")
        return "/top/of tests"


class FsspecTests(
    PondFixtures,
    AbstractCopyTests,  # type: ignore[misc]
    AbstractGetTests,  # type: ignore[misc]
    AbstractOpenTests,  # type: ignore[misc]
    AbstractPipeTests,  # type: ignore[misc]
    AbstractPutTests,  # type: ignore[misc]
):
    """The suite as it is."""


class OwnTests:
    def test_names(self, fs: PondFileSystem) -> None:
        strip = PondFileSystem._strip_protocol
        for name in ("pond:///a/b", "pond://a/b", "/a/b", "a/b/", "/a//b/", Path("/a/b")):
            assert strip(name) == "/a/b"
        assert strip("pond://") == strip("") == "/"
        assert fs.unstrip_protocol("/a/b") == "pond:///a/b"
        assert fs._parent("/a/b") == "/a"
        assert fs._parent("/a") == fs._parent("/") == "/"

    def test_info_and_listing(self, fs: PondFileSystem) -> None:
        fs.pipe_file("/d/f", b"123")
        fs.mkdir("/d/e")
        fs.symlink("f", "/d/l")
        fs.symlink("e", "/d/to_e")
        fs.symlink("nowhere", "/d/broken")
        fs.link("/d/f", "/d/same")
        found = fs.info("pond:///d/f")
        assert (found["name"], found["size"], found["type"]) == ("/d/f", 3, "file")
        assert found["nlink"] == 2
        assert fs.info("/d/l")["size"] == 3
        assert fs.info("/d/l")["islink"]
        assert fs.info("/d/to_e")["type"] == "directory"
        kinds = {one["name"]: one["type"] for one in fs.ls("/d")}
        assert kinds == {
            "/d/broken": "link",
            "/d/e": "directory",
            "/d/f": "file",
            "/d/l": "file",
            "/d/same": "file",
            "/d/to_e": "other",
        }
        assert fs.ls("/d", detail=False) == sorted(kinds)
        assert fs.ls("/d/f", detail=False) == ["/d/f"]
        assert fs.lexists("/d/broken")
        assert fs.islink("/d/broken")
        with pytest.raises(FileNotFoundError):
            fs.ls("/nope")
        assert (fs.modified("/d/f") - fs.created("/d/f")).total_seconds() <= 0
        assert fs.du("/d") == 9

    def test_a_file_appears_when_it_is_closed(self, fs: PondFileSystem) -> None:
        with fs.open("/f", "w") as file:
            file.write("text")
            file.flush()
            assert not fs.exists("/f")
        assert fs.cat("/f") == b"text"
        with fs.open("/f", "ab") as file:
            file.write(b" more")
            assert fs.size("/f") == 4
        with fs.open("/f", "r+b") as file:
            file.write(b"TEXT")
        assert fs.cat("/f") == b"TEXT more"
        assert fs.cat_file("/f", 2, 6) == b"XT m"
        with fs.open("/f") as file:
            file.seek(-4, 2)
            assert file.read() == b"more"

    def test_a_large_file(self, fs: PondFileSystem, tmp_path: Path) -> None:
        data = os.urandom(20_000_000)
        with fs.open("/f", "wb") as file:
            file.write(data)
        assert fs.cat("/f") == data
        fs.get("/f", str(tmp_path / "f"))
        assert (tmp_path / "f").read_bytes() == data

    def test_what_can_not_be_written_shows_at_once(self, fs: PondFileSystem) -> None:
        fs.auto_mkdir = False
        fs.mkdir("/d")
        fs.touch("/f")
        for path, error in (
            ("/no/f", FileNotFoundError),
            ("/d", IsADirectoryError),
            ("/f/f", NotADirectoryError),
        ):
            with pytest.raises(error):
                fs.open(path, "wb")
        with pytest.raises(ValueError, match="not supported"):
            fs.open("/f", "a+b")

    def test_removing(self, fs: PondFileSystem) -> None:
        fs.pipe({f"/d/{name}": b"" for name in ("a.csv", "b.csv", "c", "e/f")})
        fs.rm("/d/*.csv")
        assert fs.find("/d") == ["/d/c", "/d/e/f"]
        with pytest.raises(IsADirectoryError, match="recursive"):
            fs.rm("/d")
        with pytest.raises(FileNotFoundError):
            fs.rm("/nope")
        fs.rm(["/d/c"])
        fs.rm("/d", recursive=True)
        assert fs.ls("/") == []

    def test_moving(self, fs: PondFileSystem) -> None:
        fs.pipe_file("/a", b"1")
        inode = fs.info("/a")["ino"]
        fs.mv("/a", "/b")
        fs.mkdir("/d")
        fs.mv("/b", "/d")
        assert fs.info("/d/b")["ino"] == inode
        fs.mv("/d", "/e", recursive=True)
        fs.mv("/e/*", "/new/")
        assert fs.find("/") == ["/new/b"]

    def test_touch(self, fs: PondFileSystem) -> None:
        fs.pipe_file("/f", b"1")
        fs.touch("/f", truncate=False)
        assert fs.size("/f") == 1
        fs.touch("/f")
        assert fs.size("/f") == 0

    def test_transaction(self, fs: PondFileSystem) -> None:
        fs.pipe_file("/kept", b"1")
        fs.commit()
        before = live(fs).version
        with fs.transaction:
            fs.pipe_file("/a", b"1")
            with fs.open("/b", "wb") as file:
                file.write(b"2")
            left = fs.open("/c", "wb")
            left.write(b"3")
            fs.rm("/kept")
        fs.commit()
        assert live(fs).version == before + 1
        assert fs.cat(["/a", "/b", "/c"]) == {"/a": b"1", "/b": b"2", "/c": b"3"}
        assert fs.find("/") == ["/a", "/b", "/c"]

        def fail() -> None:
            with fs.transaction:
                fs.rm("/a")
                fs.open("/d", "wb").write(b"4")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert fs.find("/") == ["/a", "/b", "/c"]
        assert live(fs).version == before + 1
        fs.pipe_file("/after", b"")
        assert fs.exists("/after")

    def test_an_old_version(self, fs: PondFileSystem) -> None:
        fs.pipe_file("/f", b"old")
        fs.commit()
        at = live(fs).version
        fs.pipe_file("/f", b"newer")
        old = fsspec.filesystem("pond", store=str(live(fs).store), at=at)
        assert old.cat("/f") == b"old"
        assert old.find("/") == ["/f"]
        for change, *args in ((old.open, "/f", "wb"), (old.rm, "/f"), (old.touch, "/g")):
            with pytest.raises(OSError, match="can't be changed"):
                change(*args)

    def test_travels_as_json(self, fs: PondFileSystem) -> None:
        fs.pipe_file("/f", b"1")
        assert PondFileSystem.from_json(fs.to_json()).cat("/f") == b"1"


class PondFileSystemTests(FsspecTests, OwnTests):
    """All of it."""
