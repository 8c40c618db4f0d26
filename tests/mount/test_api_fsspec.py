"""``pond://`` over a mounted pond."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pondfs.api.fs import PondFileSystem
from tests.mount import harness
from tests.mount.harness import PondMount
from tests.unit.api.fsspec_suite import PondFileSystemTests
from tests.unit.api.readers_suite import Options, ReaderTests


@pytest.fixture(scope="module")
def mounted(
    tmp_path_factory: pytest.TempPathFactory, pond_env: dict[str, str]
) -> Iterator[PondMount]:
    """One mount for all: each test leaves the tree empty."""
    base = tmp_path_factory.mktemp("fsspec")
    pond = harness.make_pond(base / "pond", base / "mnt", pond_env)
    # No timed commits: a test that counts versions makes its own.
    yield pond.mount("commit=3600")
    pond.close()


@pytest.fixture
def options(mounted: PondMount) -> Options:
    return {"store": str(mounted.mnt)}


@pytest.fixture
def pond_fs(options: Options) -> Iterator[PondFileSystem]:
    fs = PondFileSystem(auto_mkdir=True, **options)
    fs.auto_mkdir = True
    yield fs
    for name in fs.ls("/", detail=False):
        fs.rm(name, recursive=True)


class TestMounted(PondFileSystemTests, ReaderTests):
    def test_goes_through_the_mount(self, pond_fs: PondFileSystem, mounted: PondMount) -> None:
        pond_fs.pipe_file("/f", b"1")
        assert (mounted.mnt / "f").read_bytes() == b"1"
        by_store = PondFileSystem(str(mounted.store))
        assert by_store.cat("/f") == b"1"
        (mounted.mnt / "f").write_bytes(b"12")
        assert by_store.size("/f") == 2

    def test_a_cached_instance_does_not_keep_the_mount_busy(
        self, mounted: PondMount, pond_fs: PondFileSystem
    ) -> None:
        pond_fs.pipe_file("/f", b"1")
        with pond_fs.open("/f", "rb") as file:
            assert file.read() == b"1"
        with pond_fs.transaction:
            pond_fs.pipe_file("/g", b"2")
        by_store = PondFileSystem(str(mounted.store))
        assert by_store.find("/") == ["/f", "/g"]
        mounted.umount()
        assert by_store.find("/") == ["/f", "/g"]
        by_store.pipe_file("/unmounted", b"3")
        mounted.mount("commit=3600")
        assert by_store.find("/") == ["/f", "/g", "/unmounted"]
        assert (mounted.mnt / "unmounted").read_bytes() == b"3"
