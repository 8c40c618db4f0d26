"""Modes, owners and times: chmod, chown, utimensat, and the rules that change them unasked."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tests.mount.place import ALICE, BOB, Place, as_user, errno_of, opened, tick
from tests.mount.syscalls import AT_SYMLINK_NOFOLLOW, UTIME_NOW, UTIME_OMIT, utimensat

SECOND = 10**9


def times_of(path: Path) -> tuple[int, int]:
    """Return atime and mtime."""
    info = path.stat()
    return info.st_atime_ns, info.st_mtime_ns


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o7777])
def test_every_mode_bit_survives(place: Place, mode: int) -> None:
    """The nine permissions and the three special bits, on files and directories."""
    file = place.file(content=b"content")
    place.path("dir").mkdir()
    tick(file)
    before = file.stat()
    for path in (file, place.path("dir")):
        path.chmod(mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert file.stat().st_ctime_ns > before.st_ctime_ns
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    place.remount()
    for path in (file, place.path("dir")):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_chown_sets_either_or_both(place: Place) -> None:
    """-1 leaves one as it is; 32-bit ids are ids."""
    file = place.file()
    os.chown(file, 1234, -1)
    os.chown(file, -1, 4_000_000_000)
    tick(file)
    before = file.stat().st_ctime_ns
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 4_000_000_000)
    os.chown(file, 4_000_000_001, 5)
    assert (file.stat().st_uid, file.stat().st_gid) == (4_000_000_001, 5)
    assert file.stat().st_ctime_ns > before
    place.remount()
    assert (file.stat().st_uid, file.stat().st_gid) == (4_000_000_001, 5)


def test_new_files_belong_to_their_maker(place: Place) -> None:
    """The caller's fsuid and fsgid, not the daemon's."""
    place.dir.chmod(0o777)
    with as_user(ALICE, place.dir, gid=BOB):
        Path("file").write_bytes(b"")
        os.mkdir("dir")
        os.symlink("x", "link")
        os.mkfifo("fifo")
        os.link("file", "hard")
    for name in ("file", "dir", "link", "fifo"):
        info = place.path(name).lstat()
        assert (info.st_uid, info.st_gid) == (ALICE, BOB), name


def test_setgid_directory_hands_its_group_down(place: Place) -> None:
    """A team's directory: files get its group, directories its group and its setgid bit."""
    place.path("team").mkdir()
    os.chown(place.path("team"), ALICE, 7777)
    place.path("team").chmod(0o2777)
    with as_user(BOB, place.path("team")):
        Path("file").write_bytes(b"")
        os.mkdir("dir", 0o755)
        os.symlink("x", "link")
    team = place.path("team")
    assert [(team / name).lstat().st_gid for name in ("file", "dir", "link")] == [7777] * 3
    assert (team / "file").stat().st_uid == BOB
    assert stat.S_IMODE((team / "dir").stat().st_mode) == 0o2755
    assert stat.S_IMODE((team / "file").stat().st_mode) == 0o644


def test_setgid_is_dropped_for_a_file_of_a_group_one_is_not_in(place: Place) -> None:
    """Else anyone could make a program that runs with the directory's group."""
    place.path("team").mkdir()
    os.chown(place.path("team"), ALICE, 7777)
    place.path("team").chmod(0o2777)
    with as_user(BOB, place.path("team")):
        os.close(os.open("program", os.O_CREAT | os.O_WRONLY, 0o2775))
        assert stat.S_IMODE(os.stat("program").st_mode) == 0o755
        os.chmod("program", 0o2775)
        assert stat.S_IMODE(os.stat("program").st_mode) == 0o775


@pytest.mark.parametrize(
    ("before", "after"), [(0o4755, 0o755), (0o6755, 0o755), (0o2755, 0o755), (0o2745, 0o2745)]
)
def test_writing_clears_suid_for_anyone_but_root(place: Place, before: int, after: int) -> None:
    """A set-id program that others may write must lose the bit; mandatory-lock sgid stays."""
    file = place.file("program", b"content")
    os.chown(file, ALICE, BOB)
    for change in ("write", "truncate"):
        file.chmod(before)
        with as_user(ALICE, place.dir, gid=BOB):
            if change == "write":
                with opened("program", os.O_WRONLY) as fd:
                    os.write(fd, b"x")
            else:
                os.truncate("program", 3)
        assert oct(stat.S_IMODE(file.stat().st_mode)) == oct(after), change


