"""`.pond/history/`: what every file held, against copies kept beside it."""

import json
import os
import random
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from pondfs.interfaces import Lives
from pondfs.node import ROOT
from pondfs.store.delta import DeltaStore
from pondfs.vfs.base import VfsOptions
from pondfs.vfs.past_history import HISTORY
from pondfs.vfs.vfs import Vfs
from tests.mount.harness import PondMount, run
from tests.mount.place import ALICE, BOB, as_user, errno_of

Facts = tuple[bytes, int, int, int, int]


def facts(path: Path | str) -> Facts:
    """Content, mode, owner, group and mtime of a file."""
    info = os.lstat(path)
    return Path(path).read_bytes(), info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns


@dataclass
class File:
    """One file that goes through a lot, and what it was after each commit that changed it."""

    pond: PondMount
    path: Path
    names: list[str] = field(default_factory=list)
    kept: dict[int, Facts] = field(default_factory=dict)

    def commit(self, *, changed: bool = True) -> None:
        self.pond.commit()
        name = str(self.path.relative_to(self.pond.mnt))
        if name not in self.names:
            self.names.append(name)
        if changed:
            self.kept[self.pond.status()["version"]] = facts(self.path)

    def move(self, path: Path) -> None:
        self.path = self.path.rename(path)
        self.commit(changed=False)


def contents(directory: Path) -> dict[int, Path]:
    """The entries of a file's history, by version."""
    return {int(name.split("-", 1)[0]): directory / name for name in os.listdir(directory)}


def told(pond: PondMount, name: str) -> dict[int, str]:
    """What `pond history` says of contents: the names of the entries, by version."""
    events = json.loads(pond.pond("history", "--json", name).stdout)
    return {
        event["version"]: f"{event['version']}-{event['timestamp'][:19].replace(':', '')}Z"
        for event in events
        if {"created", "replaced", "written"} & set(event["what"])
    }


@pytest.fixture
def file(pond: PondMount) -> File:
    """Through three renames, two of them into other directories, and every way to change it."""
    pond.remount("commit=3600,allow_other")
    rng = random.Random(3)
    notes, other = pond.mnt / "notes", pond.mnt / "other place"
    notes.mkdir()
    other.mkdir()
    file = File(pond, notes / "plan.txt")
    file.path.write_bytes(rng.randbytes(9000))
    file.commit()
    with open(file.path, "r+b") as opened:
        opened.seek(4000)
        opened.write(b"in the middle")
    file.commit()
    file.move(notes / "renamed.txt")
    file.path.chmod(0o640)
    os.chown(file.path, ALICE, BOB)
    file.commit(changed=False)
    with open(file.path, "ab") as opened:
        opened.write(b"at the end")
    file.commit()
    file.move(other / "renamed.txt")
    os.truncate(file.path, 100)
    file.commit()
    os.truncate(file.path, 200_000)
    file.commit()
    temporary = other / ".renamed.txt.swp"
    temporary.write_bytes(b"saved as editors do")
    temporary.rename(file.path)
    file.commit()
    file.move(pond.mnt / "top")
    file.path.write_bytes(b"once more")
    file.commit()
    file.path.unlink()
    pond.commit()
    file.path.write_bytes(b"and back")
    os.utime(file.path, ns=(1, 10**18 + 1))
    file.commit()
    other.rename(pond.mnt / "another place")
    pond.commit()
    return file


def test_every_content_is_what_it_was(file: File) -> None:
    """Under each of its names: the same, byte for byte, and what `pond history` tells."""
    pond = file.pond
    assert len(file.names) == 4
    for _ in range(2):
        for name in file.names:
            entries = contents(pond.mnt / ".pond/history" / name)
            if name == "top":
                assert len(entries) == len(file.kept) == 8
            # What it was replaced by, or was restored as, did not exist under the earlier names.
            names = told(pond, name)
            expected = {v: kept for v, kept in file.kept.items() if v in names}
            assert {v: facts(path) for v, path in entries.items()} == expected
            assert {v: path.name for v, path in entries.items()} == names
        pond.remount()


def test_a_copy_is_as_the_file_was(file: File, tmp_path: Path) -> None:
    """With `cp -a`, out of the pond and back to its place."""
    history = file.pond.mnt / ".pond/history/top"
    run(["cp", "-a", history, tmp_path / "all"])
    assert {v: facts(path) for v, path in contents(tmp_path / "all").items()} == file.kept
    version = sorted(file.kept)[2]
    file.path.unlink()
    run(["cp", "-a", contents(history)[version], file.path])
    assert facts(file.path) == file.kept[version]
    run(["tar", "-cf", tmp_path / "tar", "-C", history, "."])


