"""``mount.pond``: arguments, options, refusals, and what mount(8) expects of a helper."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import MakePond
from tests.mount import harness
from tests.mount.harness import PondMount, command, daemons_of, mounts, require, run, wait_until
from tests.mount.place import ALICE, as_user, errno_of

pytestmark = pytest.mark.pond_only("about the commands")


def refused(pond: PondMount, *args: str | Path, says: str = "", **changes: str) -> str:
    """Check that ``mount.pond ARGS`` refuses in one line and mounts nothing; return the line."""
    before = [entry for entry in mounts() if entry.mnt == pond.mnt]
    done = run([command("mount.pond"), *args], check=False, env={**pond.env, **changes})
    assert done.returncode > 0, done
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, f"not one line: {done.stderr}"
    assert says in lines[0]
    assert [entry for entry in mounts() if entry.mnt == pond.mnt] == before
    return f"{done.returncode}: {lines[0]}"


def test_a_mount_answers_when_the_command_returns(pond_unmounted: PondMount) -> None:
    """Scripts go on at once; /proc/mounts names the store and the type, as df and findmnt show."""
    pond = pond_unmounted
    done = run([command("mount.pond"), pond.store, pond.mnt], env=pond.env)
    assert done.stderr == ""
    assert os.listdir(pond.mnt) == []
    (entry,) = [entry for entry in mounts() if entry.mnt == pond.mnt]
    assert (entry.source, entry.fstype) == (str(pond.store), "fuse.pond")
    assert {"rw", "default_permissions"} <= set(entry.options)
    assert (pond.store / "_delta_log").is_dir()
    status = pond.status()
    assert status["pid"] == pond.pid
    assert Path(status["mountpoint"]) == pond.mnt
    assert Path(status["store"]) == pond.store


def test_the_daemon_holds_nothing_of_its_caller(pond: PondMount) -> None:
    """Its directory is /, its standard streams lead nowhere, it has a session of its own."""
    proc = Path(f"/proc/{pond.pid}")
    assert os.readlink(proc / "cwd") == "/"
    assert os.getsid(pond.pid) != os.getsid(0)
    for stream in ("0", "1"):
        assert os.readlink(proc / "fd" / stream) == "/dev/null"
    assert not os.readlink(proc / "fd" / "2").startswith("pipe:")


def test_one_positional_is_the_mountpoint_and_pond_names_the_store(
    pond_unmounted: PondMount,
) -> None:
    """``POND=… mount.pond /mnt``."""
    pond = pond_unmounted
    run([command("mount.pond"), pond.mnt], env={**pond.env, "POND": str(pond.store)})
    (pond.mnt / "file").write_bytes(b"content")
    pond.umount()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == b"content"


def test_the_default_store_of_root(tmp_path: Path) -> None:
    """/var/lib/pond, tried in a mount namespace of its own so that the real one stays as it is."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    script = f"""
        set -e
        mount -t tmpfs none /var/lib
        {command("mount.pond")} {mnt}
        echo content > {mnt}/file
        {command("umount.pond")} {mnt}
        ls /var/lib/pond/_delta_log
        {command("mount.pond")} {mnt}
        cat {mnt}/file
        {command("umount.pond")} {mnt}
    """
    done = run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout.endswith("content\n")
    assert ".json" in done.stdout


def test_relative_paths_and_odd_characters(tmp_path: Path, make_pond: MakePond) -> None:
    """The daemon leaves its caller's directory, so paths are resolved before it does."""
    pond = make_pond("störe with spaces, commas, 'quotes\" #?*[é", mnt=tmp_path / "mount point")
    run(
        [command("mount.pond"), pond.store.name, pond.mnt.name, "-o", "commit=3600"],
        cwd=tmp_path,
        env=pond.env,
    )
    (entry,) = [entry for entry in mounts() if entry.mnt == pond.mnt]
    assert entry.source == str(pond.store)
    (pond.mnt / "file").write_bytes(b"content")
    pond.remount()
    assert (pond.mnt / "file").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["new\nline", "caf\udce9", "back\\slash", "per%41cent", "%"])
