"""Bytes: read, write, truncate, holes, mmap, and the calls that copy between files."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess

import pytest

from tests.mount import syscalls
from tests.mount.place import Place, errno_of, opened, tick

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 128 * KIB, MIB + 1, 9 * MIB])
def test_content_of_any_size_survives_a_remount(place: Place, size: int) -> None:
    """Sizes around the page, the FUSE request, and the row group."""
    content = random.Random(size).randbytes(size)
    file = place.file(content=content)
    assert file.stat().st_size == size
    place.remount()
    assert file.stat().st_size == size
    assert file.read_bytes() == content


def test_random_writes_and_truncates_match_a_bytearray(place: Place) -> None:
    """The extent arithmetic end to end: overlap, split, clip, hole, tail."""
    rng, file, model = random.Random(7), place.file(), bytearray()
    for step in range(300):
        if rng.random() < 0.15:
            size = rng.randrange(0, 600 * KIB)
            os.truncate(file, size)
            del model[size:]
            model.extend(bytes(size - len(model)))
        else:
            offset, data = rng.randrange(0, 500 * KIB), rng.randbytes(rng.randrange(1, 40 * KIB))
            with opened(file, os.O_WRONLY) as fd:
                os.pwrite(fd, data, offset)
                if rng.random() < 0.1:
                    os.fsync(fd)
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + len(data)] = data
        if step % 100 == 99:
            place.remount()
        if step % 10 == 0:
            assert file.stat().st_size == len(model)
            assert file.read_bytes() == bytes(model)
    assert file.read_bytes() == bytes(model)


def test_reads_beyond_the_end_are_short_or_empty(place: Place) -> None:
    """End of file is not an error."""
    with opened(place.file(content=b"0123456789"), os.O_RDONLY) as fd:
        assert os.pread(fd, 100, 4) == b"456789"
        assert os.pread(fd, 100, 10) == b""
        assert os.pread(fd, 100, 1 << 40) == b""


def test_write_beyond_the_end_leaves_zeros_between(place: Place) -> None:
    """A hole reads as zeros, before and after it was committed."""
    file = place.file(content=b"head")
    with opened(file, os.O_WRONLY) as fd:
        os.pwrite(fd, b"tail", 100_000)
    expected = b"head" + bytes(99_996) + b"tail"
    assert file.read_bytes() == expected
    place.remount()
    assert file.read_bytes() == expected


def test_truncate_down_and_up_forgets_what_was_cut(place: Place) -> None:
    """The classic leak: old bytes must not reappear when the file grows again."""
    file = place.file(content=b"x" * 10_000)
    place.remount()
    os.truncate(file, 100)
    os.truncate(file, 10_000)
    assert file.read_bytes() == b"x" * 100 + bytes(9_900)
    place.remount()
    assert file.read_bytes() == b"x" * 100 + bytes(9_900)


def test_ftruncate_works_on_an_open_file_and_keeps_the_position(place: Place) -> None:
    """Writing on after a truncate leaves a hole, as for every POSIX filesystem."""
    file = place.file()
    with opened(file, os.O_RDWR) as fd:
        os.write(fd, b"abcdef")
        os.ftruncate(fd, 2)
        os.write(fd, b"g")
    assert file.read_bytes() == b"ab\0\0\0\0g"


def test_truncate_moves_mtime_and_ctime(place: Place) -> None:
    """make and rsync look at mtime."""
    file = place.file(content=b"content")
    tick(file)
    before = file.stat()
    os.truncate(file, 3)
    after = file.stat()
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns


def test_a_sparse_terabyte_costs_nothing(place: Place) -> None:
    """Disk images are made by truncate; their size is not their weight."""
    file = place.file()
    os.truncate(file, 1 << 40)
    with opened(file, os.O_RDWR) as fd:
        os.pwrite(fd, b"end", (1 << 40) - 3)
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 < MIB
    place.remount()
    with opened(file, os.O_RDONLY) as fd:
        assert os.fstat(fd).st_size == 1 << 40
        assert os.pread(fd, 10, (1 << 40) - 3) == b"end"
        assert os.pread(fd, 4096, 1 << 39) == bytes(4096)


def test_blocks_grow_with_content(place: Place) -> None:
    """du adds up st_blocks: 0 for a full file would say a tree weighs nothing."""
    file = place.path("file")
    with opened(file, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * 100_000)
        os.fsync(fd)
    assert 100_000 <= file.stat().st_blocks * 512 <= 110_000 + 64 * KIB


def test_vectored_io(place: Place) -> None:
    """writev and readv are one operation each, in order."""
    with opened(place.file(), os.O_RDWR) as fd:
        assert os.writev(fd, [b"one", b"", b"two" * 5000]) == 15_003
        parts = [bytearray(3), bytearray(15_000)]
        assert os.preadv(fd, parts, 0) == 15_003
        assert parts == [b"one", b"two" * 5000]


def test_shared_mapping_writes_the_file(place: Place) -> None:
    """A store through MAP_SHARED is a write: other readers see it, msync makes it last."""
    file = place.file(content=b"a" * 10_000)
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, 10_000, mmap.MAP_SHARED) as shared:
        shared[5000:5005] = b"HELLO"
        shared.flush()
        assert os.pread(fd, 5, 5000) == b"HELLO"
        os.pwrite(fd, b"back", 100)
        assert shared[100:104] == b"back"
    expected = b"a" * 100 + b"back" + b"a" * 4896 + b"HELLO" + b"a" * 4995
    assert file.read_bytes() == expected
    place.remount()
    assert file.read_bytes() == expected


def test_shared_mapping_of_a_hole_grown_by_truncate(place: Place) -> None:
    """sqlite's WAL index and every linker do this: ftruncate, map, write."""
    file = place.file()
    with opened(file, os.O_RDWR) as fd:
        os.ftruncate(fd, 100_000)
        with mmap.mmap(fd, 100_000, mmap.MAP_SHARED) as shared:
            shared[99_999] = 0x21
            shared[0] = 0x23
    place.remount()
    assert file.read_bytes() == b"#" + bytes(99_998) + b"!"


