"""Transactions beside a mount: all of it is one version, or nothing of it is anywhere."""

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pondfs.api.backend import Backend
from pondfs.api.transaction import begin
from pondfs.control.reach import connect_mount
from pondfs.errors import Conflict, DaemonGone, DaemonRefused, NotPermitted
from pondfs.extent import Content
from pondfs.mountinfo import find_pond_at
from pondfs.node import Version
from pondfs.oplog import Cut, Row, Summary
from pondfs.store import create
from pondfs.store.datafile import write_data_file
from pondfs.store.rows import commit_row
from tests.conftest import MakePond
from tests.mount.harness import PondMount, run, wait_until

pytestmark = pytest.mark.usefixtures("no_strays")


@pytest.fixture
def no_strays(make_pond: MakePond, tmp_path: Path) -> Iterator[None]:
    """Check that no data file is left that no version refers to."""
    yield
    for log in tmp_path.glob("**/_delta_log"):
        assert strays(log.parent) == set()


def strays(store: Path) -> set[str]:
    """Return data files that are in no version."""
    logged: set[str] = set()
    for entry in (store / "_delta_log").glob("*.json"):
        for line in entry.read_text().splitlines():
            action: dict[str, Any] = json.loads(line)
            logged |= {action[key]["path"] for key in ("add", "remove") if key in action}
    return {path.name for path in store.glob("*.parquet")} - logged


def start(pond: PondMount) -> Backend:
    """Begin a transaction on a mounted pond."""
    mount = find_pond_at(pond.mnt)
    assert mount is not None
    return begin(pond.store, mount)


def put(tree: Backend, path: bytes, data: bytes) -> None:
    """Write a whole file."""
    handle = tree.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    handle.pwrite(data, 0)
    handle.close()


def get(tree: Backend, path: bytes) -> bytes:
    """Read a whole file."""
    handle = tree.open(path, os.O_RDONLY)
    data = handle.pread(1 << 30, 0)
    handle.close()
    return data


def seen(top: Path) -> dict[str, tuple[object, ...]]:
    """Return everything in a tree that a transaction can change, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for here, directories, files in os.walk(top):
        for name in (".", *directories, *files):
            path = Path(here, name)
            info = os.lstat(path)
            what: object = None
            if stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                what = path.read_bytes()
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            found[os.path.relpath(path, top)] = (
                info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev, info.st_size,
                info.st_mtime_ns, tuple(sorted(xattrs.items())), what,
            )  # fmt: skip
    return found


def told(tree: Backend, path: bytes = b"", found: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the same as `seen`, as a transaction shows it."""
    found = {} if found is None else found
    info = tree.lstat(path)
    what: object = None
    if stat.S_ISLNK(info.mode):
        what = os.fsdecode(tree.readlink(path))
    elif stat.S_ISREG(info.mode):
        what = get(tree, path)
    xattrs = {os.fsdecode(key): value for key, value in tree.xattrs(path).items()}
    found[os.fsdecode(path) or "."] = (
        info.mode, info.uid, info.gid, info.nlink, info.rdev, info.size_bytes,
        info.mtime_ns, tuple(sorted(xattrs.items())), what,
    )  # fmt: skip
    if stat.S_ISDIR(info.mode):
        for name in tree.listdir(path):
            told(tree, os.path.join(path, name), found)
    return found


def populate(mnt: Path) -> None:
    """Make a tree with one of everything."""
    (mnt / "d/deep").mkdir(parents=True)
    (mnt / "gone/below").mkdir(parents=True)
    for name in ("keep", "edit", "cut", "moved", "over", "linked", "mode", "timed"):
        (mnt / name).write_bytes(name.encode() * 1000)
    (mnt / "gone/below/f").write_text("x")
    (mnt / "d/deep/f").write_text("in a directory that moves")
    os.link(mnt / "linked", mnt / "linked2")
    os.symlink("keep", mnt / "sym")
    os.mkfifo(mnt / "pipe")


