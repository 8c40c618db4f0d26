"""`.pond/` and past mounts: every version of a scripted life, against copies kept beside it."""

import os
import random
import shutil
import stat
import time
from pathlib import Path

import pytest

from tests.mount.harness import PondMount, run
from tests.mount.place import as_user, errno_of

VERSIONS = 25


def same_tree(left: Path, right: Path) -> None:
    """Fail unless both trees hold the same: types, modes, owners, times, links, bytes."""
    run(["diff", "-r", "--no-dereference", left, right])
    listed = run(
        ["rsync", "-aHn", "--checksum", "--delete", "--itemize-changes", f"{left}/", f"{right}/"]
    )
    # The root's own times move with each copy's making; what is in it must not differ.
    changed = [line for line in listed.stdout.splitlines() if not line.endswith(" ./")]
    assert not changed


class Life:
    """A tree that is changed in every way, and a copy of it after each commit."""

    def __init__(self, pond: PondMount, copies: Path) -> None:
        self.pond = pond
        self.copies = copies
        self.rng = random.Random(7)
        self.kept: dict[int, Path] = {}

    def step(self, number: int) -> None:
        root, rng = self.pond.mnt, self.rng
        directory = root / f"dir{number % 4}"
        directory.mkdir(exist_ok=True)
        (directory / f"file{number}").write_bytes(rng.randbytes(rng.randrange(9000)))
        files = sorted(p for p in root.rglob("file*") if p.is_file() and not p.is_symlink())
        victim = rng.choice(files)
        match number % 8:
            case 0:
                victim.rename(root / f"dir{(number + 1) % 4}x")
            case 1:
                os.link(victim, root / f"link{number}")
            case 2:
                victim.unlink()
            case 3:
                os.truncate(victim, 10)
                with open(victim, "ab") as file:
                    file.write(b"after the cut")
            case 4:
                (directory / f"soft{number}").symlink_to("../dir0")
            case 5:
                victim.chmod(0o640)
                os.chown(victim, 5, 6)
            case 6:
                shutil.rmtree(directory)
                directory.write_bytes(b"a file where a directory was")
                directory.rename(root / f"was-dir{number}")
            case 7:
                directory.rename(root / f"moved{number}")
        self.pond.commit(f"step {number}")
        copy = self.copies / str(number)
        run(["cp", "-a", f"{root}/.", copy])
        self.kept[self.pond.status()["version"]] = copy


@pytest.fixture
def life(pond: PondMount, tmp_path: Path) -> Life:
    pond.remount("commit=3600")
    copies = tmp_path / "copies"
    copies.mkdir()
    life = Life(pond, copies)
    for number in range(VERSIONS):
        life.step(number)
    assert len(life.kept) == VERSIONS
    return life


def test_every_version_is_what_it_was(life: Life, tmp_path: Path) -> None:
    """Through versions/, at/ and mounts of their own, before and after a remount."""
    pond = life.pond
    for version, copy in life.kept.items():
        same_tree(copy, pond.mnt / f".pond/versions/{version}")
    pond.remount("commit=3600")
    for version in sorted(life.kept)[::4]:
        same_tree(life.kept[version], pond.mnt / f".pond/at/v{version}")
    other = tmp_path / "old"
    other.mkdir()
    for version in sorted(life.kept)[::8]:
        pond.run("mount.pond", str(pond.store), str(other), "-o", f"ro,version={version}")
        try:
            same_tree(life.kept[version], other)
            assert errno_of((other / "new").touch) == "EROFS"
        finally:
            pond.run("umount.pond", str(other))