def test_shared_mapping_outlives_the_descriptor(place: Place) -> None:
    """The pages are written back after close(2), and must find their file."""
    file = place.file(content=bytes(8192))
    with opened(file, os.O_RDWR) as fd:
        shared = mmap.mmap(fd, 8192, mmap.MAP_SHARED)
    shared[4096] = 7
    shared.close()
    place.remount()
    assert file.read_bytes()[4096] == 7


def test_private_mapping_keeps_its_writes(place: Place) -> None:
    """MAP_PRIVATE: what is written there is nobody else's."""
    file = place.file(content=b"b" * 5000)
    with (
        opened(file, os.O_RDONLY) as fd,
        mmap.mmap(fd, 5000, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private,
    ):
        private[0:4] = b"mine"
        assert private[0:5] == b"mineb"
    assert file.read_bytes() == b"b" * 5000


def test_a_mapped_program_runs(place: Place) -> None:
    """exec maps the binary from the mount; a script's interpreter line is read from it."""
    program = place.path("true")
    shutil.copy2("/bin/true", program)
    assert subprocess.run([program], timeout=30, check=False).returncode == 0
    script = place.file("script", b"#!/bin/sh\nexit 7\n", mode=0o755)
    assert subprocess.run([script], timeout=30, check=False).returncode == 7
    script.chmod(0o644)
    with pytest.raises(PermissionError):
        subprocess.run([script], timeout=30, check=False)


@pytest.mark.parametrize("mode", [0, syscalls.FALLOC_FL_KEEP_SIZE])
def test_fallocate_works_or_is_refused_cleanly(place: Place, mode: int) -> None:
    """pyfuse3 has no handler: EOPNOTSUPP lets callers fall back, and nothing may have changed."""
    file = place.file(content=b"content")
    with opened(file, os.O_RDWR) as fd:
        outcome = errno_of(syscalls.fallocate, fd, mode, 0, 100_000)
    assert outcome in ("OK", "EOPNOTSUPP")
    grown = outcome == "OK" and not mode
    assert file.read_bytes() == b"content" + (bytes(99_993) if grown else b"")


def test_posix_fallocate_grows_the_file(place: Place) -> None:
    """libc writes a byte a block when the kernel can't; git, databases and downloaders use it."""
    file = place.file(content=b"keep")
    with opened(file, os.O_RDWR) as fd:
        os.posix_fallocate(fd, 0, 50_000)
    assert file.read_bytes() == b"keep" + bytes(49_996)


def test_punching_a_hole_zeroes_or_is_refused(place: Place) -> None:
    """Silently ignoring FALLOC_FL_PUNCH_HOLE would leave secrets where zeros were promised."""
    file = place.file(content=b"x" * 20_000)
    mode = syscalls.FALLOC_FL_KEEP_SIZE | syscalls.FALLOC_FL_PUNCH_HOLE
    with opened(file, os.O_RDWR) as fd:
        outcome = errno_of(syscalls.fallocate, fd, mode, 4096, 4096)
    assert outcome in ("OK", "EOPNOTSUPP")
    punched = b"x" * 4096 + bytes(4096) + b"x" * 11_808
    assert file.read_bytes() == (punched if outcome == "OK" else b"x" * 20_000)


def test_seek_data_and_hole_tell_nothing_false(place: Place) -> None:
    """Calling everything data is allowed; calling data a hole would make cp lose it."""
    file = place.file(content=b"d" * 5000)
    with opened(file, os.O_RDWR) as fd:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 100, os.SEEK_HOLE) == 5000
        assert errno_of(os.lseek, fd, 5000, os.SEEK_DATA) == "ENXIO"
        assert errno_of(os.lseek, fd, 5001, os.SEEK_HOLE) == "ENXIO"
        os.ftruncate(fd, MIB)
        os.pwrite(fd, b"more", 2 * MIB)
        os.fsync(fd)
        assert 0 <= os.lseek(fd, 8192, os.SEEK_DATA) <= 2 * MIB
        assert os.lseek(fd, 2 * MIB, os.SEEK_DATA) == 2 * MIB
        assert os.lseek(fd, 0, os.SEEK_END) == 2 * MIB + 4