def test_everything_comes_through(make_pond: MakePond) -> None:
    """Each kind of change, as one version with the message; what only moved keeps its number."""
    pond = make_pond().mount("xattr,commit=3600")
    mnt = pond.mnt
    populate(mnt)
    inodes = {name: os.lstat(mnt / name).st_ino for name in ("moved", "d", "d/deep/f", "mode")}
    held = os.open(mnt / "edit", os.O_RDONLY)
    tx = start(pond)
    before, version = seen(mnt), pond.log()[0]["version"]

    tx.mkdir(b"new")
    tx.mkdir(b"new/er")
    put(tx, b"new/er/f\xff", os.urandom(3 << 20))
    put(tx, b"edit", b"rewritten")
    handle = tx.open(b"cut", os.O_RDWR)
    handle.truncate(10)
    handle.pwrite(b"far", 5 << 20)
    handle.fsync()
    handle.close()
    tx.rename(b"moved", b"new/moved")
    tx.link(b"d/deep/f", b"another")
    tx.rename(b"d", b"new/d")
    put(tx, b"new/d/deep/g", b"beside")
    tx.rename(b"over", b"keep")
    tx.unlink(b"gone/below/f")
    tx.rmdir(b"gone/below")
    tx.rmdir(b"gone")
    tx.link(b"linked", b"linked3")
    tx.link(b"new/er/f\xff", b"twice")
    tx.unlink(b"linked2")
    tx.chmod(b"mode", 0o4711)
    tx.chown(b"mode", 12, 34)
    tx.setxattr(b"mode", b"user.a", b"b")
    tx.utime(b"timed", 1, 2)
    tx.utime(b"new", 3, 4)
    tx.chmod(b"", 0o750)
    tx.symlink(b"/somewhere/else", b"new/link")
    tx.unlink(b"sym")
    tx.symlink(b"edit", b"sym")
    tx.unlink(b"pipe")
    tx.mknod(b"dev", stat.S_IFCHR | 0o600, os.makedev(1, 7))
    put(tx, b"temporary", b"comes and goes")
    tx.unlink(b"temporary")

    assert seen(mnt) == before
    assert pond.log()[0]["version"] == version
    wanted = told(tx)
    assert tx.commit("all at once") == version + 1
    assert [(v["version"], v["message"]) for v in pond.log()[:2]] == [
        (version + 1, "all at once"), (version, ""),
    ]  # fmt: skip
    found = seen(mnt)
    assert found.keys() == wanted.keys()
    assert {path: found[path] for path in found if found[path] != wanted[path]} == {}
    for name, inode in inodes.items():
        assert os.lstat(mnt / (name if name == "mode" else f"new/{name}")).st_ino == inode
    assert os.lstat(mnt / "twice").st_ino == os.lstat(os.fsencode(mnt) + b"/new/er/f\xff").st_ino
    assert os.pread(held, 100, 0) == (b"edit" * 1000)[:100]
    os.close(held)
    pond.remount("xattr")
    assert seen(mnt) == found


def test_only_a_time_of_a_directory(make_pond: MakePond) -> None:
    """Little as it is, it is a change; none at all makes no version."""
    pond = make_pond().mount("xattr")
    (pond.mnt / "d").mkdir()
    tx = start(pond)
    tx.utime(b"d", 5, 6)
    assert tx.commit("time") is not None
    assert os.stat(pond.mnt / "d").st_mtime_ns == 6
    newest = pond.log()[0]["version"]
    tx = start(pond)
    assert tx.commit("nothing") is None
    assert pond.log()[0]["version"] == newest


def test_discarding_leaves_nothing(make_pond: MakePond) -> None:
    """Not a file, not a version; what was staged is gone from the store."""
    pond = make_pond().mount("xattr")
    (pond.mnt / "f").write_text("as it was")
    tx = start(pond)
    put(tx, b"big", os.urandom(40 << 20))
    put(tx, b"f", b"changed")
    wait_until(lambda: strays(pond.store), "content is staged")
    before, newest = seen(pond.mnt), pond.log()[0]["version"]
    tx.discard()
    tx.discard()
    with pytest.raises(OSError, match="the pond is closed"):
        tx.lstat(b"f")
    assert seen(pond.mnt) == before
    assert pond.log()[0]["version"] == newest


