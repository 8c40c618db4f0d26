"""What the daemon has given up, as the kernel tells it; and that it does all the same."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pondfs import confine
from tests.conftest import MakePond
from tests.mount import harness
from tests.mount.harness import PondMount, command, wait_gone
from tests.security.users import User


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def capabilities(pid: int) -> set[int]:
    """Return those that any of its threads has, or could get by executing something."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        facts = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            found |= int(facts[name].strip(), 16)
    return {bit for bit in range(64) if found >> bit & 1}


def permitted() -> frozenset[int]:
    """Return what we have, and so what a daemon has before it gives it up."""
    found = int(status_of(os.getpid())["CapPrm"], 16)
    return frozenset(bit for bit in range(64) if found >> bit & 1)


def test_roots_daemon_keeps_two_capabilities(make_pond: MakePond) -> None:
    """And no group, no core, no way to be looked at or to get any more; nothing of its caller's."""
    pond = make_pond()
    ours, theirs = os.pipe()
    args = [command("mount.pond"), str(pond.store), str(pond.mnt)]
    subprocess.run(args, check=True, pass_fds=[theirs], extra_groups=[4], timeout=60, env=pond.env)
    os.close(theirs)
    readable, _, _ = select.select([ours], [], [], harness.WAIT_TIMEOUT_S)
    assert readable, "the daemon holds what its caller had open"
    os.close(ours)
    assert capabilities(pond.pid) == confine.kept_of(permitted(), is_roots=True)
    facts = status_of(pond.pid)
    assert facts["NoNewPrivs"] == "1"
    assert facts["Groups"] == ""
    assert facts["Umask"] == "0077"
    assert os.readlink(f"/proc/{pond.pid}/cwd") == "/"
    limits = Path(f"/proc/{pond.pid}/limits").read_text()
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file")]
    assert core[4] == "0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_unmounts_what_it_may_not_enter(make_pond: MakePond, number: signal.Signals) -> None:
    """The root of the pond is another user's, and private: root without its powers is nobody."""
    pond = make_pond().mount()
    (pond.mnt / "file").write_text("x")
    os.chown(pond.mnt, 60_001, 60_001)
    pond.mnt.chmod(0o700)
    pid = pond.pid
    os.kill(pid, number)
    wait_gone(pid)
    assert not pond.is_mounted()
    pond.mount()
    assert (pond.mnt / "file").read_text() == "x"


def test_it_does_in_a_container(make_pond: MakePond) -> None:
    """Which has CAP_DAC_OVERRIDE and not CAP_DAC_READ_SEARCH: what was not synced was lost."""
    pond = make_pond()
    setpriv = [harness.require("setpriv"), "--bounding-set=-dac_read_search"]
    # With the journal and a commit a second, it would be on disk already.
    args = [command("mount.pond"), str(pond.store), str(pond.mnt), "-o", "commit=3600,fsync=delta"]
    harness.run([*setpriv, *args], env=pond.env)
    assert confine.CAP_DAC_READ_SEARCH not in capabilities(pond.pid)
    (pond.mnt / "file").write_bytes(b"x" * 300_000)
    os.chown(pond.mnt, 60_001, 60_001)
    pond.mnt.chmod(0o700)
    pid = pond.pid
    os.kill(pid, signal.SIGTERM)
    wait_gone(pid)
    assert not pond.is_mounted()
    pond.mount()
    assert (pond.mnt / "file").read_bytes() == b"x" * 300_000


def test_root_keeps_what_it_takes_to_act_for_the_owner(alice: User) -> None:
    store, mnt = alice.home / "for-her", alice.home / "for-her.mnt"
    alice.pond("init", store)
    alice.sh(f"mkdir {mnt}")
    pond = PondMount(store, mnt, dict(os.environ)).mount("commit=3600")
    try:
        assert capabilities(pond.pid) == confine.kept_of(permitted(), is_roots=False)
        with open(mnt / "file", "w") as file:
            os.fsync(file.fileno())
        pond.commit()
        pond.umount()
    finally:
        pond.close()
    for path in (store, *store.rglob("*")):
        assert path.lstat().st_uid == alice.uid, path


def test_a_users_daemon_is_not_looked_into(alice: User, bob: User) -> None:
    """Its memory has everybody's files in it. Not by its own user either: programs are many."""
    store, mnt = alice.home / "private", alice.home / "private.mnt"
    alice.sh(f"mkdir {mnt}")
    alice.mount(store, mnt)
    try:
        (pid,) = harness.daemons_of(mnt)
        for user in (alice, bob):
            said = user.sh(f"cat /proc/{pid}/environ; cat /proc/{pid}/maps", check=False)
            assert said.count("Permission denied") == 2
        os.kill(pid, signal.SIGTERM)
        wait_gone(pid)
        assert not harness.is_mounted(mnt), "fusermount3 is set-user-id, which it needs"
    finally:
        harness.sweep(mnt)


def test_what_is_executed_can_say_so_itself() -> None:
    """As the process that compacts does: the kernel begins anew with every program."""
    program = (
        "import ctypes, resource; from pondfs.confine import keep_memory_private;"
        "keep_memory_private();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    done = harness.run([sys.executable, "-c", program])
    assert done.stdout == "0 0\n"