def test_store_names_that_delta_rs_reads_otherwise(
    pond_unmounted: PondMount, tmp_path: Path, name: str
) -> None:
    """delta-rs takes a path for a URL: such a pond works here and nowhere else, or is refused."""
    pond = pond_unmounted
    pond.store = tmp_path / name
    before = set(os.listdir(tmp_path))
    done = run([command("mount.pond"), pond.store, pond.mnt], check=False, env=pond.env)
    assert "bug" not in done.stderr
    assert set(os.listdir(tmp_path)) - before <= {name}
    if done.returncode == 0:
        (pond.mnt / "file").write_bytes(b"content")
        pond.remount()
        assert (pond.mnt / "file").read_bytes() == b"content"


def test_a_store_deep_in_the_tree(tmp_path: Path, make_pond: MakePond) -> None:
    """A Unix socket's address holds 107 bytes; a store's path may be longer."""
    deep = tmp_path.joinpath(*["d" * 100] * 4)
    pond = make_pond(store=deep / "pond", mnt=deep / "mnt").mount()
    assert pond.status()["pid"] == pond.pid
    pond.commit()


def test_nocreate_refuses_a_missing_store(pond_unmounted: PondMount) -> None:
    """For fstab: an unmounted disk under the store must not become an empty pond."""
    pond = pond_unmounted
    refused(pond, pond.store, pond.mnt, "-o", "nocreate", says=str(pond.store))
    assert not pond.store.exists()
    pond.mount()
    pond.remount("nocreate")


def test_as_mount_calls_it(pond_unmounted: PondMount) -> None:
    """Positionals first, ``-o`` last, and not one variable in the environment."""
    pond = pond_unmounted
    options = "rw,_netdev,nofail,user,users,owner,group,defaults,noauto,x-systemd.automount"
    args: list[str | Path] = [pond.store, pond.mnt, "-n", "-v", "-o", f"{options},commit=7"]
    run([require("env"), "-i", command("mount.pond"), *args])
    assert pond.status()["options"]["commit_s"] == 7
    run([require("env"), "-i", command("umount.pond"), pond.mnt])
    assert not pond.is_mounted()


def test_mount_and_umount_of_util_linux(tmp_path: Path) -> None:
    """`mount -t pond` and plain `umount` find us in /sbin; a private /sbin keeps the real one."""
    sbin, mnt, store = tmp_path / "sbin", tmp_path / "mnt", tmp_path / "store"
    sbin.mkdir()
    mnt.mkdir()
    for name, target in (("mount.pond", "mount.pond"), ("umount.fuse.pond", "umount.pond")):
        (sbin / name).write_text(f'#!/bin/sh\nexec {command(target)} "$@"\n')
        (sbin / name).chmod(0o755)
    script = f"""
        set -e
        mount --bind {sbin} /usr/sbin
        [ /sbin -ef /usr/sbin ] || mount --bind {sbin} /sbin
        mount -t pond {store} {mnt} -o commit=3600,nofail,_netdev,noatime
        grep ' {mnt} fuse.pond ' /proc/mounts
        echo content > {mnt}/file
        umount {mnt}
        pgrep -f '^[^ ]*python[^ ]* [^ ]*mount.pond .*{mnt}' && exit 1
        mount -t pond -o ro,nosuid {store} {mnt}
        cat {mnt}/file
        touch {mnt}/file 2>/dev/null && exit 1
        umount {mnt}
        mount -f -t pond {store} {mnt}
        ls -A {mnt}
    """
    done = run(["unshare", "-m", "--propagation", "private", "sh", "-c", script])
    assert done.stdout.splitlines()[0].startswith(f"{store} {mnt} fuse.pond rw,")
    assert done.stdout.splitlines()[1:] == ["content"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("nonsense", "nonsense"),
        ("ro,nonsense=1", "nonsense"),
        ("commit=soon", "commit"),
        ("commit=-1", "commit"),
        ("commit=", "commit"),
        ("umask=9", "umask"),
        ("uid=no-such-user", "no-such-user"),
        ("gid=-1", "gid"),
        ("max_pending=much", "max_pending"),
        ("attr_timeout=x", "attr_timeout"),
        ("entry_timeout=x", "entry_timeout"),
        ("negative_timeout=x", "negative_timeout"),
        ("log=loud", "loud"),
        ("xattr=maybe", "xattr"),
    ],
)
def test_bad_options_are_refused_by_name(
    pond_unmounted: PondMount, options: str, says: str
) -> None:
    """A typo in fstab must not mount something else than was meant."""
    pond = pond_unmounted
    line = refused(pond, pond.store, pond.mnt, "-o", options, says=says)
    assert line.startswith("1:")
    assert not pond.store.exists()


