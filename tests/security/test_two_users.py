"""What one user sees of another's pond: now, in the past, and of the daemon.

One pond of alice's, mounted for everybody, with a history in which modes changed both ways. Bob may
see what its modes let him see, and of the past what they let him see then.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pondfs.control.protocol import find_sockets
from tests.mount import harness
from tests.mount.harness import run, wait_until
from tests.security.users import SHARED_GID, Said, User, modes, reads


@dataclass(frozen=True)
class Shared:
    """Alice's pond, mounted with allow_other."""

    alice: User
    store: Path
    mnt: Path

    def commit(self, script: str) -> int:
        """Let alice do something in the mount; return the version it is."""
        self.alice.sh(f"cd {self.mnt}; {script}")
        done = self.alice.pond("--pond", self.store, "commit")
        return int(done.stdout.split()[1].rstrip(":"))


@pytest.fixture(scope="module")
def shared(alice: User) -> Iterator[Shared]:
    """Return the pond that most tests look at, with nothing in it yet."""
    alice = replace(alice, groups=(SHARED_GID,))
    shared = Shared(alice, alice.home / "shared", alice.home / "shared.mnt")
    alice.sh(f"mkdir {shared.mnt}")
    alice.mount(shared.store, shared.mnt, "allow_other,acl,commit=3600")
    yield shared
    alice.command("umount.pond", shared.mnt)
    log = (shared.store / "_pond" / "log").read_text()
    assert not harness.alarming(log), log


@dataclass(frozen=True)
class History:
    """The versions at which the tree was as the tests know it."""

    old: int
    new: int


@pytest.fixture(scope="module")
def history(shared: Shared) -> History:
    """Return two versions: what is hidden in one is open in the other, and the other way."""
    shared.commit("mkdir box; mkdir -m 700 vault; mkdir open")
    old = shared.commit(
        "cd box; echo old-opened > opened; chmod 600 opened;"
        "echo old-closed > closed; echo old-hidden > hidden; chmod 600 hidden;"
        "echo old-secret > deleted; chmod 600 deleted; echo old-plan > ../vault/plan;"
        "echo old-note > ../open/note; echo old-group > group; chgrp 60003 group; chmod 640 group;"
        "echo old-acl > acl; setfacl -m g:60003:- -m o::r acl"
    )
    new = shared.commit(
        "cd box; chmod 644 opened; echo new-opened > opened;"
        "chmod 600 closed; echo new-closed > closed; echo new-hidden > hidden;"
        "rm deleted; chmod 755 ../vault; echo new-plan > ../vault/plan;"
        "chmod 700 ../open; echo new-note > ../open/note; chmod 644 group; chgrp $(id -g) group;"
        "setfacl -b acl; chmod 644 acl"
    )
    return History(old, new)


def test_modes_are_the_kernels_to_check(shared: Shared, history: History, bob: User) -> None:
    mount = next(entry for entry in harness.mounts() if entry.mnt == shared.mnt)
    assert {"default_permissions", "allow_other", "nosuid", "nodev"} <= set(mount.options)
    box = shared.mnt / "box"
    assert reads(bob, box / "opened", box / "closed", box / "hidden", shared.mnt / "open/note") == {
        str(box / "opened"): "new-opened\n",
        str(box / "closed"): "EACCES",
        str(box / "hidden"): "EACCES",
        str(shared.mnt / "open/note"): "EACCES",
    }
    said = bob.sh(
        f"cd {shared.mnt}; echo x > box/opened; echo x > box/made; rm box/opened; mkdir box/d;"
        "mv box/opened box/moved; chmod 777 box; chown $(id -u) box/opened; ln box/opened l;"
        "ls open; touch box/opened; truncate -s 0 box/opened; setfacl -m u:$(id -u):rwx box",
        check=False,
    )
    assert said.count("ermission denied") + said.count("not permitted") == 12, said
    assert shared.alice.sh(f"cat {box}/opened; ls {box}") == (
        "new-opened\nacl\nclosed\ngroup\nhidden\nopened\n"
    )


def test_a_set_user_id_program_runs_as_who_runs_it(shared: Shared, bob: User) -> None:
    """Now and in the past: whatever rows say, nobody becomes somebody else by them."""
    version = shared.commit("cp /usr/bin/id id; chmod 6755 id")
    for path in (shared.mnt / "id", shared.mnt / f".pond/at/{version}/id"):
        assert bob.sh(f"stat -c %A {path}") == "-rwsr-sr-x\n"
        assert "euid" not in bob.sh(str(path))


@pytest.mark.parametrize("where", ["at/{}", "at/v{}", "versions/{}"])
def test_the_past_has_the_modes_of_then(
    shared: Shared, history: History, bob: User, where: str
) -> None:
    old = shared.mnt / ".pond" / where.format(history.old)
    new = shared.mnt / ".pond" / where.format(history.new)
    seen = reads(
        bob, old / "box/opened", old / "box/closed", old / "box/deleted", old / "vault/plan",
        old / "open/note", new / "box/opened", new / "box/closed", new / "vault/plan",
        new / "open/note", old / "box/group", new / "box/group",
    )  # fmt: skip
    assert list(seen.values()) == [
        "EACCES", "old-closed\n", "EACCES", "EACCES",
        "old-note\n", "new-opened\n", "EACCES", "new-plan\n",
        "EACCES", "EACCES", "old-group\n",
    ]  # fmt: skip
    said = bob.sh(f"ls {old}/vault; echo x > {old}/box/closed; rm {old}/box/closed", check=False)
    assert said.count("ermission denied") + said.count("Read-only") == 3, said


