"""Data files that rot, are cut short or vanish: an error there and nowhere else, never wrong bytes.

Contents lie as they are here; for compressed ones see ``test_compact.py``.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from pondfs.store import images
from pondfs.store.deltalog import LOG_DIR, read_snapshot
from pondfs.store.sums import BLOCK_BYTES
from tests.mount.harness import PondMount, wait_until
from tests.unit.store.support import open_pond

PAGE_BYTES = 4096
SIZE = 512 << 10


@pytest.fixture
def quiet(pond: PondMount) -> PondMount:
    """A pond in which only asking makes versions; what it logs is looked at here."""
    pond.allow_log("data file .* is")
    return pond.remount("commit=3600,fsync=delta,compact=off")


def put(pond: PondMount, name: str, size: int = SIZE) -> tuple[Path, bytes]:
    """Write a file and commit it; return its data file, and its bytes."""
    before = set(read_snapshot(os.fspath(pond.store / LOG_DIR)).adds)
    content = random.Random(name).randbytes(size)
    (pond.mnt / name).write_bytes(content)
    pond.commit()
    (made,) = set(read_snapshot(os.fspath(pond.store / LOG_DIR)).adds) - before
    return pond.store / made, content


def flip(path: Path, place: int) -> None:
    """Turn over one bit, as rot does."""
    with path.open("r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, place)
        os.pwrite(file.fileno(), bytes([byte ^ 0x20]), place)


def read_pages(path: Path, content: bytes) -> list[int]:
    """Read a file page by page; return the pages that gave EIO. The others must be right."""
    wrong: dict[int, int | None] = {}
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for offset in range(0, len(content), PAGE_BYTES):
        try:
            found = os.pread(fd, PAGE_BYTES, offset)
        except OSError as error:
            wrong[offset // PAGE_BYTES] = error.errno
        else:
            assert found == content[offset : offset + PAGE_BYTES]
    os.close(fd)
    assert set(wrong.values()) <= {errno.EIO}
    return list(wrong)


def told(pond: PondMount, path: Path) -> list[str]:
    """Return the daemon's complaints that name *path*."""
    return [
        line for line in pond.daemon_log().splitlines() if "ERROR" in line and str(path) in line
    ]


