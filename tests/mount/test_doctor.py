"""``pond doctor`` finds what is wrong with mounts, locks and the machine; what it says helps.

Every situation is a real one: a daemon that was killed or stopped, a lock that is held, a library
that does not load.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pondfs
from pondfs.control.protocol import find_sockets
from pondfs.store.lock import WriterLock
from tests.conftest import MakePond
from tests.mount.doctor import Report, examine, examine_as, look_around, obey
from tests.mount.harness import PondMount, command, is_mounted, require, run, wait_gone, wait_until
from tests.mount.place import ALICE

# Of the machine the tests run on, which may lack something that these are not about.
POND_LOOKS = (
    "mounts", "sockets", "mounted", "store", "lock", "filesystem", "publishing", "set aside",
    "messages", "log", "times", "journal", "image", "strays",
)  # fmt: skip


def ask(pond: PondMount) -> Report:
    return look_around(pond.store, pond.env)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process from running, as Ctrl-Z does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state(pid) == "T", "the process is stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_healthy_pond_has_nothing_above_a_note(pond: PondMount) -> None:
    (pond.mnt / "file").write_text("x")
    pond.commit()
    report = examine(pond.env, pond.mnt)
    assert not report.worse_than("note", *POND_LOOKS)
    assert report.told["store"] == str(pond.store)
    assert report.told["mountpoint"] == str(pond.mnt)
    assert f"process {pond.pid} answers" in report.get("mounts", "ok")["message"]
    assert str(pond.pid) in report.get("lock", "ok")["message"]
    pond.umount()
    report = examine(pond.env, pond.store)
    assert not report.worse_than("note", *POND_LOOKS)
    assert "not mounted" in report.get("mounted", "ok")["message"]
    looks = {finding["look"] for finding in report.told["findings"]}
    assert looks >= {*POND_LOOKS, "fuse device", "fusermount3", "kernel", "libraries", "clock",
                     "fuse.conf", "mount helpers", "space"} - {"mounts"}  # fmt: skip


def test_a_person_reads_what_to_do(pond: PondMount) -> None:
    pond.store.chmod(0o777)
    told = pond.run("pond", "doctor", str(pond.store), check=False)
    assert told.returncode >= 15
    quiet = told.stdout
    assert "warning  store" in quiet
    assert f"    chmod go-w {pond.store}\n" in quiet
    said = pond.run("pond", "doctor", "-v", str(pond.store), check=False).stdout
    assert len(said.splitlines()) > len(quiet.splitlines())
    assert "\nok " in said
    assert "\nok " not in "\n" + quiet
    assert said.splitlines()[-1] == quiet.splitlines()[-1]
    assert "found all as it should be" in quiet.splitlines()[-1]


# --- mounts ---


def test_a_daemon_that_was_killed(pond: PondMount) -> None:
    pid = pond.pid
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    assert "ENOTCONN" in ask(pond).get("mounts", "error")["message"]
    report = examine(pond.env, pond.mnt)
    assert "ENOTCONN" in report.get("mounts", "error")["message"]
    assert f"process {pid}, which had" in report.get("lock", "note")["message"]
    obey(report.get("mounts", "error"), pond.env)
    assert is_mounted(pond.mnt)
    assert not ask(pond).worse_than("note", *POND_LOOKS)


def test_a_daemon_that_is_stopped(pond: PondMount) -> None:
    """And nobody is kept waiting: whoever touches the mount would be."""
    with stopped(pond.pid):
        finding = examine(pond.env, pond.mnt).get("mounts", "error")
        assert f"process {pond.pid} is stopped" in finding["message"]
        assert finding["command"] == f"kill -CONT {pond.pid}"
        obey(finding, pond.env)
        assert not ask(pond).worse_than("note", *POND_LOOKS)


def test_without_a_name_all_mounts_are_looked_at(pond: PondMount) -> None:
    with stopped(pond.pid):
        report = examine(pond.env, None)
    assert any(
        str(pond.mnt) in finding["message"] and finding["severity"] == "error"
        for finding in report.worse_than("note", "mounts")
    )


def test_a_control_socket_that_was_removed(pond: PondMount) -> None:
    (socket,) = find_sockets(pond.mnt, 0)
    socket.unlink()
    (pond.mnt / "file").write_text("kept")
    pid = pond.pid
    obey(ask(pond).get("mounts", "warning"), pond.env)
    wait_gone(pid)
    pond.mount()
    assert (pond.mnt / "file").read_text() == "kept"
    assert not ask(pond).worse_than("note", *POND_LOOKS)


def test_a_socket_that_a_killed_daemon_left(pond: PondMount) -> None:
    """Looked at in a mount namespace whose sockets are ours alone: other tests leave some, too."""
    (socket,) = find_sockets(pond.mnt, 0)
    with tempfile.TemporaryDirectory(prefix="pondfs-", dir=socket.parent.parent) as place:
        alone = Path(place)
        (alone / socket.name).hardlink_to(socket)
        script = f'mount --bind {alone} {socket.parent} && exec "$@"'

        def look() -> dict[str, Any]:
            done = run(
                [require("unshare"), "-m", "sh", "-c", script, "sh", command("pond"), "doctor",
                 "--json", "--timeout", "120", pond.store], env=pond.env, check=False,
            )  # fmt: skip
            told = Report(json.loads(done.stdout), pond.env).told["findings"]
            (finding,) = (each for each in told if each["look"] == "sockets")
            return dict(finding)

        assert look()["severity"] == "ok"
        pond.kill()
        finding = look()
        assert finding["severity"] == "note"
        assert f"1 control socket of daemons that were killed: {socket}." in finding["message"]
        assert finding["command"] == f"rm {socket}"
        obey(finding, pond.env)
        (alone / socket.name).unlink()
        assert look()["severity"] == "ok"


def test_a_mount_that_was_detached_while_its_daemon_goes_on(pond: PondMount) -> None:
    pid = pond.pid
    with (pond.mnt / "file").open("w") as file:
        run([require("umount"), "-l", "-i", pond.mnt])
        report = ask(pond)
        assert f"process {pid} has the pond open" in report.get("lock", "warning")["message"]
        with stopped(pid):
            finding = ask(pond).get("lock", "warning")
            assert "the process is stopped" in finding["message"]
            obey(finding, pond.env)
        file.write("the last")
    wait_gone(pid)
    assert not ask(pond).worse_than("note", *POND_LOOKS)


def test_fsync_turned_off_in_the_daemon(pond_unmounted: PondMount, tmp_path: Path) -> None:
    """A library called so, as what counts is that it is mapped; what it does is nothing."""
    library = tmp_path / "libeatmydata.so"
    (libm,) = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libm.so" in line or "/libm-" in line
    }
    shutil.copyfile(libm, library)
    pond = pond_unmounted
    pond.env["LD_PRELOAD"] = str(library)
    pond.mount()
    finding = examine(pond.env, pond.store).get("preload", "error")
    assert finding["command"] == "unset LD_PRELOAD"
    del pond.env["LD_PRELOAD"]
    assert "eatmydata" in ask(pond).get("mounts", "error")["message"]
    pond.remount()
    assert not ask(pond).worse_than("note", *POND_LOOKS)


def test_a_store_on_something_that_hangs(pond: PondMount) -> None:
    """The store of a pond is in another pond, whose daemon is stopped: every look there hangs."""
    inner = pond.mnt / "inner"
    pond.run("pond", "init", str(inner))
    assert "pond in a pond" in look_around(inner, pond.env).get("filesystem", "warning")["message"]
    with stopped(pond.pid):
        report = examine(pond.env, inner, "--timeout", "3")
        hung = [f for f in report.told["findings"] if "no answer within 3 s" in f["message"]]
        assert hung
        assert all(finding["severity"] == "error" for finding in hung)
        # What touches neither is told all the same.
        assert report.get("kernel", "ok")


# --- the lock ---


def test_who_holds_the_lock(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted
    pond.run("pond", "init", str(pond.store))
    directory = str(pond.store / "_pond")
    assert "nobody" in ask(pond).get("lock", "ok")["message"]
    lock = WriterLock(directory, mountpoint="", socket="")
    assert f"process {os.getpid()}" in ask(pond).get("lock", "ok")["message"]
    lock.release()
    lock = WriterLock(directory, mountpoint="/nowhere", socket="")
    message = ask(pond).get("lock", "warning")["message"]
    assert "not mounted at /nowhere: the process is about to" in message
    lock.release()


def test_a_lock_that_another_host_did_not_give_back(pond_unmounted: PondMount) -> None:
    pond = pond_unmounted
    pond.run("pond", "init", str(pond.store))
    told = {"pid": 1, "mountpoint": "/mnt", "host": "some.other.host", "socket": ""}
    (pond.store / "_pond" / "lock").write_text(json.dumps(told))
    assert "some.other.host" in ask(pond).get("lock", "warning")["message"]


def test_a_mount_outside_of_the_container(pond: PondMount) -> None:
    """Its lock is not in the kernel's list there: that does not say that its daemon was killed."""
    with (pond.mnt / "file").open("w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
    assert (pond.store / "_pond" / "journal").exists()
    args = [require("unshare"), "-pf", "--mount-proc", command("pond"), "doctor", "--json"]
    done = run([*args, "--timeout", "120", pond.store], env=pond.env, check=False)
    report = Report(json.loads(done.stdout), pond.env)
    message = report.get("lock", "note")["message"]
    assert f"process {pond.pid}, which had" in message
    assert "can't be seen from here" in message
    assert "in use" in report.get("journal", "ok")["message"]
    assert not report.worse_than("note", *POND_LOOKS)


# --- who asks, and where there is no pond ---


def test_another_user_is_told_so(make_pond: MakePond) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        store, mnt = Path(place) / "pond", Path(place) / "mnt"
        mnt.mkdir()
        pond = make_pond("theirs", store=store, mnt=mnt).mount()
        env = {"PATH": os.environ["PATH"], "HOME": place}
        report = examine_as(ALICE, env, store)
        assert report.get("store", "note")["command"] == f"sudo pond doctor {store}"
        assert "answers nobody else" in report.get("mounts", "note")["message"]
        assert report.get("fuse.conf", "note" if not _allows_other() else "ok")
        assert not report.worse_than("note", *POND_LOOKS)
        pond.close()


def _allows_other() -> bool:
    conf = Path("/etc/fuse.conf")
    return conf.exists() and "user_allow_other" in conf.read_text().splitlines()


def test_a_mount_that_calls_itself_somebody_elses_pond(
    pond_env: dict[str, str], tmp_path: Path
) -> None:
    """As a user can make one; its daemon, who is nobody, has gone."""
    store, mnt = tmp_path / "pond", tmp_path / "mnt"
    run([command("pond"), "init", store], env=pond_env)
    mnt.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={ALICE},group_id={ALICE}"
    made = libc.mount(bytes(store), bytes(mnt), b"fuse.pond", 0, options.encode())
    os.close(fd)
    assert made == 0, os.strerror(ctypes.get_errno())
    try:
        message = examine(pond_env, mnt).get("mounted", "warning")["message"]
    finally:
        run([require("umount"), "-l", "-i", mnt])
    assert f"user {ALICE} mounted {mnt}" in message


def test_where_there_is_no_pond(pond_env: dict[str, str], tmp_path: Path) -> None:
    finding = examine(pond_env, tmp_path / "none").get("store", "error")
    assert "there is no pond" in finding["message"]
    obey(finding, pond_env)
    assert not look_around(tmp_path / "none", pond_env).worse_than("note", *POND_LOOKS)
    # Nobody named one: that is no fault, if it is not there. HOME and XDG are not root's default.
    env = {**pond_env, "HOME": "/nowhere", "XDG_DATA_HOME": ""}
    report = examine_as(ALICE, env)
    assert "the default place" in report.get("store", "note")["message"]
    assert run([command("pond"), "doctor", ""], env=pond_env, check=False).returncode == 1


def test_a_creation_that_was_interrupted(pond_env: dict[str, str], tmp_path: Path) -> None:
    env = {**pond_env, "PONDFS_FAULT": "create:table"}
    run([command("pond"), "init", tmp_path / "half"], env=env, check=False)
    finding = look_around(tmp_path / "half", pond_env).get("store", "error")
    assert "was interrupted" in finding["message"]
    obey(finding, pond_env)
    assert not look_around(tmp_path / "half", pond_env).worse_than("note", *POND_LOOKS)


# --- the machine ---


def doctor_with(modules: Path, env: dict[str, str], *options: str) -> Report:
    """Ask a pond doctor that finds *modules* before those that are installed."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pondfs.cli import main; main()",
            "doctor",
            "--json",
            "/none",
            *options,
        ],
        env={**env, "PYTHONPATH": str(modules)},
        stdout=subprocess.PIPE,
        cwd="/",
        timeout=60,
        check=False,
    )
    return Report(json.loads(done.stdout), env)


def test_libraries(pond_env: dict[str, str], tmp_path: Path) -> None:
    """One that is too old, one that does not load; each is told, and the others are."""
    old = tmp_path / "trio-0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: trio\nVersion: 0.1\n")
    (tmp_path / "fsspec.py").write_text("raise ImportError('libsomething.so is missing')")
    report = doctor_with(tmp_path, pond_env)
    told = " ".join(finding["message"] for finding in report.worse_than("warning", "libraries"))
    assert "trio 0.1 is here, >=0.27 is needed" in told
    assert "can't be loaded: libsomething.so is missing" in told
    fine = [
        finding["message"].split()[0]
        for finding in report.told["findings"]
        if (finding["look"], finding["severity"]) == ("libraries", "ok")
    ]
    # Each by itself, and what is not imported by its own name as well.
    assert {"Python", "pyarrow", "libfuse", "python-json-logger", "zlib-ng"} <= set(fine)
    assert not {"trio", "fsspec"} & set(fine)


def test_the_libraries_here(pond_env: dict[str, str]) -> None:
    report = examine(pond_env, "/none")
    assert not [f for f in report.told["findings"]
                if f["look"] == "libraries" and f["severity"] != "ok"]  # fmt: skip


def test_a_library_that_ends_the_process(pond_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "fsspec.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    report = doctor_with(tmp_path, pond_env)
    assert "SIGSEGV" in report.get("libraries", "error")["message"]
    assert report.get("kernel", "ok")
    assert report.get("store", "error")


def test_a_library_that_shuts_up_and_goes_on(pond_env: dict[str, str], tmp_path: Path) -> None:
    """Nobody waits for the end of the process."""
    (tmp_path / "fsspec.py").write_text("import os, signal; os.close(1); signal.pause()")
    report = doctor_with(tmp_path, pond_env, "--timeout", "5")
    assert "no answer within 5 s" in report.get("libraries", "error")["message"]


def test_a_clock_before_pondfs_was_made(pond_env: dict[str, str], tmp_path: Path) -> None:
    source = Path(pondfs.__file__).parent
    shutil.copytree(source, tmp_path / "pondfs", ignore=shutil.ignore_patterns("__pycache__"))
    next_year = time.time() + 365 * 86400
    os.utime(tmp_path / "pondfs" / "__init__.py", (next_year, next_year))
    assert (
        "pondfs was put here on"
        in doctor_with(tmp_path, pond_env).get("clock", "warning")["message"]
    )


def test_no_fuse_device(pond_env: dict[str, str], tmp_path: Path) -> None:
    """In a mount namespace of its own, where something else is in the place of /dev/fuse."""
    plain = tmp_path / "plain"
    plain.touch()
    script = f'mount --bind {plain} /dev/fuse && exec "$@"'
    done = run(
        [require("unshare"), "-m", "sh", "-c", script, "sh", command("pond"), "doctor", "--json",
         tmp_path], env=pond_env, check=False,
    )  # fmt: skip
    report = Report(json.loads(done.stdout), pond_env)
    assert "is no device" in report.get("fuse device", "error")["message"]


def test_a_helper_without_its_rights(pond_env: dict[str, str], tmp_path: Path) -> None:
    """In a mount namespace, too: fusermount3 is a copy there, as an unpacked archive leaves it."""
    real = shutil.which("fusermount3", path="/usr/bin:/bin")
    assert real is not None
    copy = tmp_path / "fusermount3"
    shutil.copyfile(real, copy)
    copy.chmod(0o755)
    script = f'mount --bind {copy} {real} && exec "$@"'
    args = [require("unshare"), "-m", "sh", "-c", script, "sh", command("pond"), "doctor"]
    done = run([*args, "--json", "/none"], check=False, env=pond_env)
    finding = Report(json.loads(done.stdout), pond_env).get("fusermount3", "note")
    assert "does not run as root" in finding["message"]
    assert "chmod 4755" in finding["command"]


@pytest.mark.parametrize(
    ("version", "bounds", "holds"),
    [
        ("3.11.7", ">=3.11", True),
        ("0.27", ">=0.27", True),
        ("0.27.0", "==0.27", True),
        ("0.26.9", ">=0.27", False),
        ("26.0.1", ">=20,<27", True),
        ("27.0", ">=20,<27", False),
        ("2025.3.1", "!=2025.3.1", False),
        ("1.6.6rc1", ">1.6", True),
        ("1.0", "", True),
    ],
)
def test_bounds(version: str, bounds: str, holds: bool) -> None:
    from pondfs.doctor.machine import satisfies

    assert satisfies(version, bounds) is holds


def test_a_bound_nobody_understands_is_not_passed_over() -> None:
    from pondfs.doctor.machine import satisfies

    with pytest.raises(ValueError, match="~="):
        satisfies("1.0", "~=1.0")