def test_sloppy_ignores_unknown_options(pond_unmounted: PondMount) -> None:
    """``-s``, as mount(8) passes it on; what is known still counts."""
    pond = pond_unmounted
    pond.run(
        "mount.pond", str(pond.store), str(pond.mnt), "-s", "-o", "nonsense,commit=9,other=thing"
    )
    assert pond.status()["options"]["commit_s"] == 9


@pytest.mark.parametrize(
    "args", [(), ("a", "b", "c"), ("--nonsense", "a"), ("store", ""), ("-o", "ro")]
)
def test_bad_usage_exits_with_1(pond_unmounted: PondMount, args: tuple[str, ...]) -> None:
    """One line that says what is wrong; mount(8) calls that code "incorrect invocation"."""
    assert refused(pond_unmounted, *args).startswith("1:")


def test_help_and_version(pond: PondMount) -> None:
    """Both work without a pond and name every option."""
    text = pond.run("mount.pond", "--help").stdout
    options = "ro allow_other uid= gid= umask= commit= xattr acl max_pending= attr_timeout= "
    for option in (options + "entry_timeout= negative_timeout= nocreate log= cache=").split():
        assert option in text, option
    assert any(char.isdigit() for char in pond.run("mount.pond", "--version").stdout)


def test_bad_places_are_refused(pond_unmounted: PondMount, tmp_path: Path) -> None:
    """Missing mountpoints, files, stores that are no ponds: named, and left as they are."""
    pond, file, foreign = pond_unmounted, tmp_path / "file", tmp_path / "foreign"
    file.write_bytes(b"content")
    foreign.mkdir()
    (foreign / "thesis.tex").write_bytes(b"years of work")
    for args in (
        (pond.store, tmp_path / "missing"),
        (pond.store, file),
        (file, pond.mnt),
        (foreign, pond.mnt),
        (file / "below", pond.mnt),
        ("s3://bucket/pond", pond.mnt),
    ):
        line = refused(pond, *args)
        assert int(line.partition(":")[0]) < 128
    assert os.listdir(foreign) == ["thesis.tex"]
    assert not pond.store.exists()


def test_store_and_mountpoint_inside_each_other_are_refused(tmp_path: Path) -> None:
    """The daemon would wait for itself for ever; symlinks and .. hide it no better."""
    pond = harness.make_pond(tmp_path / "p", tmp_path / "mnt", dict(os.environ))
    store = tmp_path / "store"
    (store / "sub").mkdir(parents=True)
    alias = tmp_path / "alias"
    alias.symlink_to(store)
    for args in (
        (store, store),
        (store, store / "sub"),
        (store / "sub" / "pond", store),
        (alias, store / "sub"),
        (tmp_path / "alias" / "sub" / "pond", store),
        (f"{store}/sub/../../store", store),
    ):
        refused(pond, *args)
    assert os.listdir(store) == ["sub"]


def test_a_second_writer_is_refused_and_told_who_writes(
    pond: PondMount, make_pond: MakePond
) -> None:
    """Two writers would fork history: the first is named by pid and mountpoint, and goes on."""
    second = make_pond("second", store=pond.store)
    (pond.mnt / "file").write_bytes(b"content")
    line = refused(second, second.store, second.mnt)
    assert str(pond.pid) in line
    assert str(pond.mnt) in line
    assert (pond.mnt / "file").read_bytes() == b"content"
    pond.umount()
    second.mount()
    assert (second.mnt / "file").read_bytes() == b"content"


def test_a_reader_beside_a_writer(pond: PondMount, make_pond: MakePond) -> None:
    """``ro`` takes no lock, sees what is committed, and changes nothing."""
    pond.remount("commit=3600")
    (pond.mnt / "committed").write_bytes(b"content" * 10_000)
    pond.commit()
    (pond.mnt / "pending").write_bytes(b"content")
    reader = make_pond("reader", store=pond.store).mount("ro")
    assert os.listdir(reader.mnt) == ["committed"]
    assert (reader.mnt / "committed").read_bytes() == b"content" * 10_000
    assert errno_of((reader.mnt / "new").touch) == "EROFS"
    assert errno_of(os.unlink, reader.mnt / "committed") == "EROFS"
    assert errno_of(os.chmod, reader.mnt / "committed", 0) == "EROFS"
    assert errno_of(os.utime, reader.mnt / "committed") == "EROFS"
    assert errno_of(os.open, reader.mnt / "committed", os.O_WRONLY) == "EROFS"
    pond.commit()
    reader.remount()
    assert sorted(os.listdir(reader.mnt)) == ["committed", "pending"]
    pond.umount()
    assert (reader.mnt / "committed").read_bytes() == b"content" * 10_000
    reader.umount()


