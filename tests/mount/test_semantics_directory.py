"""Directories: names of every kind, and listings that hold while entries come and go."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable

import pytest

from tests.mount.place import Place, errno_of, opened, tick
from tests.mount.syscalls import DirStream

ODD_NAMES = [
    b"a" * 255,
    b"\xff" * 255,
    ("é" * 127 + "x").encode(),
    b"\xff\xfe not UTF-8",
    b"caf\xe9",
    "café".encode(),
    "cafe\u0301".encode(),
    b" leading and trailing ",
    b"-rf",
    b"new\nline\tand tab",
    b"back\\slash \"quotes' $HOME *?",
    b"...",
    b"..x",
    b".hidden",
    b"C:",
    "🦆".encode(),
    bytes(range(1, 47)) + bytes(range(48, 128)),
    bytes(range(128, 256)),
    "\u202ertl".encode(),
    b"%s%n",
    b"null",
    b"NULL",
]


def test_names_are_bytes_and_survive_a_remount(place: Place) -> None:
    """Anything but / and NUL is a name, and comes back as it was, neither decoded nor folded."""
    for number, name in enumerate(ODD_NAMES):
        place.path(name).write_bytes(b"%d" % number)
    root = os.fsencode(place.dir)
    assert sorted(os.listdir(root)) == sorted(ODD_NAMES)
    place.remount()
    assert sorted(os.listdir(root)) == sorted(ODD_NAMES)
    for number, name in enumerate(ODD_NAMES):
        assert place.path(name).read_bytes() == b"%d" % number
    for name in ODD_NAMES:
        os.rename(root + b"/" + name, root + b"/" + name[:200] + b"\xfe~")
    assert sorted(os.listdir(root)) == sorted(name[:200] + b"\xfe~" for name in ODD_NAMES)


def test_names_differ_by_every_byte(place: Place) -> None:
    """Case, normalization and surrogates: no two different byte strings are one name."""
    place.path("Name").write_bytes(b"upper")
    place.path("name").write_bytes(b"lower")
    assert place.path("Name").read_bytes() == b"upper"
    assert errno_of(os.stat, place.path("NAME")) == "ENOENT"


def test_a_name_of_256_bytes_is_too_long_everywhere(place: Place) -> None:
    """255 bytes, not characters, is the limit statvfs names."""
    name, longer = place.path(b"\xe9" * 255), place.path(b"\xe9" * 256)
    name.write_bytes(b"")
    assert errno_of(os.rename, name, longer) == "ENAMETOOLONG"
    assert errno_of(os.link, name, longer) == "ENAMETOOLONG"
    assert errno_of(os.open, longer, os.O_CREAT | os.O_WRONLY) == "ENAMETOOLONG"
    assert errno_of(os.mkfifo, longer) == "ENAMETOOLONG"
    assert os.statvfs(place.dir).f_namemax == 255


def test_deep_paths(place: Place) -> None:
    """Beyond PATH_MAX a tree can only be walked by descriptors; it must still work."""
    depth, fds = 60, [os.open(place.dir, os.O_RDONLY)]
    for level in range(depth):
        os.mkdir("d" * 200, dir_fd=fds[-1])
        fds.append(os.open("d" * 200, os.O_RDONLY, dir_fd=fds[-1]))
        assert os.fstat(fds[-1]).st_nlink == 2, level
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fds[-1]))
    assert os.listdir(fds[-1]) == ["bottom"]
    for fd in fds:
        os.close(fd)
    shutil.rmtree(place.dir / ("d" * 200))
    assert os.listdir(place.dir) == []


def test_dot_and_dotdot_are_listed_and_lead_where_they_should(place: Place) -> None:
    """POSIX lets a directory leave them out of readdir; they must resolve in any case."""
    place.path("sub").mkdir()
    assert os.stat(place.path("sub/.")).st_ino == place.path("sub").stat().st_ino
    assert os.stat(f"{place.dir}/sub/..").st_ino == place.dir.stat().st_ino
    assert os.listdir(place.path("sub")) == []


def test_listing_names_types_and_inode_numbers(place: Place) -> None:
    """scandir's d_type and d_ino are what find and git trust instead of a stat."""
    place.file("file")
    place.path("dir").mkdir()
    place.path("link").symlink_to("file")
    os.mkfifo(place.path("fifo"))
    kinds = {}
    with os.scandir(place.dir) as entries:
        for entry in entries:
            kinds[entry.name] = (
                entry.is_file(follow_symlinks=False),
                entry.is_dir(follow_symlinks=False),
                entry.is_symlink(),
            )
            assert entry.inode() == place.path(entry.name).lstat().st_ino
    assert kinds == {
        "file": (True, False, False),
        "dir": (False, True, False),
        "link": (False, False, True),
        "fifo": (False, False, False),
    }


@pytest.mark.parametrize("remounted", [False, True])
def test_a_large_directory_lists_every_name_once(place: Place, remounted: bool) -> None:
    """Many requests' worth of entries, from memory and from the store."""
    names = {f"entry-{number:05}" for number in range(3000)}
    for name in names:
        os.close(os.open(place.path(name), os.O_CREAT | os.O_WRONLY))
    if remounted:
        place.remount()
    listed = os.listdir(place.dir)
    assert len(listed) == len(names)
    assert set(listed) == names