@pytest.mark.parametrize(
    ("before", "after"), [(0o4755, 0o755), (0o6777, 0o777), (0o2745, 0o2745), (0o1644, 0o1644)]
)
def test_chown_clears_suid_even_for_root(place: Place, before: int, after: int) -> None:
    """A set-id program must not run as its new owner; `cp -a` therefore chowns, then chmods."""
    file = place.file()
    file.chmod(before)
    os.chown(file, ALICE, ALICE)
    assert oct(stat.S_IMODE(file.stat().st_mode)) == oct(after)


def test_chown_leaves_the_bits_of_directories(place: Place) -> None:
    """On a directory they mean inheritance, not power."""
    place.path("dir").mkdir()
    place.path("dir").chmod(0o6755)
    os.chown(place.path("dir"), ALICE, ALICE)
    assert stat.S_IMODE(place.path("dir").stat().st_mode) == 0o6755


def test_only_the_owner_changes_attributes(place: Place) -> None:
    """POSIX leaves chmod and times to the owner, and giving files away to root."""
    file = place.file(mode=0o666)
    os.chown(file, ALICE, ALICE)
    with as_user(BOB, place.dir):
        assert errno_of(os.chmod, "file", 0o777) == "EPERM"
        assert errno_of(os.chown, "file", BOB, -1) == "EPERM"
        assert errno_of(os.utime, "file", (1, 1)) == "EPERM"
        assert errno_of(os.utime, "file") == "OK"
    with as_user(ALICE, place.dir):
        assert errno_of(os.chmod, "file", 0o640) == "OK"
        assert errno_of(os.chown, "file", BOB, -1) == "EPERM"
        assert errno_of(os.chown, "file", -1, BOB) == "EPERM"
        assert errno_of(os.chown, "file", ALICE, ALICE) == "OK"
        assert errno_of(os.utime, "file", (1, 1)) == "OK"
    with as_user(BOB, place.dir):
        assert errno_of(os.utime, "file") == "EACCES"


def test_an_owner_may_give_a_file_to_a_group_they_are_in(place: Place) -> None:
    """chgrp for ordinary users."""
    file = place.file()
    os.chown(file, ALICE, ALICE)
    with as_user(ALICE, place.dir, gid=BOB):
        assert errno_of(os.chown, "file", -1, BOB) == "OK"
    assert file.stat().st_gid == BOB


TIMES_NS = [
    0,
    1,
    999_999_999,
    1_700_000_000 * SECOND + 123_456_789,
    -1,
    -1 * SECOND,
    -SECOND // 2,
    -86_400 * SECOND * 365 * 20 + 42,
    (1 << 31) * SECOND + 7,
    (1 << 32) * SECOND + 999_999_999,
]


@pytest.mark.parametrize("time_ns", TIMES_NS)
def test_times_to_the_nanosecond_before_1970_and_after_2038(place: Place, time_ns: int) -> None:
    """tar and rsync set what they read and compare what they set."""
    file = place.file()
    os.utime(file, ns=(time_ns, time_ns + 1))
    assert times_of(file) == (time_ns, time_ns + 1)
    place.remount()
    assert times_of(file) == (time_ns, time_ns + 1)


def test_times_set_while_open_survive_the_close(place: Place) -> None:
    """cp -p and tar set the times before they close; writing back must not move them again."""
    file = place.path("file")
    with opened(file, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"content" * 1000)
        os.utime(fd, ns=(5 * SECOND, 6 * SECOND + 7))
    assert file.stat().st_mtime_ns == 6 * SECOND + 7
    assert file.stat().st_size == 7000
    place.remount()
    assert file.stat().st_mtime_ns == 6 * SECOND + 7
    assert file.read_bytes() == b"content" * 1000


def test_utime_omit_and_now(place: Place) -> None:
    """Each time can be set, left, or taken from the clock."""
    file = place.file()
    os.utime(file, ns=(11 * SECOND, 22 * SECOND))
    utimensat(file, (0, UTIME_OMIT), (33, 44))
    assert times_of(file) == (11 * SECOND, 33 * SECOND + 44)
    utimensat(file, (55, 66), (0, UTIME_OMIT))
    assert times_of(file) == (
        55 * SECOND + 66,
        33 * SECOND + 44,
    )
    earliest = time.time_ns() - SECOND
    utimensat(file, (0, UTIME_OMIT), (0, UTIME_NOW))
    assert earliest < file.stat().st_mtime_ns < time.time_ns() + SECOND
    assert file.stat().st_atime_ns == 55 * SECOND + 66
    utimensat(file, (0, UTIME_NOW), (0, UTIME_OMIT))
    assert earliest < file.stat().st_atime_ns < time.time_ns() + SECOND


