"""What must not hang, lose data or spoil a pond, whatever a program does with its API."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import pondfs
from pondfs import Pond
from pondfs.api.unmounted import UnmountedBackend


@pytest.fixture
def store(tmp_path: Path) -> Path:
    pondfs.init(tmp_path / "pond")
    return tmp_path / "pond"


@pytest.fixture
def tree(store: Path) -> Iterator[Pond]:
    with pondfs.open(store) as pond:
        yield pond


def run(script: str, store: Path) -> str:
    """Run a program and return what it says."""
    lines = f"import os, sys, time, pondfs\nstore = {os.fspath(store)!r}\n{script}"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", lines],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout + done.stderr


def truncate(pond: Pond, size: Any) -> None:
    """Set the size of a file."""
    with pond.open("f", "r+b") as file:
        file.truncate(size)


class _Circle:
    """Holds on to itself, so that only a garbage collection frees it."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.me = self


def in_loop(pond: Pond) -> None:
    """Collect garbage in the pond's own thread."""
    live = pond._live
    assert isinstance(live, UnmountedBackend)
    with pond._lock:
        live._thread.call(gc.collect)


def in_worker(pond: Pond) -> None:
    """Collect garbage in a thread that the pond's own waits for, and we for that."""
    live = pond._live
    assert isinstance(live, UnmountedBackend)
    with pond._lock:
        live._thread.wait(lambda: trio.to_thread.run_sync(gc.collect))


@pytest.mark.parametrize("collect", [in_loop, in_worker, lambda _: gc.collect()])
@pytest.mark.parametrize("mode", ["w", "wb", "w+b"])
def test_a_forgotten_file_is_closed_wherever_it_is_collected(
    tree: Pond, collect: Callable[[Pond], None], mode: str
) -> None:
    tree.touch("r")
    gc.collect()
    gc.disable()
    try:
        file = tree.open("f", mode)
        file.write("held back" if mode == "w" else b"held back")
        _Circle([file, tree.open("r", "rb")])
        del file
        with pytest.warns(ResourceWarning, match="unclosed file"):
            collect(tree)
    finally:
        gc.enable()
    deadline = time.monotonic() + 60
    while tree.read_bytes("f") != b"held back":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_pond_may_be_collected_in_its_own_thread(store: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        pond = pondfs.open(store)
        pond.touch("lost")
        live = pond._live
        assert isinstance(live, UnmountedBackend)
        thread = live._thread
        _Circle(pond)
        del pond, live
        with pytest.warns(ResourceWarning, match="was not closed"):
            thread.call(gc.collect)
    finally:
        gc.enable()
    thread.stop()
    with pondfs.open(store) as after:
        after.touch("f")
        assert after.listdir() == ["f"]


def test_python_may_end_with_everything_open(store: Path) -> None:
    said = run(
        "pond = pondfs.open(store)\npond.touch('a')\nfile = pond.open('f', 'w')\nfile.write('x')",
        store,
    )
    assert "unclosed file" in said or "the pond is closed" in said
    with pondfs.open(store) as pond:
        assert pond.listdir() == []
        pond.touch("the lock is free")


def test_a_forked_process_is_refused_and_harms_nobody(store: Path) -> None:
    said = run(
        """
with pondfs.open(store) as pond:
    pond.touch("a")
    child = os.fork()
    if not child:
        for call in (pond.listdir, lambda: pond.touch("b")):
            try:
                call()
            except pondfs.UsageError as error:
                print(error, flush=True)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    pond.touch("c")
reading = pondfs.open(store)
reading.listdir()
child = os.fork()
if not child:
    # What only reads goes on, and may begin to write.
    with reading:
        reading.touch("d")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(reading.listdir())
""",
        store,
    )
    assert said.count("the pond was opened before this process was forked: open it anew\n") == 2
    assert "['a', 'c', 'd']" in said


def test_a_forked_process_does_not_keep_the_lock(store: Path) -> None:
    said = run(
        """
pond = pondfs.open(store)
pond.touch("a")
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
pond.close()
with pondfs.open(store) as again:
    again.touch("b")
    print(again.listdir())
os.kill(child, 9)
""",
        store,
    )
    assert "['a', 'b']" in said


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda pond: pond.utime("f", (1.5, 2.5)), id="a time"),
        pytest.param(lambda pond: pond.chmod("f", 6.5), id="a mode"),
        pytest.param(lambda pond: pond.chown("f", "me"), id="a user's name"),
        pytest.param(lambda pond: pond.chown("f", 1.0, 1.0), id="a user"),
        pytest.param(lambda pond: pond.setxattr("f", "user.a", "text"), id="an attribute of text"),
        pytest.param(lambda pond: pond.setxattr("f", "user.a", 5), id="a number of an attribute"),
        pytest.param(lambda pond: truncate(pond, 1.0), id="a size"),
        pytest.param(lambda pond: pond.mkdir("d", "0755"), id="a mode of text"),
        pytest.param(lambda pond: pond.write_bytes("f", "text"), id="bytes of text"),
    ],
)
def test_wrong_types_do_not_spoil_the_tree(store: Path, call: Callable[[Any], object]) -> None:
    with pondfs.open(store) as pond:
        pond.write_bytes("f", b"1")
        with pytest.raises(TypeError):
            call(pond)
        pond.touch("g")
        assert pond.commit() == 2