def test_groups_and_acls_of_then_count(shared: Shared, history: History, bob: User) -> None:
    member = replace(bob, groups=(SHARED_GID,))
    old = shared.mnt / f".pond/at/{history.old}/box"
    assert list(reads(member, old / "group", old / "acl").values()) == ["old-group\n", "EACCES"]
    assert list(reads(bob, old / "group", old / "acl").values()) == ["EACCES", "old-acl\n"]


def test_each_content_of_a_file_has_the_mode_it_had(
    shared: Shared, history: History, bob: User
) -> None:
    """A file that was private and is public: its old contents are as private as they were."""
    top = shared.mnt / ".pond/history"
    listing = bob.sh(f"cd {top}; for f in box/* vault/*; do ls -d $f/*; done").split()
    seen = reads(bob, *(top / name for name in listing))
    short = {
        name.partition("-")[0]: text for name, text in zip(listing, seen.values(), strict=True)
    }
    old, new = history.old, history.new
    assert {
        f"box/opened/{old}": "EACCES",
        f"box/opened/{new}": "new-opened\n",
        f"box/closed/{old}": "old-closed\n",
        f"box/closed/{new}": "EACCES",
        f"box/hidden/{old}": "EACCES",
        f"box/deleted/{old}": "EACCES",
        f"vault/plan/{old}": "EACCES",
        f"vault/plan/{new}": "new-plan\n",
    }.items() <= short.items()
    said = bob.sh(f"ls {top}/open", check=False)
    assert "Permission denied" in said, "it is private now"


def test_commands_tell_no_more(shared: Shared, history: History, bob: User) -> None:
    """Through the mount, as bob has no way to the store; each refusal is one line."""
    at = ("--at", str(history.old))
    told = [("cat", "box/opened"), ("cat", *at, "box/closed"), ("diff", str(history.old))]
    refused = [
        ("cat", "box/closed"),
        ("cat", *at, "box/opened"),
        ("cat", *at, "vault/plan"),
        ("history", "open/note"),
        ("log", "open/note"),
        ("ls", "open"),
        ("rm", "box/opened"),
        ("restore", *at, "box/opened"),
        ("undo",),
        ("tag", "mine"),
        ("prune", "--keep-last", "1"),
        ("query", "SELECT * FROM nodes"),
        ("show",),
        ("recover",),
    ]
    of_the_store = [("query", "SELECT 1"), ("show",), ("compact",), ("recover",)]
    by_mount = bob.ponds(*(("--pond", str(shared.mnt), *args) for args in told + refused))
    by_store = bob.ponds(*(("--pond", str(shared.store), *args) for args in of_the_store))
    opened, closed, changed, *rest = by_mount
    assert opened == Said(0, "new-opened\n", "")
    assert closed == Said(0, "old-closed\n", "")
    assert "box/opened" in changed.out
    assert "note" not in changed.out, "what is in a directory that bob can't list"
    for args, said in zip(refused + of_the_store, rest + by_store, strict=True):
        assert said.is_refusal, (args, said)
    assert shared.alice.sh(f"cat {shared.mnt}/box/opened") == "new-opened\n"


def test_texts_are_for_who_may_read_the_root(shared: Shared, bob: User) -> None:
    """They name everybody's paths and messages: no more for anybody than a listing of the root.

    At once: the kernel may not believe for an hour what their modes were.
    """
    names = ["log", "status", "metrics", "control"]
    texts = [shared.mnt / ".pond" / name for name in names]
    assert not {"EACCES"} & set(reads(bob, *texts).values())
    shared.alice.sh(f"chmod 711 {shared.mnt}")
    try:
        assert set(reads(bob, *texts).values()) == {"EACCES"}
        bob.refuses("--pond", shared.mnt, "log")
        assert "EACCES" not in reads(shared.alice, *texts).values()
        shared.alice.sh(f"setfacl -m u:{bob.uid}:rx {shared.mnt}")
        assert "EACCES" not in reads(bob, *texts[:3]).values()
        assert bob.pond("--pond", shared.mnt, "log").stdout
        shared.alice.sh(f"setfacl -m u:{bob.uid}:x {shared.mnt}")
        assert set(reads(bob, *texts).values()) == {"EACCES"}
    finally:
        shared.alice.sh(f"setfacl -b {shared.mnt}; chmod 755 {shared.mnt}")
    assert not {"EACCES"} & set(reads(bob, *texts).values())