def test_uid_gid_and_umask_decide_what_is_shown(pond: PondMount) -> None:
    """As for vfat: one owner for all, some bits for nobody; what is stored stays."""
    (pond.mnt / "dir").mkdir()
    (pond.mnt / "file").write_bytes(b"content")
    for name in ("dir", "file"):
        (pond.mnt / name).chmod(0o777)
    os.chown(pond.mnt / "file", 5, 6)
    pond.remount(f"uid={ALICE}", "gid=77", "umask=027", "allow_other")
    for name in ("dir", "file"):
        info = (pond.mnt / name).stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (ALICE, 77, 0o750)
    with as_user(ALICE, pond.mnt):
        Path("file").write_bytes(b"by Alice")
    pond.remount("commit=5")
    info = (pond.mnt / "file").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (5, 6, 0o777)
    assert (pond.mnt / "file").read_bytes() == b"by Alice"


def test_without_allow_other_others_are_kept_out(pond: PondMount) -> None:
    """The kernel's rule for FUSE: a daemon's owner could otherwise fool other users."""
    with as_user(ALICE, pond.mnt.parent):
        assert errno_of(os.listdir, pond.mnt.name) == "EACCES"


def test_timeouts_of_zero_work(pond_unmounted: PondMount) -> None:
    """Every look-up asks the daemon: slow, and right."""
    pond = pond_unmounted.mount("attr_timeout=0", "entry_timeout=0", "negative_timeout=0")
    assert errno_of(os.stat, pond.mnt / "file") == "ENOENT"
    (pond.mnt / "file").write_bytes(b"content")
    os.rename(pond.mnt / "file", pond.mnt / "other")
    assert errno_of(os.stat, pond.mnt / "file") == "ENOENT"
    assert (pond.mnt / "other").stat().st_size == 7


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_foreground_stays_until_a_signal_and_loses_nothing(
    pond_unmounted: PondMount, signum: signal.Signals
) -> None:
    """``--foreground``, for systemd, containers and debugging; the code after a signal is 0."""
    pond = pond_unmounted
    daemon = subprocess.Popen(
        [command("mount.pond"), "--foreground", pond.store, pond.mnt, "-o", "commit=3600"],
        env=pond.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(pond.is_mounted, "the mount")
        assert pond.pid == daemon.pid
        (pond.mnt / "file").write_bytes(b"content")
        daemon.send_signal(signum)
        printed, _ = daemon.communicate(timeout=30)
    finally:
        daemon.kill()
    assert daemon.returncode == 0, printed
    assert "Traceback" not in printed
    assert not pond.is_mounted()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == b"content"


def test_a_dead_mountpoint_can_be_used_again(pond: PondMount) -> None:
    """After a crash `mount.pond` says what to do, umount.pond clears up, and the data is there."""
    (pond.mnt / "file").write_bytes(b"content")
    pond.commit()
    pid = pond.pid
    os.kill(pid, signal.SIGKILL)
    harness.wait_gone(pid)
    assert harness.is_dead(pond.mnt)
    refused(pond, pond.store, pond.mnt, says="umount")
    pond.umount()
    assert not pond.is_mounted()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == b"content"
    assert len(daemons_of(pond.mnt)) == 1


def test_a_log_that_is_not_for_us_to_write_keeps_nobody_from_mounting(
    make_pond: MakePond,
) -> None:
    """The owner of a store had it lead to a directory of root's: root writes no log there."""
    with tempfile.TemporaryDirectory() as place:  # where others may go, unlike pytest's own
        os.chmod(place, 0o755)
        pond = make_pond(store=Path(place, "pond"), mnt=Path(place, "mnt"))
        pond.run("pond", "init", str(pond.store))
        theirs = Path(place, "of root")
        (pond.store / "_pond").rename(theirs)
        theirs.chmod(0o755)
        run(["chown", "-R", f"{ALICE}:{ALICE}", pond.store])
        (pond.store / "_pond").symlink_to(theirs)
        os.lchown(pond.store / "_pond", ALICE, ALICE)
        pond.mount("ro")
        assert os.listdir(pond.mnt) == []
        pond.close()
        assert not (theirs / "log").exists()