def test_utime_of_a_symlink_itself(place: Place) -> None:
    """AT_SYMLINK_NOFOLLOW reaches the link and leaves its target alone."""
    target = place.file("target")
    os.utime(target, ns=(1, 1))
    place.path("link").symlink_to("target")
    utimensat(place.path("link"), (77, 1), (88, 2), AT_SYMLINK_NOFOLLOW)
    assert place.path("link").lstat().st_mtime_ns == 88 * SECOND + 2
    assert target.stat().st_mtime_ns == 1


def test_bad_times_are_invalid(place: Place) -> None:
    """A billion nanoseconds are a second."""
    assert errno_of(utimensat, place.file(), (0, SECOND), (0, 0)) == "EINVAL"


def test_utime_moves_ctime_to_now(place: Place) -> None:
    """ctime can't be set: that is what makes it evidence."""
    file = place.file()
    tick(file)
    before = file.stat().st_ctime_ns
    os.utime(file, ns=(0, 0))
    assert file.stat().st_ctime_ns > before
    assert abs(file.stat().st_ctime_ns - time.time_ns()) < 60 * SECOND


def test_writing_moves_mtime_and_ctime_but_not_atime(place: Place) -> None:
    """A write of the same bytes is a write."""
    file = place.file(content=b"content")
    os.utime(file, ns=(time.time_ns(), 5))
    tick(file)
    before = file.stat()
    with opened(file, os.O_WRONLY) as fd:
        os.write(fd, b"content")
    after = file.stat()
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_atime_ns == before.st_atime_ns


def test_times_of_a_written_file_are_the_same_after_a_remount(place: Place) -> None:
    """What stat said before must be what was stored: make would rebuild the world otherwise."""
    file = place.file(content=b"content" * 1000)
    with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"more")
    before = file.stat()
    place.remount()
    after = file.stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ctime_ns == before.st_ctime_ns
    assert after.st_size == before.st_size


def test_reading_moves_an_atime_older_than_mtime(place: Place) -> None:
    """relatime: mail programs ask whether a file was read since it was written."""
    file = place.file(content=b"content")
    os.utime(file, ns=(5 * SECOND, 6 * SECOND))
    place.remount()
    assert file.read_bytes() == b"content"
    assert file.stat().st_atime_ns > 6 * SECOND
    directory = place.path("dir")
    directory.mkdir()
    (directory / "entry").touch()
    os.utime(directory, ns=(5 * SECOND, 6 * SECOND))
    place.remount()
    os.listdir(directory)
    assert directory.stat().st_atime_ns > 6 * SECOND


def test_reading_leaves_a_fresh_atime(place: Place) -> None:
    """relatime: younger than mtime and than a day is good enough, and costs no commit."""
    file = place.file(content=b"content")
    fresh = time.time_ns() - 3600 * SECOND
    os.utime(file, ns=(fresh, fresh - SECOND))
    # ctime is now, and relatime compares with it too: reading once settles it.
    file.read_bytes()
    tick(file)
    settled = file.stat().st_atime_ns
    file.read_bytes()
    assert file.stat().st_atime_ns == settled


def test_inode_numbers_are_stable_over_remounts(place: Place) -> None:
    """Backup programs, NFS servers and editors know files by them."""
    paths = [place.file("file"), place.path("dir"), place.path("link"), place.path("fifo")]
    paths[1].mkdir()
    paths[2].symlink_to("file")
    os.mkfifo(paths[3])
    before = [path.lstat().st_ino for path in [*paths, place.dir]]
    assert len(set(before)) == 5
    place.remount()
    assert [path.lstat().st_ino for path in [*paths, place.dir]] == before
    place.remount()
    assert [path.lstat().st_ino for path in [*paths, place.dir]] == before


@pytest.mark.pond_only("ext4 uses a freed inode number again at once")
def test_inode_numbers_are_never_used_again(place: Place) -> None:
    """History is kept by node id; a second life would mix two files' pasts."""
    seen = set()
    for _ in range(50):
        file = place.file()
        seen.add(file.stat().st_ino)
        os.unlink(file)
    assert len(seen) == 50


def test_access_follows_the_mode(place: Place) -> None:
    """access(2) with another user's eyes; root may all but execute what nobody may."""
    file = place.file(mode=0o754)
    os.chown(file, ALICE, BOB)
    everything = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}

    def rights() -> str:
        return "".join(
            right for right, bit in everything.items() if os.access("file", bit, effective_ids=True)
        )

    with as_user(ALICE, place.dir):
        assert rights() == "rwx"
    with as_user(60_009, place.dir, gid=BOB):
        assert rights() == "rx"
    with as_user(60_009, place.dir):
        assert rights() == "r"
    file.chmod(0o000)
    with as_user(0, place.dir):
        assert rights() == "rw"
