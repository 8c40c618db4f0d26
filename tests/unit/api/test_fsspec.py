"""``pond://`` over a pond that is not mounted."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

import pondfs
from pondfs.api.fs import PondFileSystem
from tests.unit.api.fsspec_suite import PondFileSystemTests, live


@pytest.fixture
def store(tmp_path: Path) -> Path:
    pondfs.init(tmp_path / "pond")
    return tmp_path / "pond"


@pytest.fixture
def pond_fs(store: Path) -> PondFileSystem:
    return PondFileSystem(str(store), auto_mkdir=True)


class TestUnmounted(PondFileSystemTests):
    def test_each_call_is_a_version(self, fs: PondFileSystem, tmp_path: Path) -> None:
        fs.pipe({f"/a/{number}": b"1" for number in range(5)})
        with fs.open("/f", "w") as file:
            file.write("1")
        fs.rm("/a", recursive=True)
        (tmp_path / "tree").mkdir()
        for name in "xyz":
            (tmp_path / "tree" / name).touch()
        fs.put(str(tmp_path / "tree"), "/tree", recursive=True)
        messages = [one.message for one in live(fs).log()][::-1]
        assert messages == ["init", "fsspec: pipe", "fsspec: write /f", "fsspec: rm", "fsspec: put"]

    def test_a_call_that_fails_does_nothing(self, fs: PondFileSystem) -> None:
        fs.pipe({"/a": b"1", "/b": b"2"})
        with pytest.raises(FileNotFoundError):
            fs.rm(["/a", "/b", "/c"])
        assert fs.find("/") == ["/a", "/b"]
        assert live(fs).version == 2

    def test_holds_no_lock_between_calls(self, fs: PondFileSystem, store: Path) -> None:
        fs.pipe_file("/a", b"1")
        with pondfs.open(store) as other:
            other.touch("b")
        assert fs.find("/") == ["/a", "/b"]

    def test_leaves_alone_what_the_pond_behind_it_has_pending(
        self, fs: PondFileSystem, store: Path
    ) -> None:
        live(fs).touch("/mine")
        with pytest.raises(FileNotFoundError):
            fs.rm("/nope")
        fs.touch("/b")
        assert fs.find("/") == ["/b", "/mine"]
        assert live(fs).version == 1
        with pondfs.open(store) as other, pytest.raises(pondfs.PondLocked):
            other.touch("c")
        assert fs.commit("both") == 2
        live(fs).close()

    def test_says_who_has_the_lock(self, store: Path) -> None:
        impatient = PondFileSystem(str(store), lock_timeout_s=0.1)
        with pondfs.open(store) as other:
            other.touch("b")
            assert impatient.ls("/") == []
            with pytest.raises(pondfs.PondLocked, match="in use"):
                impatient.pipe_file("/a", b"1")

    def test_threads_and_processes_take_turns(self, store: Path) -> None:
        context = multiprocessing.get_context("spawn")
        others: list[threading.Thread | BaseProcess] = [
            *(threading.Thread(target=_write, args=(store, f"t{n}")) for n in range(3)),
            *(context.Process(target=_write, args=(store, f"p{n}")) for n in range(2)),
        ]
        for other in others:
            other.start()
        for other in others:
            other.join(60)
        with pondfs.open(store, "r") as pond:
            assert len(pond.listdir()) == 50


def _write(store: Path, name: str) -> None:
    fs = fsspec.filesystem("pond", store=str(store), lock_timeout_s=60)
    for number in range(10):
        fs.pipe_file(f"/{name}.{number}", name.encode())


def test_is_registered_and_cached(store: Path) -> None:
    fs, path = fsspec.url_to_fs("pond:///a/b.csv", store=str(store))
    assert isinstance(fs, PondFileSystem)
    assert path == "/a/b.csv"
    assert fsspec.filesystem("pond", store=str(store)) is fs
    assert fsspec.filesystem("pond", pond=str(store)).ls("/") == []


def test_finds_the_pond_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        pondfs.init(tmp_path / name)
        monkeypatch.setenv("POND", str(tmp_path / name))
        with fsspec.open("pond:///name", "w") as file:
            file.write(name)
    with fsspec.open("pond:///name", "r") as file:
        assert file.read() == "two"
    monkeypatch.setenv("POND", str(tmp_path / "one"))
    with fsspec.open("pond:///name", "r") as file:
        assert file.read() == "one"