def test_a_killed_client_leaves_nothing_visible(make_pond: MakePond) -> None:
    """In the middle of it: the tree and the versions are as they were, also after a remount."""
    pond = make_pond().mount("xattr")
    (pond.mnt / "f").write_text("as it was")
    pond.commit()
    before, newest = seen(pond.mnt), pond.log()[0]["version"]
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from pondfs.api.transaction import begin\n"
        "from pondfs.mountinfo import find_pond_at\n"
        "tx = begin(Path(sys.argv[1]), find_pond_at(sys.argv[2]))\n"
        "tx.unlink(b'f')\n"
        "tx.open(b'big', os.O_WRONLY | os.O_CREAT).pwrite(os.urandom(70 << 20), 0)\n"
        "print('there', flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", script, str(pond.store), str(pond.mnt)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        client.send_signal(signal.SIGKILL)
    left = strays(pond.store)
    assert left
    assert seen(pond.mnt) == before
    assert pond.log()[0]["version"] == newest
    # What it left is removed when it is old.
    pond.umount()
    for name in left:
        os.utime(pond.store / name, (0, 0))
    pond.mount("xattr")
    assert strays(pond.store) == set()
    assert seen(pond.mnt) == before


def test_unrelated_changes_survive(make_pond: MakePond) -> None:
    """Others work meanwhile, in the same directories; all of theirs and all of ours is there."""
    pond = make_pond().mount("xattr,commit=3600")
    mnt = pond.mnt
    (mnt / "shared").mkdir()
    (mnt / "shared/theirs").write_text("1")
    (mnt / "shared/ours").write_text("1")
    (mnt / "shared/only-read").write_text("1")
    tx = start(pond)
    put(tx, b"shared/ours", b"2")
    put(tx, b"shared/new", b"new")
    assert get(tx, b"shared/only-read") == b"1"
    (mnt / "shared/theirs").write_text("2")
    (mnt / "shared/only-read").write_text("2")
    (mnt / "shared/also-new").write_text("theirs")
    pond.commit("theirs")
    (mnt / "shared/pending").write_text("not committed yet")
    assert get(tx, b"shared/theirs") == b"1"
    (mnt / "shared").rename(mnt / "renamed")
    assert tx.commit("ours") is not None
    assert {path.name: path.read_text() for path in (mnt / "renamed").iterdir()} == {
        "theirs": "2", "ours": "2", "new": "new", "only-read": "2", "also-new": "theirs",
        "pending": "not committed yet",
    }  # fmt: skip
    assert pond.log()[0]["message"] == "ours"


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(lambda mnt: (mnt / "d/f").write_text("theirs"), id="same file"),
        pytest.param(lambda mnt: (mnt / "d/f").unlink(), id="file removed"),
        pytest.param(lambda mnt: (mnt / "d/new").write_text("theirs"), id="same new name"),
        pytest.param(lambda mnt: (mnt / "m").rename(mnt / "m2"), id="moved as well"),
        pytest.param(lambda mnt: (mnt / "gone/f").write_text("theirs"), id="in what we remove"),
        pytest.param(lambda mnt: (mnt / "mode").chmod(0o600), id="mode as well"),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_related_changes_conflict(
    make_pond: MakePond, theirs: Callable[[Path], object], committed: bool
) -> None:
    """Then nothing is done at all, whether theirs is a version already or not."""
    pond = make_pond().mount("xattr,commit=3600")
    mnt = pond.mnt
    for name in ("d", "gone"):
        (mnt / name).mkdir()
    for name in ("d/f", "m", "mode"):
        (mnt / name).write_text("before")
    tx = start(pond)
    put(tx, b"d/f", b"ours")
    put(tx, b"d/new", b"ours")
    put(tx, b"unrelated", b"ours")
    tx.rename(b"m", b"d/m")
    tx.rmdir(b"gone")
    tx.chmod(b"mode", 0o640)
    theirs(mnt)
    if committed:
        pond.commit("theirs")
    before = seen(mnt)
    with pytest.raises(Conflict, match="nothing of it was done"):
        tx.commit("ours")
    assert seen(mnt) == before
    assert "ours" not in {version["message"] for version in pond.log()}


