"""A pond that is not mounted, changed in this process: its lock, its commits, its end."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pondfs.api.transaction import begin
from pondfs.api.unmounted import UnmountedBackend
from pondfs.errors import CommitFailed, NotAPond, PondLocked
from pondfs.store import create, faults, open_reader
from pondfs.vfs import committer


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a new pond."""
    create(tmp_path / "pond")
    return tmp_path / "pond"


@pytest.fixture
def at_fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Return what has a function called at a named point of the store."""

    def put(point: str, action: Callable[[], object]) -> None:
        monkeypatch.setattr(faults, "_faults", {point: []})
        monkeypatch.setattr(faults, "_trip", lambda *_: action())

    return put


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name == "pond"] == []


def put(backend: UnmountedBackend, path: bytes, data: bytes) -> None:
    """Make a file."""
    handle = backend.open(path, os.O_WRONLY | os.O_CREAT)
    handle.pwrite(data, 0)
    handle.close()


def names(store: Path) -> dict[str, int]:
    """Return what the root holds as stored, and the version."""
    opened = open_reader(store)
    image = opened.load_image()
    found = {os.fsdecode(name): 0 for name in image.load_entries(image.node_at(0)[0])}
    opened.close()
    return {**found, "": image.version}


def refuse() -> None:
    """Be a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_importing_costs_nothing() -> None:
    """Neither trio nor pyarrow comes before a pond is opened."""
    script = (
        "import sys, pondfs.api.mounted, pondfs.api.unmounted, pondfs.api.transaction\n"
        "print([name for name in ('trio', 'pyarrow', 'numpy', 'deltalake') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_lock_is_held_and_let_go(store: Path, tmp_path: Path) -> None:
    """One writer at a time, until the end, however it ends."""
    for end in (UnmountedBackend.close, UnmountedBackend.discard):
        backend = UnmountedBackend(store)
        with pytest.raises(PondLocked):
            UnmountedBackend(store)
        end(backend)
    UnmountedBackend(store).close()
    with pytest.raises(NotAPond):
        UnmountedBackend(tmp_path / "none")


def test_close_commits_and_discard_does_not(store: Path) -> None:
    """And discard leaves no file behind, of what was staged either."""
    backend = UnmountedBackend(store, message="kept")
    put(backend, b"kept", b"1")
    backend.close()
    assert names(store) == {"kept": 0, "": 2}
    before = sorted(os.listdir(store))
    backend = UnmountedBackend(store)
    put(backend, b"lost", os.urandom(70 << 20))
    assert len(os.listdir(store)) > len(before)
    backend.discard()
    assert sorted(os.listdir(store)) == before
    assert names(store) == {"kept": 0, "": 2}


def test_a_commit_that_fails(store: Path, at_fault: Callable[..., None]) -> None:
    """The lock is let go and the pond as it was; who stays can try again."""
    backend = UnmountedBackend(store)
    put(backend, b"f", b"1")
    at_fault("commit:data-file", refuse)
    with pytest.raises(CommitFailed, match="No space left") as caught:
        backend.commit()
    assert caught.value.errno == errno.ENOSPC
    time.sleep(0.7)
    assert names(store) == {"": 1}
    at_fault("", refuse)
    time.sleep(0.7)
    assert names(store) == {"": 1}  # nobody asked
    assert backend.commit("again") == 2
    put(backend, b"g", b"1")
    at_fault("commit:data-file", refuse)
    with pytest.raises(CommitFailed):
        backend.close()
    backend.close()
    assert names(store) == {"f": 0, "": 2}
    at_fault("", refuse)
    UnmountedBackend(store).close()


def test_a_full_disk_while_writing(store: Path, at_fault: Callable[..., None]) -> None:
    """The writer is told; nothing becomes a version because of it."""
    backend = UnmountedBackend(store)
    put(backend, b"small", b"1")
    at_fault("data-file:fsync", refuse)
    handle = backend.open(b"big", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left") as caught:
        handle.pwrite(bytes(200 << 20), 0)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/big")
    handle.close()
    at_fault("", refuse)
    time.sleep(0.7)
    assert names(store) == {"": 1}
    assert backend.commit() == 2
    backend.close()
    assert names(store) == {"small": 0, "big": 0, "": 2}


def test_only_who_asks_commits(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither time nor the number of changes does, in a transaction nor fsync."""
    monkeypatch.setattr(committer, "MEMORY_BYTES", 1 << 20)
    backend = UnmountedBackend(store)
    for number in range(1500):
        backend.symlink(b"x", b"l%d" % number)
    time.sleep(1.3)
    assert names(store) == {"": 1}
    handle = backend.open(b"f", os.O_RDWR | os.O_CREAT)
    handle.fsync()
    assert names(store)[""] == 2
    backend.close()
    transaction = begin(store, None)
    inside = transaction.open(b"f", os.O_RDWR | os.O_CREAT)
    inside.pwrite(b"x", 0)
    inside.fsync()
    transaction.discard()
    assert names(store)[""] == 2


def test_ctrl_c_in_a_commit(store: Path, at_fault: Callable[..., None]) -> None:
    """The caller is interrupted at once; the commit gets to its end; the lock is free."""
    backend = UnmountedBackend(store)
    put(backend, b"f", b"1")
    reached, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        reached.set()
        go_on.wait(20)

    def interrupt() -> None:
        reached.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    at_fault("commit:data-file", hang)
    breaker = threading.Thread(target=interrupt)
    breaker.start()
    with pytest.raises(KeyboardInterrupt):
        backend.commit()
    breaker.join()
    assert names(store) == {"": 1}
    go_on.set()
    backend.discard()
    assert names(store) == {"f": 0, "": 2}
    UnmountedBackend(store).close()


def test_the_end_of_it(store: Path) -> None:
    """Afterwards everything is refused, but closing; who forgets to close is told."""
    backend = UnmountedBackend(store)
    handle = backend.open(b"f", os.O_RDWR | os.O_CREAT)
    backend.close()
    handle.close()
    for call in (lambda: backend.lstat(b"f"), lambda: handle.fstat(), lambda: backend.commit()):
        with pytest.raises(OSError, match="the pond is closed") as caught:
            call()
        assert caught.value.errno == errno.EBADF
    forgotten = UnmountedBackend(store)
    put(forgotten, b"lost", b"1")
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del forgotten
        gc.collect()
    assert names(store) == {"f": 0, "": 2}
    UnmountedBackend(store).close()
