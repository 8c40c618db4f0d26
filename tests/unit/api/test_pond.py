"""A pond that is not mounted, from Python; and which pond `pondfs.open` opens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pondfs
from pondfs import Pond
from tests.unit.api.pond_suite import PondTests


@pytest.fixture
def store(tmp_path: Path) -> Path:
    pondfs.init(tmp_path / "pond")
    return tmp_path / "pond"


@pytest.fixture
def tree(store: Path) -> Iterator[Pond]:
    with pondfs.open(store) as pond:
        yield pond


class TestUnmounted(PondTests):
    def test_close_commits(self, store: Path) -> None:
        with pondfs.open(store) as pond:
            pond.write_bytes("f", b"1")
            assert pond.mountpoint is None
        with pondfs.open(store) as pond:
            assert pond.version == 2
            assert pond.read_bytes("f") == b"1"

    def test_an_exception_still_commits_what_was_done(self, store: Path) -> None:
        def fail() -> None:
            with pondfs.open(store) as pond:
                pond.write_bytes("f", b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with pondfs.open(store) as pond:
            assert pond.listdir() == ["f"]

    def test_reading_takes_no_lock_and_sees_what_others_commit(self, store: Path) -> None:
        with pondfs.open(store) as reader, pondfs.open(store) as writer:
            assert reader.listdir() == []
            for number in range(3):
                writer.write_bytes(f"f{number}", b"1")
                assert len(reader.listdir()) == number
                writer.commit()
                assert len(reader.listdir()) == number + 1
            file = reader.open("f0", "rb")
            writer.unlink("f0")
            writer.commit()
            assert not reader.exists("f0")
            assert file.read() == b"1"
            with pytest.raises(pondfs.PondLocked, match="in use"):
                reader.write_bytes("mine", b"")
        with pondfs.open(store) as again:
            again.write_bytes("mine", b"")

    def test_waits_for_the_lock(self, store: Path) -> None:
        code = (
            "import pondfs, sys, time\n"
            f"with pondfs.open({str(store)!r}) as pond:\n"
            "    pond.touch('theirs')\n"
            "    print('locked', flush=True)\n"
            "    sys.stdin.readline()\n"
            "    time.sleep(0.3)\n"  # so that who waits does, mostly
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(pondfs.PondLocked), pondfs.open(store) as pond:
                pond.touch("mine")
            other.stdin.close()
            with pondfs.open(store, lock_timeout_s=60) as pond:
                pond.touch("mine")
                assert pond.listdir() == ["mine", "theirs"]

    def test_pending_becomes_a_version_before_a_transaction(self, store: Path) -> None:
        def fail(pond: Pond) -> None:
            pond.write_bytes("inside", b"")
            raise ZeroDivisionError

        with pondfs.open(store) as pond:
            pond.write_bytes("before", b"")
            with pondfs.open(store) as other, pytest.raises(pondfs.PondLocked):
                other.touch("x")
            with pytest.raises(ZeroDivisionError), pond.transaction():
                fail(pond)
            assert pond.listdir() == ["before"]
            assert pond.version == 2
            with pondfs.open(store) as other:
                other.touch("free")  # the lock is

    def test_sql(self, tree: Pond) -> None:
        tree.write_bytes("a", b"123")
        tree.commit()
        tree.write_bytes("b", b"")
        names = "SELECT path, size FROM nodes WHERE file_type = 'file' ORDER BY path"
        assert tree.sql(names).to_pylist() == [{"path": "/a", "size": 3}]
        assert [row["path"] for row in tree.sql(names, pending=True).to_pylist()] == ["/a", "/b"]
        assert tree.sql(names, at=1).num_rows == 0
        with tree.at(2) as old:
            assert old.sql(names).num_rows == 1
        with pytest.raises(pondfs.UsageError):
            tree.sql("SELEKT")


def test_which_pond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pondfs.init(tmp_path / "one")
    pondfs.init(tmp_path / "two")
    monkeypatch.setenv("POND", str(tmp_path / "one"))
    assert pondfs.open().store == tmp_path / "one"
    assert pondfs.open(tmp_path / "two").store == tmp_path / "two"
    with pytest.raises(pondfs.NotAPond, match="nothing"):
        pondfs.open(tmp_path / "nothing")
    with pytest.raises(pondfs.PondExists):
        pondfs.init(tmp_path / "one")
    with pytest.raises(ValueError, match="mode"):
        pondfs.open(tmp_path / "one", "w")


def test_importing_is_cheap() -> None:
    code = "import pondfs, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {b"trio", b"pyarrow", b"pondfs.api", b"typing_extensions"} & set(loaded.split())
    code = "import pondfs, sys; pondfs.open; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {b"trio", b"pyarrow", b"fsspec"} & set(loaded.split())


def test_every_public_name_is_there() -> None:
    for name in pondfs.__all__:
        assert getattr(pondfs, name) is not None
        assert name in dir(pondfs)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pondfs.nonsense