def memory_bytes(pid: int, key: str) -> int:
    """Return a figure of ``/proc/PID/status``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


def test_a_large_one_in_bounded_memory(make_pond: MakePond) -> None:
    """100 MB and 3000 files: neither the client nor the daemon holds it all."""
    pond = make_pond().mount("xattr,commit=3600")
    script = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from pondfs.api.transaction import begin\n"
        "from pondfs.mountinfo import find_pond_at\n"
        "tx = begin(Path(sys.argv[1]), find_pond_at(sys.argv[2]))\n"
        "first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for number in range(3000):\n"
        "    if number % 100 == 0: tx.mkdir(b'%d' % (number // 100))\n"
        "    f = tx.open(b'%d/%d' % (number // 100, number), os.O_WRONLY | os.O_CREAT)\n"
        "    f.pwrite(b'%d' % number, 0); f.close()\n"
        "f = tx.open(b'big', os.O_WRONLY | os.O_CREAT)\n"
        "for at in range(200): f.pwrite(bytes([at]) * (1 << 20), at << 20)\n"
        "f.close()\n"
        "print(tx.commit('large'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first)\n"
    )
    before = memory_bytes(pond.pid, "VmRSS")
    done = run([sys.executable, "-c", script, pond.store, pond.mnt])
    version, grown_kib = map(int, done.stdout.split())
    grown = memory_bytes(pond.pid, "VmHWM") - before
    assert max(grown_kib << 10, grown) < 200 << 20
    assert pond.log()[0]["version"] == version
    assert pond.log()[0]["message"] == "large"
    with open(pond.mnt / "big", "rb") as file:
        for at in range(200):
            assert file.read(1 << 20) == bytes([at]) * (1 << 20)
    assert (pond.mnt / "29/2999").read_text() == "2999"


def test_random_changes_come_out_as_they_were_made(make_pond: MakePond) -> None:
    """What the transaction shows before its end is what the mount shows afterwards."""
    pond = make_pond().mount("xattr,commit=3600")
    chance = random.Random(20261121)
    for _ in range(12):
        tx = start(pond)
        for _ in range(60):
            try:
                change_something(tx, chance)
            except OSError as error:
                if error.errno not in USUAL:
                    raise
        wanted = told(tx)
        tx.commit("random")
        assert seen(pond.mnt) == wanted
    found = seen(pond.mnt)
    assert len(found) > 20
    pond.remount("xattr")
    assert seen(pond.mnt) == found


USUAL = (errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.EISDIR, errno.ENOTDIR)


def change_something(tx: Backend, chance: random.Random) -> None:
    """Do one random operation."""
    directories, every = [b""], list[bytes]()
    for directory in directories:
        below = [os.path.join(directory, name) for name in tx.listdir(directory)]
        every += below
        directories += [path for path in below if stat.S_ISDIR(tx.lstat(path).mode)]
    files = [path for path in every if stat.S_ISREG(tx.lstat(path).mode)]
    new = os.path.join(chance.choice(directories), b"n%d" % chance.randrange(12))
    some = chance.choice(every) if every else b""
    what = chance.randrange(9)
    if what <= 1 or not files:
        put(tx, new, chance.randbytes(chance.randrange(5000)))
    elif what == 2:
        tx.mkdir(new)
    elif what <= 4:
        tx.rename(some, chance.choice([new, chance.choice(every)]))
    elif what == 5:
        tx.link(chance.choice(files), new)
    elif what == 6:
        handle = tx.open(chance.choice(files), os.O_RDWR)
        handle.pwrite(chance.randbytes(100), chance.randrange(3000))
        handle.truncate(chance.randrange(6000))
        handle.close()
    elif what == 7:
        tx.chmod(chance.choice(files), chance.choice([0o600, 0o644, 0o755]))
        tx.setxattr(chance.choice(files), b"user.x", chance.randbytes(3))
    elif stat.S_ISDIR(tx.lstat(some).mode):
        tx.rmdir(some)
    else:
        tx.unlink(some)


def test_a_pond_that_is_not_mounted(make_pond: MakePond) -> None:
    """The same promise: one version or none, and an fsync is none."""
    pond = make_pond()
    create(pond.store)
    tx = begin(pond.store, None)
    put(tx, b"big", os.urandom(40 << 20))
    handle = tx.open(b"big", os.O_RDWR)
    handle.fsync()
    handle.close()
    tx.discard()
    tx = begin(pond.store, None)
    assert tx.listdir(b"") == []
    put(tx, b"f", b"x")
    assert tx.commit("one") == 2
    tx.discard()
    pond.mount("xattr")
    assert (pond.mnt / "f").read_text() == "x"


def test_what_the_daemon_refuses(make_pond: MakePond, tmp_path: Path) -> None:
    """Names of no loose data files, files of versions, other users, a read-only mount."""
    pond = make_pond().mount("xattr")
    (pond.mnt / "f").write_text("x")
    pond.commit()
    mount = find_pond_at(pond.mnt)
    assert mount is not None
    version = next(path.name for path in pond.store.glob("*.parquet"))
    outside = "00000000-0000-0000-0000-000000000000.parquet"
    (tmp_path / outside).write_bytes(b"precious")
    with connect_mount(mount) as client:
        for files in ([f"../{outside}"], [str(tmp_path / outside)], [version], [outside], ["x"]):
            with pytest.raises(DaemonRefused, match="no data file") as caught:
                client.call("apply", base=1, files=files, message="")
            assert caught.value.errno == errno.EINVAL
        for wrong in ("x", None, [1]):
            with pytest.raises(DaemonRefused, match="files"):
                client.call("apply", base=1, files=wrong)
    assert (tmp_path / outside).exists()
    assert (pond.store / version).exists()
    assert (pond.mnt / "f").read_text() == "x"
    os.seteuid(65534)
    try:
        with pytest.raises(NotPermitted):
            start(pond)
    finally:
        os.seteuid(0)
    pond.remount("ro")
    with pytest.raises(OSError, match="Read-only"):
        start(pond)


def test_rows_that_are_no_tree(make_pond: MakePond) -> None:
    """Whoever wrote them: refused whole, and the tree is as it was."""
    pond = make_pond().mount("xattr")
    (pond.mnt / "a/b").mkdir(parents=True)
    (pond.mnt / "f").write_text("x")
    pond.commit()
    ids = {name: os.lstat(pond.mnt / name).st_ino for name in ("a", "a/b", "f")}
    a, b, f = ids["a"], ids["a/b"], ids["f"]
    base = pond.log()[0]["version"]
    before = seen(pond.mnt)
    mount = find_pond_at(pond.mnt)
    assert mount is not None

    def row(
        mode: int, part: int, node: int, name: bytes | None = None, *, removed: bool = False,
        content: Content | None = None,
    ) -> Row:  # fmt: skip
        attr = None if removed else (mode, 0, 0, 2, 0, 0, 1, 1, 1)
        offset = None if content is None else content.offset
        return Row("create", 1, part, node, mode, name, removed, attr, None, None, offset, content)

    directory, file, new = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, 12345
    wrong = {
        "slash": [row(file, 1, new, b"x/y")],
        "dots": [row(file, 1, new, b"..")],
        "empty": [row(file, 1, new, b"")],
        "long": [row(file, 1, new, b"n" * 256)],
        "no directory": [row(file, f, new, b"x")],
        "nowhere": [row(file, 777, new, b"x")],
        "other type": [row(directory, 1, f, b"f")],
        "no root": [row(directory, 1, 1, removed=True)],
        "two places": [row(directory, 1, b, b"twice")],
        "below itself": [
            row(directory, 1, a, b"a", removed=True), row(directory, b, a, b"c"),
        ],
        "new circle": [
            row(directory, new, new + 1, b"x"), row(directory, new + 1, new, b"y"),
        ],
        "symlink": [row(stat.S_IFLNK | 0o777, 1, new, b"l")],
        "offset": [row(file, 1, new, b"x", content=Content(b"abc", 3, (1 << 63) - 2))],
    }  # fmt: skip
    for name, rows in wrong.items():
        cut = Cut(Version(base + 1), 1, [], Summary())
        written = write_data_file(os.fspath(pond.store), cut.version, 0, [*rows, commit_row(cut)])
        with connect_mount(mount) as client:
            with pytest.raises(DaemonRefused, match="the transaction has") as caught:
                client.call("apply", base=base, files=[written.name], message=name)
            assert caught.value.errno == errno.EINVAL, name
    assert seen(pond.mnt) == before
    assert pond.log()[0]["version"] == base


def test_the_mount_goes_meanwhile(make_pond: MakePond) -> None:
    """Then nothing was done; a mount that comes back in between will do."""
    pond = make_pond().mount("xattr")
    tx, other = start(pond), start(pond)
    put(tx, b"f", b"1")
    put(other, b"g", b"2")
    pond.remount("xattr")
    assert other.commit("after a remount") is not None
    pond.umount()
    with pytest.raises(DaemonGone, match="unmounted"):
        tx.commit("too late")
    pond.mount("xattr")
    assert [path.name for path in pond.mnt.iterdir()] == ["g"]