@pytest.mark.parametrize(
    ("offset", "whence", "expected"),
    [(-1, os.SEEK_SET, "EINVAL"), (-6, os.SEEK_END, "EINVAL"), (0, 99, "EINVAL")],
)
def test_bad_seeks(place: Place, offset: int, whence: int, expected: str) -> None:
    """A position before the start does not exist."""
    with opened(place.file(content=b"12345"), os.O_RDONLY) as fd:
        assert errno_of(os.lseek, fd, offset, whence) == expected


def test_copy_file_range_within_and_between_files(place: Place) -> None:
    """cp uses it; without a handler the kernel copies through the page cache."""
    content = random.Random(1).randbytes(300_000)
    source, target = place.file("source", content), place.file("target", b"T" * 10)
    with opened(source, os.O_RDWR) as src, opened(target, os.O_RDWR) as dst:
        done = 0
        while done < 200_000:
            got = os.copy_file_range(src, dst, 200_000 - done, 1000 + done, 5 + done)
            assert got > 0
            done += got
        assert os.copy_file_range(src, src, 1000, 0, 299_500) == 1000
    assert target.read_bytes() == b"T" * 5 + content[1000:201_000]
    assert source.read_bytes() == content[:299_500] + content[:1000]


def test_sendfile_from_the_mount(place: Place) -> None:
    """Web servers and shutil.copyfile splice pages straight from the file."""
    content = random.Random(2).randbytes(200_000)
    source, target = place.file("source", content), place.file("target")
    with opened(source, os.O_RDONLY) as src, opened(target, os.O_WRONLY) as dst:
        done = 0
        while done < len(content):
            done += os.sendfile(dst, src, done, len(content) - done)
    assert target.read_bytes() == content


def test_fsync_and_fdatasync_of_everything(place: Place) -> None:
    """A file, a read-only descriptor, a directory: all are committed, none refused."""
    file = place.file(content=b"content")
    for path, flags in ((file, os.O_RDWR), (file, os.O_RDONLY), (place.dir, os.O_RDONLY)):
        with opened(path, flags) as fd:
            os.fsync(fd)
            os.fdatasync(fd)
            syscalls.syncfs(fd)


@pytest.mark.parametrize("length", [-1, -(1 << 40)])
def test_negative_lengths_are_invalid(place: Place, length: int) -> None:
    """The kernel refuses before asking the daemon; the file stays."""
    file = place.file(content=b"content")
    assert errno_of(os.truncate, file, length) == "EINVAL"
    assert file.read_bytes() == b"content"


def test_writes_at_absurd_offsets_fail_and_change_nothing(place: Place) -> None:
    """An offset that does not fit must not wrap around to somewhere in the file."""
    file = place.file(content=b"content")
    with opened(file, os.O_RDWR) as fd:
        outcome = errno_of(os.pwrite, fd, b"x", (1 << 63) - 1)
    assert outcome in ("EFBIG", "EINVAL", "EOVERFLOW")
    assert file.read_bytes() == b"content"
