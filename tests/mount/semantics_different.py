"""Checks of "Different, and why" in docs/reference/semantics.md."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from tests.mount.harness import require, run
from tests.mount.place import ALICE, as_user, errno_of, opened
from tests.mount.semantics_page import Ground, row
from tests.mount.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    RENAME_WHITEOUT,
    fallocate,
    renameat2,
    syncfs,
)

MIB = 1 << 20
FICLONE = 0x40049409  # <linux/fs.h>


def made(ground: Ground, name: str, content: bytes = b"") -> Path:
    path = ground.dir / name
    path.write_bytes(content)
    return path


def in_version(ground: Ground, version: int, path: Path) -> Path:
    """Return where *path* is in the tree as it was in *version*."""
    versions = ground.pond.mnt / ".pond" / "versions"
    return versions / str(version) / path.relative_to(ground.pond.mnt)


@row("fsync")
def _fsync(ground: Ground) -> None:
    other = made(ground, "other", b"not synced by itself")
    with opened(ground.dir / "file", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"synced")
        os.fsync(fd)
    newest = int((ground.pond.status())["version"])
    assert in_version(ground, newest, other).read_bytes() == b"not synced by itself"
    assert in_version(ground, newest, ground.dir / "file").read_bytes() == b"synced"


@row("fsync of a removed file")
def _fsync_removed(ground: Ground) -> None:
    with opened(ground.dir / "file", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
        (ground.dir / "file").unlink()
        made(ground, "pending")
        before = ground.pond.status()["version"]
        os.fsync(fd)
        assert ground.pond.status()["version"] == before
    assert ground.pond.status()["pending_nodes"]


@row("atime")
def _atime(ground: Ground) -> None:
    file = made(ground, "file", b"0123456789")
    os.utime(file, (1, 2))
    ground.pond.commit()
    before = ground.pond.status()["version"]
    with opened(file, os.O_RDONLY):
        pass
    moved = file.stat().st_atime_ns
    assert moved > 2 * 10**9
    assert file.read_bytes() == b"0123456789"
    assert file.stat().st_atime_ns == moved  # newer than mtime and ctime: it stays for a day
    assert ground.pond.status()["version"] == before
    # A mount that is only read forgets it.
    pond = ground.make("atime").mount()
    (pond.mnt / "file").write_text("x")
    os.utime(pond.mnt / "file", (1, 2))
    pond.remount()
    assert (pond.mnt / "file").read_text() == "x"
    assert (pond.mnt / "file").stat().st_atime_ns > 2 * 10**9
    pond.remount()
    assert (pond.mnt / "file").stat().st_atime_ns == 10**9


@row("mtime, ctime of a file being written")
def _mtime_while_written(ground: Ground) -> None:
    file = made(ground, "file")
    ground.pond.commit()
    with opened(file, os.O_WRONLY) as fd:
        os.write(fd, b"new")
        shown = os.fstat(fd).st_mtime_ns
    assert file.stat().st_mtime_ns == shown
    ground.pond.commit()
    stored = in_version(ground, ground.pond.status()["version"], file)
    assert (stored.read_bytes(), stored.stat().st_mtime_ns) == (b"new", shown)


@row("xattrs without `-o xattr`")
def _no_xattrs(ground: Ground) -> None:
    file = made(ground, "file")
    assert errno_of(os.setxattr, file, "user.a", b"b") == "EOPNOTSUPP"
    assert errno_of(os.getxattr, file, "user.a") == "EOPNOTSUPP"


@row("default ACLs and umask")
def _default_acl_and_umask(ground: Ground) -> None:
    directory = ground.acl_dir / "dir"
    directory.mkdir()
    run([require("setfacl"), "-d", "-m", "u::rwx,g::rwx,o::rwx", directory])
    before = os.umask(0o027)
    try:
        os.close(os.open(directory / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    # As granted it would be 0666: POSIX has the umask ignored where there is a default ACL.
    assert (directory / "file").stat().st_mode & 0o777 == 0o640


@row("`uid=` `gid=` `umask=`")
def _shown_owners(ground: Ground) -> None:
    file = made(ground, "file", b"x")
    file.chmod(0o600)
    ground.pond.commit()
    other = ground.make("shown", store=ground.pond.store)
    other.mount(f"ro,allow_other,uid={ALICE},gid=7,umask=022")
    shown = (other.mnt / file.relative_to(ground.pond.mnt)).stat()
    assert (shown.st_uid, shown.st_gid, shown.st_mode & 0o7777) == (ALICE, 7, 0o755)
    with as_user(ALICE, other.mnt / ground.dir.name):
        assert Path("file").read_bytes() == b"x"
    other.umount()
    found = file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o600)


@row("a directory's size")
def _directory_size(ground: Ground) -> None:
    for number in range(50):
        made(ground, f"file{number}")
    assert ground.dir.stat().st_size == 0


@row("`fallocate`, `FALLOC_FL_PUNCH_HOLE`")
def _fallocate(ground: Ground) -> None:
    with opened(made(ground, "file", b"x" * 10), os.O_RDWR) as fd:
        assert errno_of(fallocate, fd, 0, 0, MIB) == "EOPNOTSUPP"
        punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        assert errno_of(fallocate, fd, punch, 0, 5) == "EOPNOTSUPP"
        os.posix_fallocate(fd, 0, 8192)
        assert os.pread(fd, 9000, 0) == b"x" * 10 + bytes(8182)


@row("`lseek(SEEK_DATA, SEEK_HOLE)`")
def _seek(ground: Ground) -> None:
    with opened(made(ground, "file"), os.O_RDWR) as fd:
        os.pwrite(fd, b"end", MIB)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB + 3


@row("`copy_file_range`, reflink")
def _copy_range(ground: Ground) -> None:
    source, target = made(ground, "source", b"0123456789"), made(ground, "target")
    with opened(source, os.O_RDONLY) as old, opened(target, os.O_RDWR) as new:
        assert os.copy_file_range(old, new, 5, 5) == 5
        assert os.pread(new, 9, 0) == b"56789"
        assert errno_of(fcntl.ioctl, new, FICLONE, old) in ("EOPNOTSUPP", "ENOTTY", "ENOSYS")


@row("`O_TMPFILE`")
def _tmpfile(ground: Ground) -> None:
    assert errno_of(os.open, ground.dir, os.O_TMPFILE | os.O_RDWR) == "EOPNOTSUPP"


@row("`RENAME_WHITEOUT`, a pond as overlayfs upper layer")
def _whiteout(ground: Ground) -> None:
    file = made(ground, "file")
    assert errno_of(renameat2, file, ground.dir / "other", RENAME_WHITEOUT) == "EINVAL"
    for name in ("upper", "work"):
        (ground.dir / name).mkdir()
    (ground.tmp / "lower").mkdir()
    (ground.tmp / "merged").mkdir()
    layers = f"lowerdir={ground.tmp}/lower,upperdir={ground.dir}/upper,workdir={ground.dir}/work"
    done = run([require("mount"), "-t", "overlay", "overlay", "-o", layers, ground.tmp / "merged"],
               check=False, env={**os.environ, "LC_ALL": "C"})  # fmt: skip
    assert done.returncode != 0
    assert "wrong fs type, bad option" in done.stderr  # mount(8)'s words for EINVAL


@row("sync(2), syncfs(2)")
def _sync(ground: Ground) -> None:
    ground.pond.commit()
    before = ground.pond.status()["version"]
    with opened(ground.dir / "file", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * MIB)
        syncfs(fd)
        found = ground.pond.status()
        assert found["pending_bytes"] >= MIB
        assert found["version"] == before
        os.write(fd, b"y" * MIB)
        ground.pond.commit()
        found = ground.pond.status()
        assert (found["pending_bytes"], found["version"]) == (0, before + 1)


@row("`.pond` in the root")
def _ponddir(ground: Ground) -> None:
    mnt = ground.pond.mnt
    file = made(ground, "file", b"then")
    ground.pond.commit()
    old = in_version(ground, ground.pond.status()["version"], file)
    file.write_bytes(b"now")
    assert old.read_bytes() == b"then"
    assert ".pond" not in os.listdir(mnt)
    assert errno_of(os.open, old, os.O_WRONLY) == "EROFS"
    assert errno_of(os.unlink, old) == "EROFS"
    assert errno_of(os.mkdir, mnt / ".pond") == "EEXIST"
    assert errno_of(os.rmdir, mnt / ".pond") == "EBUSY"
    assert errno_of(os.rename, mnt / ".pond", mnt / "other") == "EBUSY"
    pond = ground.make("off").mount("ponddir=off")
    (pond.mnt / ".pond").mkdir()
    (pond.mnt / ".pond").rmdir()


@row("btime")
def _btime(ground: Ground) -> None:
    assert run([require("stat"), "-c", "%w", made(ground, "file")]).stdout == "-\n"


@row("`st_blocks`")
def _blocks(ground: Ground) -> None:
    pond = ground.make("blocks").mount()
    file = pond.mnt / "file"
    with opened(file, os.O_CREAT | os.O_WRONLY) as fd:
        os.pwrite(fd, b"x" * 1000, MIB)
    assert file.stat().st_blocks == 2
    (pond.mnt / "zeros").write_bytes(bytes(1000))
    pond.remount()
    assert file.stat().st_blocks == 2
    assert (pond.mnt / "zeros").stat().st_blocks == 2


@row("deleting")
def _deleting(ground: Ground) -> None:
    def stored() -> int:
        return sum(path.stat().st_size for path in ground.pond.store.glob("*.parquet"))

    file = made(ground, "file", os.urandom(MIB))
    ground.pond.commit()
    full = stored()
    file.unlink()
    ground.pond.commit()
    assert stored() >= full


@row("other users")
def _other_users(ground: Ground) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        pond = ground.make("private", mnt=Path(place) / "mnt").mount()
        pond.mnt.chmod(0o777)
        with as_user(ALICE, Path(place)):
            assert errno_of(os.listdir, "mnt") == "EACCES"
        pond.umount()
    with as_user(ALICE, ground.dir):  # which is mounted with allow_other
        os.listdir(".")


@row("read-only mounts beside a writer")
def _read_only_beside(ground: Ground) -> None:
    file = made(ground, "file", b"then")
    ground.pond.commit()
    reader = ground.make("beside", store=ground.pond.store).mount("ro")
    file.write_bytes(b"now")
    ground.pond.commit()
    assert (reader.mnt / file.relative_to(ground.pond.mnt)).read_bytes() == b"then"
    reader.umount()