@pytest.mark.parametrize("when", ["while mounted", "before mounting"])
def test_a_flipped_bit(quiet: PondMount, when: str) -> None:
    """One block of the file can't be read, which the log says once; the rest can."""
    pond = quiet
    data_file, content = put(pond, "rotten")
    _, other = put(pond, "other")
    place = data_file.read_bytes().index(content[SIZE // 2 : SIZE // 2 + 64])
    if when == "while mounted":
        assert not read_pages(pond.mnt / "rotten", content)
        flip(data_file, place)
    else:
        pond.umount()
        flip(data_file, place)
        pond.mount(*pond.options)
    wrong = read_pages(pond.mnt / "rotten", content)
    assert SIZE // 2 // PAGE_BYTES in wrong
    assert len(wrong) <= BLOCK_BYTES // PAGE_BYTES + 1
    assert wrong == list(range(wrong[0], wrong[-1] + 1))
    assert read_pages(pond.mnt / "rotten", content) == wrong
    wait_until(lambda: told(pond, data_file), "the log says it")
    (line,) = told(pond, data_file)
    assert "needed for '/rotten'" in line
    assert not read_pages(pond.mnt / "other", other)
    checked = pond.pond("check", "--data", check=False)
    assert checked.returncode == 14, checked
    assert data_file.name in checked.stdout + checked.stderr
    # Writing goes on, over the rot, too.
    with open(pond.mnt / "rotten", "r+b") as file:
        file.seek(wrong[0] * PAGE_BYTES)
        file.write(content[wrong[0] * PAGE_BYTES :])
    pond.commit()
    assert not read_pages(pond.mnt / "rotten", content)
    flip(data_file, place)


def test_commands_say_it_in_one_line(quiet: PondMount) -> None:
    """`pond cat`, mounted and not, and a query."""
    pond = quiet
    data_file, content = put(pond, "rotten.csv", 200_000)
    flip(data_file, data_file.read_bytes().index(content[100_000:100_064]))
    pond.remount()  # else the kernel has the bytes
    for _ in range(2):
        for command in (["cat", "rotten.csv"], ["cat", "--at", "v2", "rotten.csv"]):
            refused = pond.run("pond", "--pond", str(pond.store), *command, check=False)
            assert refused.returncode in (2, 6), refused
            assert refused.stderr.count("\n") == 1, refused.stderr
        if pond.is_mounted():
            pond.umount()
    pond.mount(*pond.options)


def test_a_data_file_that_vanishes(quiet: PondMount) -> None:
    """What is in it gives EIO, an open one goes on; the rest works, and so do new versions."""
    pond = quiet
    vanished, content = put(pond, "vanished")
    held, held_content = put(pond, "held")
    _, other = put(pond, "other")
    pond.remount()
    assert not read_pages(pond.mnt / "held", held_content)
    vanished.rename(pond.store / "_pond" / "aside")
    held.rename(pond.store / "_pond" / "held-aside")
    assert read_pages(pond.mnt / "vanished", content) == list(range(SIZE // PAGE_BYTES))
    wait_until(lambda: told(pond, vanished), "the log says it")
    assert len(told(pond, vanished)) == 1
    assert not read_pages(pond.mnt / "held", held_content)
    assert not read_pages(pond.mnt / "other", other)
    assert (pond.mnt / ".pond" / "versions" / "1").is_dir()
    _, new = put(pond, "new")
    (pond.mnt / "vanished").rename(pond.mnt / "renamed")
    pond.commit()
    pond.umount()
    refused = pond.run("mount.pond", str(pond.store), str(pond.mnt), check=False)
    assert refused.returncode in (6, 32), refused
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert str(vanished) in refused.stderr or str(held) in refused.stderr
    (pond.store / "_pond" / "aside").rename(vanished)
    (pond.store / "_pond" / "held-aside").rename(held)
    pond.mount(*pond.options)
    assert not read_pages(pond.mnt / "renamed", content)
    assert not read_pages(pond.mnt / "new", new)
    assert pond.pond("check", "--data").returncode == 0


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_lost_end_while_the_image_is_saved(
    quiet: PondMount, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Rows and positions come from the image then: nobody looks at the footer for them."""
    pond = quiet
    data_file, content = put(pond, "rotten")
    pond.umount()
    monkeypatch.setattr(images, "WORTH_ROWS", 1)
    store = open_pond(pond.store)
    store.load_image()
    store.close()
    assert (pond.store / "_pond" / "image").exists()
    with data_file.open("r+b", buffering=0) as file:
        os.pwrite(
            file.fileno(), bytes(pages * PAGE_BYTES), data_file.stat().st_size - pages * PAGE_BYTES
        )
    pond.mount(*pond.options)
    assert read_pages(pond.mnt / "rotten", content) == list(range(SIZE // PAGE_BYTES))
    wait_until(lambda: told(pond, data_file), "the log says it")


def test_a_data_file_that_is_cut_short(quiet: PondMount) -> None:
    pond = quiet
    cut, content = put(pond, "cut")
    whole = cut.read_bytes()
    place = whole.index(content[SIZE // 2 : SIZE // 2 + 64])
    os.truncate(cut, place)
    wrong = read_pages(pond.mnt / "cut", content)
    assert wrong == list(range(wrong[0], SIZE // PAGE_BYTES))
    assert wrong[0] <= SIZE // 2 // PAGE_BYTES
    wait_until(lambda: told(pond, cut), "the log says it")
    cut.write_bytes(whole)
    pond.remount()
    assert not read_pages(pond.mnt / "cut", content)