def test_listing_while_entries_come_and_go(place: Place) -> None:
    """POSIX readdir: what is there all along comes exactly once, whatever else happens."""
    stay = {b"stay-%04d" % number for number in range(1500)}
    leave = {b"leave-%04d" % number for number in range(500)}
    for each in stay | leave:
        place.path(each).touch()
    rng, seen, new = random.Random(3), [], 0
    with DirStream(place.dir) as stream:
        while (name := stream.read()) is not None:
            seen.append(name)
            if leave and rng.random() < 0.5:
                os.unlink(place.path(leave.pop()))
            if rng.random() < 0.3 and new < 400:
                place.path(f"new-{new}").touch()
                new += 1
    assert sorted(name for name in seen if name in stay) == sorted(stay)
    assert len(seen) == len(set(seen)), "an entry came twice"


def test_removing_entries_as_they_are_listed_empties_the_directory(place: Place) -> None:
    """rm -rf reads and removes in turn; a position that counts entries would skip some."""
    for number in range(2000):
        place.path(f"{number}").touch()
    with DirStream(place.dir) as stream:
        while (name := stream.read()) is not None:
            os.unlink(place.path(name))
    assert os.listdir(place.dir) == []
    place.dir.rmdir()


def test_seekdir_returns_to_the_same_entries(place: Place) -> None:
    """telldir's cookie stays good over other reads, and over removal of what came before."""
    for number in range(1000):
        place.path(f"{number}").touch()
    with DirStream(place.dir) as stream:
        first = [stream.read() for _ in range(300)]
        cookie = stream.tell()
        rest = stream.rest()
        assert len(set(first) | set(rest)) == 1000
        stream.seek(cookie)
        assert stream.rest() == rest
        for name in first:
            assert name is not None
            os.unlink(place.path(name))
        stream.seek(cookie)
        assert stream.rest() == rest
        assert stream.read() is None


def test_rewinddir_sees_what_changed(place: Place) -> None:
    """A rewound stream is as good as a new one."""
    place.path("old").touch()
    with DirStream(place.dir) as stream:
        assert stream.rest() == [b"old"]
        place.path("new").touch()
        os.unlink(place.path("old"))
        stream.rewind()
        assert stream.rest() == [b"new"]


def test_two_streams_have_their_own_positions(place: Place) -> None:
    """The position belongs to the open directory, not to the directory."""
    for number in range(600):
        place.path(f"{number}").touch()
    with DirStream(place.dir) as one, DirStream(place.dir) as two:
        head = [one.read() for _ in range(400)]
        assert [two.read() for _ in range(400)] == head
        assert sorted(one.rest()) == sorted(two.rest())


def test_an_entry_renamed_while_listing_does_not_vanish(place: Place) -> None:
    """Neighbours of a rename are found all the same."""
    names = {b"%04d" % number for number in range(1000)}
    for name in names:
        place.path(name).touch()
    with DirStream(place.dir) as stream:
        seen = [stream.read() for _ in range(10)]
        os.rename(place.path(seen[0] or b""), place.path("renamed"))
        seen += stream.rest()
    assert names <= set(seen)


def test_adding_and_removing_entries_moves_the_times_of_the_directory(place: Place) -> None:
    """mtime and ctime both: a cache of a listing is checked by them."""
    actions: list[Callable[[], None]] = [
        lambda: place.path("file").touch(),
        lambda: place.path("dir").mkdir(),
        lambda: place.path("link").symlink_to("x"),
        lambda: os.mkfifo(place.path("fifo")),
        lambda: os.unlink(place.path("file")),
        lambda: os.rmdir(place.path("dir")),
    ]
    for number, action in enumerate(actions):
        tick(place.dir)
        before = place.dir.stat()
        action()
        after = place.dir.stat()
        assert after.st_mtime_ns > before.st_mtime_ns, number
        assert after.st_ctime_ns > before.st_ctime_ns, number


def test_writing_to_a_file_leaves_the_directory_alone(place: Place) -> None:
    """Its listing is the same."""
    file = place.file()
    before = place.dir.stat()
    tick(file)
    file.write_bytes(b"content")
    assert place.dir.stat().st_mtime_ns == before.st_mtime_ns


def test_a_directory_descriptor_is_a_base_for_names(place: Place) -> None:
    """openat and its family, as every safe tree walker uses them."""
    with opened(place.dir, os.O_RDONLY | os.O_DIRECTORY) as at:
        os.mkdir("dir", dir_fd=at)
        os.symlink("dir", "link", dir_fd=at)
        os.mknod("fifo", stat.S_IFIFO | 0o600, dir_fd=at)
        os.rename("dir", "renamed", src_dir_fd=at, dst_dir_fd=at)
        assert sorted(os.listdir(at)) == ["fifo", "link", "renamed"]
        os.rmdir("renamed", dir_fd=at)
        os.unlink("link", dir_fd=at)
        os.fsync(at)
    assert os.listdir(place.dir) == ["fifo"]
