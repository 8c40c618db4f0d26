"""Root works in a store, or looks at a mount, of a user it need not trust.

Backups, quotas, a full disk: root has to. What the user put there must not make root write, or give
away, anything outside the store, nor take a mount for what it says it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pondfs.cli import pond as pond_command
from pondfs.cli.run import run as run_verb
from pondfs.errors import NotPermitted
from pondfs.mountinfo import find_ponds_of, load_mounts
from pondfs.store.delta import DeltaStore
from tests.mount import harness
from tests.mount.harness import PondMount, wait_until
from tests.security.users import Stage, User, modes

VICTIM = "root's own\n"


@pytest.fixture(scope="module")
def template(alice: User) -> Path:
    """Return a pond of alice's with a file in it."""
    store = alice.home / "template"
    copy = ("--pond", str(store), "cp", "host:/etc/hostname", "pond:/")
    assert [said.code for said in alice.ponds(("init", str(store)), copy)] == [0, 0]
    return store


@pytest.fixture
def store(template: Path, alice: User) -> Iterator[Path]:
    """Return a copy of that."""
    store = alice.home / "hers"
    alice.sh(f"cp -a {template} {store}")
    yield store
    alice.sh(f"rm -rf {store}")


@pytest.fixture
def victim(stage: Stage) -> Iterator[Path]:
    """Return a directory of root's, with a file in it under every name that a pond has."""
    place = stage.base / "victim"
    place.mkdir(mode=0o755)
    (place / "file").write_text(VICTIM)
    (place / "file").chmod(0o644)
    yield place
    assert sorted(os.listdir(place)) == ["file"]
    assert (place / "file").read_text() == VICTIM
    for path in (place, place / "file"):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (0, 0)
    assert (place / "file").stat().st_mode & 0o7777 == 0o644
    (place / "file").unlink()
    place.rmdir()


def root_says(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str]:
    code = run_verb(pond_command, "pond", [os.fspath(arg) for arg in args])
    said = capsys.readouterr().err
    assert "bug" not in said
    return code, said


NAMES = ["readers", "rewrite", "image.tmp", "rows.tmp", "journal", "log", "log.1"]