def test_an_attribute_has_no_nul_in_its_name(tree: Pond) -> None:
    tree.touch("f")
    with pytest.raises(OSError, match="NUL"):
        tree.setxattr("f", "user.a\0b", b"")


def test_copying_into_itself_ends(tree: Pond) -> None:
    """Also where symlinks or ``..`` hide that it is itself."""
    tree.mkdir("d")
    tree.write_bytes("d/f", b"1")
    tree.symlink_to("link", "d")
    for source, target in (("d", "link/x"), ("link", "d/x"), ("d/../d", "d/x"), ("/", "x")):
        with pytest.raises(OSError, match="into itself"):
            tree.copy(source, target)
    assert tree.listdir("d") == ["f"]


def test_copying_a_file_goes_through_a_symlink(tree: Pond) -> None:
    tree.write_bytes("f", b"new")
    tree.chmod("f", 0o600)
    tree.write_bytes("old", b"old")
    tree.symlink_to("link", "old")
    tree.symlink_to("dangling", "made")
    for name in ("link", "dangling"):
        tree.copy("f", name)
        assert tree.is_symlink(name)
    for name in ("old", "made"):
        assert tree.read_bytes(name) == b"new"
        assert tree.stat(name).st_mode & 0o777 == 0o600


def test_closing_closes_every_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those after one that can't be."""
    pond = pondfs.open(store)
    files = [pond.open(f"f{number}", "wb") for number in range(4)]
    for file in files:
        file.write(b"1")
    broken = files[0].raw  # type: ignore[attr-defined]

    def refuse(*_: object) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr(broken._handle, "pwrite", refuse)
    with pytest.raises(OSError, match="the disk is full"):
        pond.close()
    with pondfs.open(store) as after:
        assert [after.read_bytes(f"f{number}") for number in range(4)] == [b"", *3 * [b"1"]]


def test_a_transaction_does_not_pull_the_tree_from_under_open_files(tree: Pond) -> None:
    tree.write_bytes("f", b"1")
    with (
        tree.open("f", "rb") as file,
        pytest.raises(pondfs.UsageError, match="files are open"),
        tree.transaction(),
    ):
        pass
    assert file.closed
    with tree.transaction():
        tree.touch("g")


def test_what_a_file_object_says_of_itself(tree: Pond) -> None:
    file = tree.open("f", "w")
    assert (file.mode, file.name) == ("w", "/f")
    inner = file.detach()  # type: ignore[attr-defined]
    inner.write(b"1")
    with pytest.warns(ResourceWarning, match="'/f'"):  # noqa: PT031
        del inner, file
        gc.collect()
    assert tree.read_bytes("f") == b"1"


def test_a_pattern_with_a_slash_matches_directories(tree: Pond) -> None:
    tree.mkdir("d/e", parents=True)
    tree.write_bytes("d/f", b"")
    assert [str(path) for path in tree.glob("**/")] == ["/d", "/d/e"]
    assert [str(path) for path in tree.glob("*/*/")] == ["/d/e"]