def test_what_others_look_for_does_not_make_lines_in_the_log(shared: Shared, bob: User) -> None:
    """A name with a line break in it must not look like a line the daemon wrote, or be one of a
    file that somebody led the log to."""
    forged = "x\n2026-01-01 00:00:00,000 INFO pondfs: forged"
    bob.python(
        "import os, sys; print(os.path.lexists(sys.argv[1]))", shared.mnt / ".pond/at" / forged
    )
    log = shared.store / "_pond" / "log"
    wait_until(lambda: "forged" in log.read_text(), "the daemon to say what it did not find")
    line = next(line for line in log.read_text().splitlines() if "forged" in line)
    assert "/.pond/at" in line
    assert "\\n2026-01-01" in line


# --- without allow_other, and the socket ----------------------------------------------------------


def test_without_allow_other_nobody_comes_in(alice: User, bob: User) -> None:
    """Not even root: whoever mounts could else hand root anything."""
    store, mnt = alice.home / "own", alice.home / "own.mnt"
    alice.sh(f"mkdir {mnt}")
    alice.mount(store, mnt)
    try:
        alice.sh(f"echo x > {mnt}/f")
        assert reads(bob, mnt / "f") == {str(mnt / "f"): "EACCES"}
        with pytest.raises(PermissionError):
            (mnt / "f").read_text()
        verbs = (("log",), ("cat", "f"), ("status",), ("commit",))
        for said in bob.ponds(*(("--pond", str(mnt), *args) for args in verbs)):
            assert said.is_refusal, said
    finally:
        alice.command("umount.pond", mnt)


def _socket_of(user: User, mnt: Path) -> Path:
    """Return where the daemon of *mnt* listens."""
    (found,) = find_sockets(mnt, user.uid)
    return found


_CONNECT = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "try:\n"
    "    s.connect(sys.argv[1])\n"
    "    print(s.makefile().readline())\n"
    "except OSError as error:\n"
    "    print(error.strerror)\n"
)


def test_the_socket_answers_its_owner_and_root_only(shared: Shared, bob: User) -> None:
    """By its directory, by its mode, and by whom the kernel says is asking."""
    path = _socket_of(shared.alice, shared.mnt)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bob.python(_CONNECT, path) == "Permission denied\n"
    path.parent.chmod(0o755)
    try:
        assert bob.python(_CONNECT, path) == "Permission denied\n"
        path.chmod(0o666)
        refused = bob.python(_CONNECT, path)
    finally:
        path.chmod(0o600)
        path.parent.chmod(0o700)
    assert "only the pond's owner and root may ask" in refused
    assert '"pondfs"' not in refused, "bob was greeted, with paths and pids in it"
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(os.fspath(path))
        assert b'"store"' in ours.recv(65536)


def test_a_directory_that_somebody_prepared_is_not_taken(alice: User, bob: User) -> None:
    """`/tmp/pondfs-UID` can be made by anybody: bob makes alice's before she mounts."""
    taken = Path(f"/tmp/pondfs-{bob.uid}")
    run(["rm", "-rf", taken])
    alice.sh(f"mkdir -m 777 {taken}")
    try:
        mnt = bob.home / "late.mnt"
        bob.sh(f"mkdir {mnt}")
        done = bob.command("mount.pond", bob.home / "late", mnt, check=False)
        assert done.returncode
        assert "no place for the control socket" in done.stderr
        assert not harness.is_mounted(mnt)
    finally:
        run(["rm", "-rf", taken])


# --- the store ------------------------------------------------------------------------------------


def test_no_file_of_the_store_is_anybody_elses(shared: Shared, history: History, bob: User) -> None:
    """Whatever the umask, of the daemon and of whoever runs commands."""
    alice, store = shared.alice, shared.alice.home / "by-hand"
    copy = ("cp", "--force", "host:/etc/hostname", "pond:/")
    verbs = (("tag", "t"), copy, ("compact",), copy, ("prune", "--keep-last", "1"), copy)
    at = ("--pond", str(store))
    done = alice.ponds(("init", str(store)), *((*at, *verb) for verb in verbs), umask=0)
    assert [said.code for said in done] == [0] * len(done), done
    # A damaged newest entry is set aside by the next writer.
    alice.sh(f"truncate -s 10 $(ls {store}/_delta_log/*.json | tail -1)")
    assert alice.ponds((*at, *copy), umask=0)[0].code == 0
    assert any("set-aside" in name for name, _ in modes(store))
    for place in (store, shared.store):
        for name, mode in modes(place):
            assert not mode & 0o077, f"{name} has mode {mode:o}"
    assert reads(bob, shared.store / "_delta_log") == {str(shared.store / "_delta_log"): "EACCES"}
    assert "Permission denied" in bob.sh(f"ls {shared.store}", check=False)


def test_a_directory_that_was_there_is_closed(alice: User, bob: User) -> None:
    """Else others could put another pond into its place, and see names and sizes."""
    alice.sh("mkdir -m 777 was-there")
    alice.pond("init", alice.home / "was-there")
    assert modes(alice.home / "was-there")[0] == (".", 0o700)
    alice.sh("mkdir -m 777 not-yours")
    line = bob.refuses("init", alice.home / "not-yours")
    assert "belongs to user" in line
    assert os.listdir(alice.home / "not-yours") == []