def test_root_writes_through_no_link(
    store: Path, victim: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        alice.sh(f"cd {store}/_pond; rm -f {name}; ln -s {victim}/file {name}")
    for verb in (["tag", "t"], ["compact"], ["prune", "--keep-last", "1"], ["status"], ["ls"]):
        root_says(capsys, "--pond", store, *verb)
    mnt = store.parent / "roots.mnt"
    mnt.mkdir()
    try:
        pond = PondMount(store, mnt, dict(os.environ))
        for left in (["readers"], ["journal"], []):
            # Some of them keep it from being mounted at all.
            for name in left:
                alice.sh(f"rm -f {store}/_pond/{name}")
            args = [str(store), str(mnt), "-o", "log=debug"]
            if pond.run("mount.pond", *args, check=False).returncode == 0:
                with open(mnt / "new", "w") as file:
                    file.write("x")
                    os.fsync(file.fileno())
                pond.umount()
        assert "new" in alice.pond("--pond", store, "ls").stdout, "it was mounted in the end"
    finally:
        harness.sweep(mnt)
        mnt.rmdir()


def test_root_does_not_cut_off_what_the_lock_leads_to(
    store: Path, victim: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was cut to nothing, and written to."""
    alice.sh(f"cd {store}/_pond; rm -f lock; ln -s {victim}/file lock")
    code, said = root_says(capsys, "--pond", store, "tag", "t")
    assert code == 2
    assert "no file of this pond" in said


def test_nor_a_file_of_roots_in_a_directory_for_all(
    store: Path, alice: User, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """She may write where everybody may, so the directory alone says nothing."""
    place = stage.base / "for-all"
    place.mkdir()
    place.chmod(0o1777)
    (place / "lock").write_text(VICTIM)
    (place / "lock").chmod(0o600)
    alice.sh(f"mv {store}/_pond {store}/was; ln -s {place} {store}/_pond")
    code, said = root_says(capsys, "--pond", store, "tag", "t")
    assert code == 2
    assert "no file of this pond" in said
    assert (place / "lock").read_text() == VICTIM
    (place / "lock").unlink()
    place.rmdir()


def test_what_root_made_before_is_roots_still(
    store: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """A daemon of root's once made its log so."""
    for name in ("lock", "log"):
        (store / "_pond" / name).write_text("")
        (store / "_pond" / name).chmod(0o600)
        os.chown(store / "_pond" / name, 0, 0)
    assert root_says(capsys, "--pond", store, "tag", "t") == (0, "")


def test_root_opens_no_pipe_in_the_place_of_a_lock(
    store: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would wait for ever."""
    alice.sh(f"cd {store}/_pond; rm -f lock; mkfifo lock")
    code, said = root_says(capsys, "--pond", store, "rm", "hostname")
    assert code == 2
    assert "no file of this pond" in said


def test_what_root_makes_in_the_store_is_hers(
    store: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.sh(f"rm -rf {store}/_pond")
    assert root_says(capsys, "--pond", store, "tag", "t")[0] == 0
    assert root_says(capsys, "--pond", store, "compact")[0] == 0
    for path in (store, *store.rglob("*")):
        assert path.lstat().st_uid == alice.uid, path
    for name, mode in modes(store):
        assert not mode & 0o077, f"{name} has mode {mode:o}"


def test_a_directory_for_what_is_damaged_is_not_somebody_elses(
    store: Path, victim: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that was in it was given to the owner of the store: whatever she led it to."""
    alice.sh(f"truncate -s 10 $(ls {store}/_delta_log/*.json | tail -1)")
    alice.sh(f"ln -s {victim} {store}/_pond/set-aside")
    code, said = root_says(capsys, "--pond", store, "tag", "t")
    assert code == 2
    assert "Permission denied" in said


def test_what_is_damaged_is_set_aside_as_she_could_read_it(
    store: Path, victim: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log entry that leads to a file of root's is no entry: root made her a copy of it."""
    (victim / "file").chmod(0o600)
    try:
        alice.sh(f"ln -sf {victim}/file $(ls {store}/_delta_log/*.json | tail -1)")
        code, said = root_says(capsys, "--pond", store, "tag", "t")
        assert code == 2
        assert "it is no file of this pond" in said
        for path in store.rglob("*"):
            assert path.is_symlink() or path.is_dir() or VICTIM.encode() not in path.read_bytes()
    finally:
        (victim / "file").chmod(0o644)


@pytest.mark.parametrize("name", ["_pond", "_delta_log"])
def test_a_part_of_the_store_is_no_directory_of_roots(
    store: Path, victim: Path, alice: User, name: str
) -> None:
    if name == "_delta_log":
        alice.sh(f"mv {store}/_delta_log {store}/log-was-here")
    else:
        alice.sh(f"mv {store}/_pond {store}/pond-was-here")
    alice.sh(f"ln -s {victim} {store}/{name}")
    with pytest.raises(NotPermitted, match="root follows only its own"):
        DeltaStore.open_writer(store, mountpoint="", socket="")


def test_a_link_of_roots_is_followed(store: Path, stage: Stage) -> None:
    """Another disk for what can be rebuilt: root may arrange that."""
    place = stage.base / "other-disk"
    os.rename(store / "_pond", place)
    os.chown(place, 0, 0)
    (store / "_pond").symlink_to(place)
    DeltaStore.open_writer(store, mountpoint="", socket="").close()
    for path in sorted(place.rglob("*"), reverse=True):
        path.unlink()
    place.rmdir()


_WITHOUT_SETUID = """
import sys
from pondfs.store.delta import DeltaStore
from pondfs.store.lock import ONESELF, acting_as
hers, own = sys.argv[1:]
with acting_as(None), acting_as(ONESELF):
    pass
DeltaStore.create(own)
DeltaStore.open_writer(own, mountpoint="", socket="").close()
try:
    DeltaStore.open_writer(hers, mountpoint="", socket="").close()
except PermissionError as error:
    print(error.strerror)
"""


def test_without_the_right_to_act_as_her_root_does_nothing(store: Path, tmp_path: Path) -> None:
    """As in some containers: it went on as root, through any link. Its own store is no matter."""
    setpriv = [harness.require("setpriv"), "--bounding-set=-setuid"]
    program = [sys.executable, "-c", _WITHOUT_SETUID]
    done = harness.run([*setpriv, *program, store, tmp_path / "own"])
    assert "takes CAP_SETUID" in done.stdout, done.stderr


# --- mounts ---------------------------------------------------------------------------------------


def test_set_id_files_of_her_store_give_nobody_rights(store: Path, stage: Stage) -> None:
    """She can write rows that say a file is root's, and set-user-id. Root may say it trusts her."""
    mnt = stage.base / "roots.mnt"
    mnt.mkdir()
    pond = PondMount(store, mnt, dict(os.environ))
    try:
        for options, expected in (
            (("allow_other",), {"nosuid", "nodev"}),
            (("suid", "dev"), set()),
            (("suid",), {"nodev"}),
        ):
            pond.mount(*options)
            (entry,) = [entry for entry in harness.mounts() if entry.mnt == mnt]
            assert {"nosuid", "nodev"} & set(entry.options) == expected
            pond.umount()
    finally:
        harness.sweep(mnt)
        mnt.rmdir()


def _lead_to_etc(store: Path) -> None:
    store.rename(store.with_name("moved"))
    store.symlink_to("/etc")


_AFTER_MOUNTING: dict[str, Callable[[Path], object]] = {
    "as it was": lambda store: None,
    "moved": lambda store: store.rename(store.with_name("moved")),
    "replaced": _lead_to_etc,
}


@pytest.mark.parametrize("done", _AFTER_MOUNTING)
@pytest.mark.parametrize("is_hers", [True, False], ids=["hers", "open to all"])
def test_nor_do_copies_that_root_makes_of_them(
    store: Path,
    alice: User,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
    is_hers: bool,
    done: str,
) -> None:
    """Whatever is where the store was when it was mounted."""
    mnt, out = stage.base / "roots.mnt", stage.base / "out"
    out.mkdir()
    mnt.mkdir()
    if not is_hers:
        for path in (store, *store.rglob("*")):
            os.chown(path, 0, 0)
        store.chmod(0o777)
    pond = PondMount(store, mnt, dict(os.environ)).mount()
    moved = store.with_name("moved")
    try:
        (mnt / "tool").write_text("x")
        for name, uid in (("tool", 0), ("bobs", 60_002)):
            (mnt / name).write_text("x")
            os.chown(mnt / name, uid, uid)
            (mnt / name).chmod(0o6755)
        pond.commit()
        _AFTER_MOUNTING[done](store)
        code, said = root_says(
            capsys, "--pond", mnt, "cp", "pond:/tool", "pond:/bobs", f"host:{out}/"
        )
        assert (code, sorted(os.listdir(out))) == (0, ["bobs", "tool"]), said
        for path in out.iterdir():
            assert path.stat().st_mode & 0o7777 == 0o755
    finally:
        if moved.exists():
            if store.is_symlink():
                store.unlink()
            moved.rename(store)
        harness.sweep(mnt)
        mnt.rmdir()
        harness.run(["rm", "-rf", out])
        harness.run(["chown", "-R", f"{alice.uid}:{alice.gid}", store])


def test_of_roots_own_store_they_work(pond: PondMount) -> None:
    (entry,) = [entry for entry in harness.mounts() if entry.mnt == pond.mnt]
    assert not {"nosuid", "nodev"} & set(entry.options)


_IMPOSTOR = """
import errno, os, stat, sys
import pyfuse3, trio
class Impostor(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_uid = inode, stat.S_IFDIR | 0o755, os.getuid()
        return entry
    async def lookup(self, parent, name, ctx=None):
        raise pyfuse3.FUSEError(errno.ENOENT)
pyfuse3.init(Impostor(), sys.argv[2], {f"fsname={sys.argv[1]}", "subtype=pond", "allow_other"})
try:
    trio.run(pyfuse3.main)
finally:
    pyfuse3.close()
"""


def test_a_mount_is_not_believed_to_be_of_a_store_of_somebody_elses(
    alice: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any user can mount something and call it what he likes: root would look there."""
    real = tmp_path / "real"
    DeltaStore.create(real)
    mnt = alice.home / "impostor"
    alice.sh(f"mkdir {mnt}")
    fake = subprocess.Popen(
        [alice.stage.python, "-c", _IMPOSTOR, real, mnt],
        env=alice.env, user=alice.uid, group=alice.gid, extra_groups=[], cwd="/",
    )  # fmt: skip
    try:
        wait_until(lambda: harness.is_mounted(mnt), "the impostor's mount")
        assert [one.source for one in load_mounts() if one.mountpoint == mnt] == [str(real)]
        assert find_ponds_of(real) == []
        assert root_says(capsys, "--pond", real, "ls")[0] == 0
        assert root_says(capsys, "--pond", real, "tag", "t")[0] == 0
        code, said = root_says(capsys, "--pond", mnt, "prune", "--keep-last", "1")
        assert code == NotPermitted.exit_code
        assert "another user's" in said
    finally:
        harness.detach(mnt)
        fake.wait(20)
