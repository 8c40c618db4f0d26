"""A mounted pond from Python: what is done goes through the mount."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pondfs
from pondfs import Pond
from tests.conftest import MakePond
from tests.mount.harness import PondMount
from tests.unit.api.pond_suite import PondTests


@pytest.fixture
def mounted(pond_unmounted: PondMount) -> PondMount:
    # No timed commits: a test that counts versions makes its own.
    return pond_unmounted.mount("commit=3600", "xattr")


@pytest.fixture
def tree(mounted: PondMount) -> Iterator[Pond]:
    with pondfs.open(mounted.mnt) as pond:
        yield pond


class TestMounted(PondTests):
    def test_is_found_by_its_store_as_well(self, mounted: PondMount) -> None:
        with pondfs.open(mounted.store) as pond:
            assert pond.mountpoint is not None
            assert Path(pond.mountpoint) == mounted.mnt
            pond.write_bytes("f", b"1")
            assert (mounted.mnt / "f").read_bytes() == b"1"
            (mounted.mnt / "g").write_bytes(b"2")
            assert pond.read_bytes("g") == b"2"

    def test_closing_commits_nothing(self, mounted: PondMount) -> None:
        with pondfs.open(mounted.mnt) as pond:
            pond.write_bytes("f", b"1")
        assert mounted.status()["version"] == 1
        assert mounted.status()["pending_nodes"] > 0

    def test_an_absolute_link_into_the_mount_is_followed(
        self, tree: Pond, mounted: PondMount
    ) -> None:
        tree.write_bytes("f", b"1")
        tree.symlink_to("l", mounted.mnt / "f")
        assert tree.stat("l").st_size == 1
        assert tree.read_bytes("l") == b"1"

    def test_the_past_is_no_part_of_it(self, tree: Pond) -> None:
        assert not tree.exists(".pond")
        assert tree.listdir() == []

    def test_a_transaction_is_seen_by_nobody_before_its_end(
        self, tree: Pond, mounted: PondMount
    ) -> None:
        tree.write_bytes("before", b"")
        with tree.transaction("t"):
            tree.write_bytes("inside", b"1")
            assert os.listdir(mounted.mnt) == ["before"]
            (mounted.mnt / "outside").touch()
        assert sorted(os.listdir(mounted.mnt)) == ["before", "inside", "outside"]

    def test_sql_with_what_is_pending(self, tree: Pond) -> None:
        names = "SELECT path FROM nodes WHERE file_type = 'file' ORDER BY path"
        tree.write_bytes("a", b"123")
        tree.commit()
        tree.write_text("b.csv", "x\n7\n")
        assert tree.sql(names).column("path").to_pylist() == ["/a"]
        assert tree.sql(names, pending=True).column("path").to_pylist() == ["/a", "/b.csv"]
        found = tree.sql("SELECT x FROM '/b.csv'", pending=True)
        assert found.column("x").to_pylist() == [7]

    def test_goes_on_after_an_unmount_from_the_store(self, mounted: PondMount) -> None:
        with pondfs.open(mounted.store) as pond:
            with pond._burst():  # as fsspec does: let go after each call
                pond.write_bytes("f", b"1")
            mounted.umount()
            assert pond.read_bytes("f") == b"1"
            assert pond.mountpoint is None
            mounted.mount("commit=3600")
            (mounted.mnt / "pending").touch()
            assert pond.listdir() == ["f", "pending"]


def test_a_read_only_mount_of_the_past_is_what_was_named(pond: PondMount) -> None:
    (pond.mnt / "f").write_text("old")
    pond.commit()
    (pond.mnt / "f").write_text("new")
    pond.remount("ro", "at=2")
    with pondfs.open(pond.mnt) as old:
        assert old.read_text("f") == "old"
        with pytest.raises(OSError, match="Read-only"):
            old.write_text("f", "x")
    with pondfs.open(pond.store) as live:
        assert live.read_text("f") == "new"
        live.write_text("f", "newer")


@contextmanager
def acting_as_stranger() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody can get to: pytest's are private."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)


def test_who_may_not_read_the_store_asks_through_the_mount(
    open_place: Path, make_pond: MakePond
) -> None:
    mounted = make_pond(mnt=open_place / "mnt").mount("commit=3600", "allow_other")
    mounted.store.chmod(0o700)
    (mounted.mnt / "public").write_text("1")
    mounted.commit()
    with pondfs.open(mounted.mnt) as pond:
        # Imports what it needs: the stranger may not be able to read where Python is.
        pond.at(1).close()
        pond.sql("SELECT 1")
        pond.changes(1)
        pond.history("public")
        with pond.transaction():
            pass
    with acting_as_stranger(), pondfs.open(mounted.mnt) as pond:
        assert pond.read_text("/public") == "1"
        assert [one.version for one in pond.log()] == [2, 1]
        assert [one.path for one in pond.changes(1, "latest")] == [b"public"]
        assert [one.what for one in pond.history("/public")] == [("created",)]
        assert pond.tags == {}
        assert pond.version == 2
        with pytest.raises(pondfs.NotPermitted, match="not readable"):
            pond.at(1)
        with pytest.raises(pondfs.NotPermitted, match="owner and root"):
            pond.sql("SELECT 1")
        with pytest.raises((pondfs.NotPermitted, PermissionError)), pond.transaction():
            pass
        with pytest.raises(PermissionError):
            pond.write_text("/new", "x")