def test_old_trees_work_for_programs(life: Life, tmp_path: Path) -> None:
    """find, tar, cp -a and cd, as anywhere."""
    version, copy = sorted(life.kept.items())[VERSIONS // 2]
    old = life.pond.mnt / f".pond/versions/{version}"
    run(["tar", "-cf", tmp_path / "old.tar", "-C", old, "."])
    (tmp_path / "untarred").mkdir()
    run(["tar", "-xpf", tmp_path / "old.tar", "-C", tmp_path / "untarred"])
    same_tree(copy, tmp_path / "untarred")
    run(["cp", "-a", f"{old}/.", tmp_path / "copied"])
    same_tree(copy, tmp_path / "copied")
    found = run(["find", ".", "-printf", "%P\\n"], cwd=old).stdout.splitlines()
    there = run(["find", ".", "-printf", "%P\\n"], cwd=copy).stdout.splitlines()
    assert sorted(found) == sorted(there)


def test_inode_numbers_are_their_own_and_stable(life: Life) -> None:
    """Different from the live ones, and the same after the kernel forgot and asks again."""
    pond, version = life.pond, max(life.kept)
    old = pond.mnt / f".pond/versions/{version}"

    def numbers(root: Path) -> dict[str, int]:
        return {str(p.relative_to(root)): p.lstat().st_ino for p in sorted(root.rglob("*"))}

    before = numbers(old)
    live = numbers(pond.mnt)
    assert before.keys() == live.keys()
    assert not set(before.values()) & set(live.values())
    Path("/proc/sys/vm/drop_caches").write_text("2")
    for other in sorted(life.kept)[:6]:  # more versions than images are kept
        list((pond.mnt / f".pond/versions/{other}").iterdir())
    assert numbers(old) == before


WRITES = {
    "create": lambda old: (old / "new").touch(),
    "mkdir": lambda old: (old / "new").mkdir(),
    "write": lambda old: (old / "file").write_bytes(b"x"),
    "append": lambda old: os.close(os.open(old / "file", os.O_WRONLY | os.O_APPEND)),
    "truncate": lambda old: os.truncate(old / "file", 0),
    "unlink": lambda old: (old / "file").unlink(),
    "rename": lambda old: (old / "file").rename(old / "other"),
    "rename out": lambda old: (old / "file").rename(old.parents[2] / "other"),
    "rename in": lambda old: (old.parents[2] / "file").rename(old / "other"),
    "chmod": lambda old: (old / "file").chmod(0o600),
    "utime": lambda old: os.utime(old / "file", (1, 1)),
    "symlink": lambda old: (old / "new").symlink_to("x"),
    "link": lambda old: os.link(old / "file", old / "new"),
    "link in": lambda old: os.link(old.parents[2] / "file", old / "new"),
    "in at": lambda old: (old.parents[0] / "new").mkdir(),
    "in .pond": lambda old: (old.parents[1] / "new").touch(),
    "log": lambda old: (old.parents[1] / "log").write_bytes(b"x"),
}


def test_every_write_is_erofs(pond: PondMount) -> None:
    """However it is tried; and the live tree is none the worse for it."""
    (pond.mnt / "file").write_bytes(b"content")
    pond.commit()
    old = pond.mnt / ".pond/at/latest"
    assert {name: errno_of(write, old) for name, write in WRITES.items()} == dict.fromkeys(
        WRITES, "EROFS"
    )
    assert (old / "file").read_bytes() == (pond.mnt / "file").read_bytes() == b"content"


def test_times_find_versions(pond: PondMount) -> None:
    """What was newest at a moment is what `at/<moment>` shows; the rest is ENOENT, and logged."""
    file = pond.mnt / "file"
    file.write_bytes(b"one")
    pond.commit()
    between = time.time()
    while time.time() < between + 0.02:  # the grammar's finest step here is a millisecond
        os.sched_yield()
    file.write_bytes(b"two")
    pond.commit()
    at = pond.mnt / ".pond/at"
    assert (at / f"@{between:.3f}" / "file").read_bytes() == b"one"
    assert (at / "latest" / "file").read_bytes() == b"two"
    assert (at / time.strftime("%Y-%m-%d", time.gmtime()) / "file").read_bytes() == b"two"
    file.write_bytes(b"three")
    pond.commit()
    assert (at / "latest" / "file").read_bytes() == b"three", "a new version is there at once"
    for name in ("nonsense", "99999", "v0", "3d-ago", "1999"):
        assert errno_of(os.stat, at / name) == "ENOENT"
    assert "'nonsense' names no version" in pond.daemon_log()
    assert errno_of(os.stat, pond.mnt / ".pond/versions/latest") == "ENOENT"


def test_a_name_that_means_ever_new_versions_costs_nothing(pond: PondMount) -> None:
    """`at/latest` looked at for years: what it meant is forgotten, and its numbers used again."""
    numbers = set()
    for number in range(40):
        (pond.mnt / "file").write_bytes(b"%d" % number)
        pond.commit()
        assert (pond.mnt / ".pond/at/latest/file").read_bytes() == b"%d" % number
        numbers.add((pond.mnt / ".pond/at/latest").stat().st_ino)
    assert len(numbers) < 10


def test_ponddir_hidden_visible_off(pond: PondMount) -> None:
    """Hidden is reachable but not listed, and its name can't be taken; off is not there at all."""
    assert ".pond" not in os.listdir(pond.mnt)
    assert sorted(os.listdir(pond.mnt / ".pond")) == [
        "at",
        "control",
        "history",
        "log",
        "metrics",
        "status",
        "tags",
        "versions",
    ]
    assert errno_of((pond.mnt / ".pond").mkdir) == "EEXIST"
    assert errno_of((pond.mnt / ".pond").rmdir) == "EBUSY"
    pond.remount("ponddir=visible")
    assert ".pond" in os.listdir(pond.mnt)
    pond.remount("ponddir=off")
    assert errno_of(os.stat, pond.mnt / ".pond") == "ENOENT"
    (pond.mnt / ".pond").write_bytes(b"a name like any other")
    pond.remount("ponddir=off")
    assert (pond.mnt / ".pond").read_bytes() == b"a name like any other"


def test_the_texts(pond: PondMount) -> None:
    """log and status are what `pond log` and `pond status` say, each time they are opened."""
    (pond.mnt / "file").write_bytes(b"content")
    pond.commit("a message\nof two lines")
    lines = (pond.mnt / ".pond/log").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(info["version"]) for info in pond.log()]
    assert lines[0].split("\t")[-1] == "a message of two lines"
    assert f'"version": {pond.status()["version"]}' in (pond.mnt / ".pond/status").read_text()


def test_old_permissions_decide(pond: PondMount) -> None:
    """Who could not read a file then can't read it there now, though he may read it today."""
    pond.remount("allow_other")
    secret = pond.mnt / "secret"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    pond.commit()
    version = pond.status()["version"]
    secret.chmod(0o644)
    pond.commit()
    old = pond.mnt / f".pond/versions/{version}/secret"
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    with as_user(60001, pond.mnt):
        assert errno_of(Path("secret").read_bytes) == "OK"
        assert errno_of(Path(f".pond/versions/{version}/secret").read_bytes) == "EACCES"


def test_a_past_mount_needs_ro_and_a_version(pond: PondMount, tmp_path: Path) -> None:
    """One line that says what to do; nothing is mounted."""
    other = tmp_path / "other"
    other.mkdir()
    for options, says in (
        ("version=1", "-o ro"),
        ("ro,version=99", "no version 99"),
        ("ro,at=nonsense", "names no version"),
        ("ro,at=1999", "before the pond's first version"),
        ("ponddir=maybe", "hidden, visible, off"),
    ):
        done = pond.run("mount.pond", str(pond.store), str(other), "-o", options, check=False)
        assert done.returncode in (1, 32)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