def test_a_moved_directory_shows_what_it_held_under_each_name(file: File) -> None:
    """Only paths that some version had are there."""
    history = file.pond.mnt / ".pond/history"
    assert sorted(os.listdir(history)) == ["another place", "notes", "other place", "top"]
    assert os.listdir(history / "another place") == []
    assert os.listdir(history / "other place") == ["renamed.txt"]
    assert sorted(os.listdir(history / "notes")) == ["plan.txt", "renamed.txt"]
    assert errno_of(os.stat, history / "another place/renamed.txt") == "ENOENT"


def test_what_is_gone_and_what_was_another_thing(pond: PondMount) -> None:
    """A directory removed long ago, names that are no text, a name of many kinds, a symlink."""
    odd = os.fsdecode(b"\xff\xfe*")
    deep = pond.mnt / "gone" / odd
    deep.mkdir(parents=True)
    (deep / odd).write_bytes(b"old")
    (deep / "link").symlink_to("target")
    pond.commit()
    shutil.rmtree(pond.mnt / "gone")
    pond.commit()
    (pond.mnt / "gone").write_bytes(b"a file now")
    pond.commit()
    for number in range(5):
        (pond.mnt / "later").write_bytes(b"%d" % number)
        pond.commit()
    pond.remount()
    gone = pond.mnt / ".pond/history/gone"
    names = os.listdir(gone)
    assert len(names) == 2
    (entry,) = [gone / name for name in names if name != odd]
    assert entry.read_bytes() == b"a file now"
    (old,) = (gone / odd / odd).iterdir()
    assert old.read_bytes() == b"old"
    (link,) = (gone / odd / "link").iterdir()
    assert os.readlink(link) == "target"
    assert stat.S_ISLNK(os.lstat(link).st_mode)


def test_permissions_are_those_of_then(pond: PondMount) -> None:
    """Where a user may not go, he may not go here; a later public name gives nothing away."""
    pond.remount("commit=3600,allow_other")
    secret, public = pond.mnt / "secret", pond.mnt / "public"
    secret.mkdir(0o700)
    (secret / "diary").write_bytes(b"dear diary")
    (secret / "key").write_bytes(b"key")
    (secret / "key").chmod(0o600)
    pond.commit()
    public.mkdir(0o755)
    (secret / "diary").rename(public / "book")
    (public / "book").write_bytes(b"for everybody")
    os.chown(public / "book", ALICE, ALICE)
    pond.commit()
    history = pond.mnt / ".pond/history"
    first, second = [path for _, path in sorted(contents(history / "public/book").items())]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (first, second)] == [0o600, 0o644]
    assert stat.S_IMODE((history / "public/book").stat().st_mode) == 0o555
    assert (history / "public/book").stat().st_uid == ALICE
    with as_user(BOB, pond.mnt):
        assert errno_of(os.listdir, ".pond/history/secret") == "EACCES"
        assert errno_of(os.stat, ".pond/history/secret/diary") == "EACCES"
        assert sorted(os.listdir(".pond/history")) == ["public", "secret"]
        assert errno_of(Path(first.relative_to(pond.mnt)).read_bytes) == "EACCES"
        assert Path(second.relative_to(pond.mnt)).read_bytes() == b"for everybody"
    secret.chmod(0o755)
    pond.commit()
    pond.remount()
    with as_user(BOB, pond.mnt):
        assert sorted(os.listdir(".pond/history/secret")) == ["diary", "key"]
        (key,) = Path(".pond/history/secret/key").iterdir()
        assert errno_of(key.read_bytes) == "EACCES"
        for entry in Path(".pond/history/secret/diary").iterdir():
            assert errno_of(entry.read_bytes) == ("OK" if entry.name == second.name else "EACCES")
    pond.mnt.chmod(0o700)
    assert stat.S_IMODE(history.stat().st_mode) == 0o700
    pond.mnt.chmod(0o755)


def numbers(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_ino for path in root.rglob("*")}


def test_inode_numbers_are_their_own_and_stable(file: File) -> None:
    """Also after the kernel has forgotten them, and the daemon with it."""
    pond = file.pond
    before = numbers(pond.mnt / ".pond/history")
    assert len(set(before.values())) == len(before) > 20
    version = pond.status()["version"]
    others = {*numbers(pond.mnt).values(), *numbers(pond.mnt / f".pond/at/v{version}").values()}
    assert not set(before.values()) & others
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert numbers(pond.mnt / ".pond/history") == before
    (pond.mnt / "new").write_bytes(b"new")
    pond.commit()
    after = numbers(pond.mnt / ".pond/history")
    assert {name: after[name] for name in before} == before


def test_a_new_version_is_there_at_once(pond: PondMount) -> None:
    """Though its name was asked for before, and a listing is open, and the directory is held."""
    path, history = pond.mnt / "file", pond.mnt / ".pond/history/file"
    assert errno_of(os.stat, history) == "ENOENT"
    for number in range(5):
        path.write_bytes(b"%d" % number)
        pond.commit()
        assert [entry.read_bytes() for _, entry in sorted(contents(history).items())] == [
            b"%d" % n for n in range(number + 1)
        ]
        os.chdir(history)
    os.chdir("/")
    held = os.open(history, os.O_RDONLY)
    try:
        path.write_bytes(b"with the directory open")
        pond.commit()
        assert len(os.listdir(held)) == 6
    finally:
        os.close(held)


def test_find_and_du_end(pond: PondMount) -> None:
    """Though directories were in each other; and what they saw is not kept."""
    pond.remount("commit=3600")
    a, b = pond.mnt / "a", pond.mnt / "b"
    a.mkdir()
    (a / "inside").write_bytes(bytes(10_000))
    for _ in range(3):
        b.mkdir(exist_ok=True)
        a = a.rename(b / "a")
        pond.commit()
        a = a.rename(pond.mnt / "a")
        b = b.rename(a / "b")
        pond.commit()
        b = b.rename(pond.mnt / "b")
        pond.commit()
    for number in range(300):
        (a / f"file{number}").write_bytes(b"%d" % number)
    pond.commit()
    found = run(["find", ".pond/history", "-type", "d"], cwd=pond.mnt).stdout.splitlines()
    assert sorted(path for path in found if "file" not in path) == [
        ".pond/history", ".pond/history/a", ".pond/history/a/b", ".pond/history/a/inside",
        ".pond/history/b", ".pond/history/b/a", ".pond/history/b/a/inside",
    ]  # fmt: skip
    used = run(["du", "-s", "--apparent-size", "-B1", ".pond/history"], cwd=pond.mnt).stdout
    # Each path a file had shows its content once more.
    assert int(used.split()[0]) == 2 * 10_000 + sum(len(str(n)) for n in range(300))
    status = pond.mnt / ".pond/status"
    seen = json.loads(status.read_text())["nodes_in_memory"]
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert json.loads(status.read_text())["nodes_in_memory"] <= seen - 600


def test_a_long_listing_is_whole(pond: PondMount) -> None:
    """More contents than fit into one reply, and names of a directory likewise."""
    pond.remount("commit=3600")
    path = pond.mnt / "file"
    many = pond.mnt / "many"
    many.mkdir()
    for number in range(1000):
        (many / f"a name of some length {number}").touch()
    for number in range(150):
        path.write_bytes(b"%d" % number)
        with open(path, "rb") as opened:
            os.fsync(opened)
    history = pond.mnt / ".pond/history"
    entries = sorted(contents(history / "file").items())
    assert [int(entry.read_bytes()) for _, entry in entries] == list(range(150))
    assert sorted(os.listdir(history / "many")) == sorted(os.listdir(many))


def test_every_write_is_erofs(file: File) -> None:
    history = file.pond.mnt / ".pond/history"
    entry = max(contents(history / "top").items())[1]
    for write in (
        lambda: entry.write_bytes(b"x"),
        entry.unlink,
        lambda: entry.chmod(0o777),
        lambda: os.truncate(entry, 0),
        lambda: entry.rename(file.path),
        lambda: os.link(entry, file.pond.mnt / "linked"),
        lambda: entry.with_name("new").touch(),
        lambda: (history / "new").mkdir(),
        lambda: (history / "notes").rmdir(),
        lambda: (history / "notes").rename(history / "x"),
        lambda: os.utime(history / "notes"),
    ):
        assert errno_of(write) == "EROFS"


def test_without_a_pond_directory_it_is_not_there(pond: PondMount) -> None:
    assert os.listdir(pond.mnt / ".pond/history") == []
    assert "history" in os.listdir(pond.mnt / ".pond")
    pond.remount("ponddir=off")
    assert errno_of(os.stat, pond.mnt / ".pond/history") == "ENOENT"


def test_the_rows_are_let_go_of(tmp_path: Path) -> None:
    """When nobody has asked for a while; and whoever asks then is answered all the same."""
    DeltaStore.create(tmp_path / "store")
    store = DeltaStore.open_reader(tmp_path / "store")
    opened: list[Lives] = []

    async def main() -> None:
        vfs = Vfs(store, VfsOptions(read_only=True))
        open_lives = store.open_lives

        def count() -> Lives:
            opened.append(open_lives())
            return opened[-1]

        vfs.store.open_lives = count  # type: ignore[method-assign]
        assert vfs.nodes.get(HISTORY).parent != ROOT
        history = vfs.past.history
        for _ in range(2):
            assert await history.list_names(HISTORY) == []
            assert await history.list_names(HISTORY) == []
            await trio.sleep(100)
            assert history._lives is None

    trio.run(main, clock=MockClock(autojump_threshold=0.05))
    assert len(opened) in (2, 4)  # the clock jumps while a thread is waited for
    store.close()
