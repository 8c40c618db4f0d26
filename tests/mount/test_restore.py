"""``pond restore``, ``undo`` and ``tag`` on a live mount: what programs see of it."""

import contextlib
import hashlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.mount.harness import PondMount, run
from tests.mount.place import ALICE, BOB, Say, as_user, errno_of


def tree_hash(root: Path) -> str:
    """Return one hash over all that is below *root*: names, types, modes, owners, times, bytes."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        digest.update(repr((str(path.relative_to(root)), found.st_mode, found.st_uid)).encode())
        digest.update(repr((found.st_nlink, found.st_mtime_ns)).encode())
        if stat.S_ISREG(found.st_mode):
            digest.update(path.read_bytes())
        elif stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(path.readlink()))
    return digest.hexdigest()


def version(pond: PondMount) -> int:
    found: int = pond.status()["version"]
    return found


def test_a_thousand_files_are_one_version_and_one_undo(pond: PondMount) -> None:
    pond.remount("commit=3600")
    top = pond.mnt / "tree"
    for number in range(1000):
        directory = top / f"d{number % 20}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_text(f"{number}\n" * 3)
    os.link(top / "d0/f0", top / "d1/link")
    (top / "d2/soft").symlink_to("../d0/f0")
    pond.commit()
    before, good = tree_hash(top), version(pond)
    for number in range(1000):
        path = top / f"d{number % 20}/f{number}"
        if number % 10 == 1:
            path.unlink()
        elif number % 10 == 2:
            path.rename(top / f"moved{number}")
        else:
            path.write_text("spoiled")
    (top / "d2").rename(top / "d2 moved")
    (top / "d3").chmod(0o700)
    pond.commit()
    spoiled, bad = tree_hash(top), version(pond)
    assert spoiled != before
    pond.pond("restore", "--at", str(good), f"{top}")
    # At once, in a kernel that knew every name and attribute of before.
    assert tree_hash(top) == before
    assert version(pond) == bad + 1
    assert pond.pond("diff", f"{good}..latest").stdout == ""
    pond.remount()
    assert tree_hash(top) == before
    pond.pond("undo")
    assert tree_hash(top) == spoiled
    assert version(pond) == bad + 2
    pond.remount()
    assert tree_hash(top) == spoiled


def test_open_files_keep_what_they_had(pond: PondMount) -> None:
    """As after a rename over them: reading and writing goes on, and harms nobody."""
    file = pond.mnt / "file"
    file.write_text("good")
    pond.commit()
    good = version(pond)
    file.write_text("bad, and longer")
    other_name = pond.mnt / "other"
    os.link(file, other_name)
    with open(file, "r+") as held:
        number = os.fstat(held.fileno()).st_ino
        pond.pond("restore", "--at", str(good), "file")
        assert file.read_text() == "good"
        assert file.stat().st_size == 4
        assert held.read() == "bad, and longer"
        held.write(" and more")
        held.flush()
        os.fsync(held.fileno())
    assert file.read_text() == "good"
    assert file.stat().st_ino != number
    assert other_name.read_text() == "bad, and longer and more"
    names = [event["what"] for event in json.loads(pond.pond("history", "file", "--json").stdout)]
    assert names[0] == ["replaced"]
    assert names[-1] == ["created"]


def test_the_kernel_forgets_what_is_no_longer_so(pond: PondMount) -> None:
    """Absent names that come, present ones that go, listings, modes, a working directory."""
    directory = pond.mnt / "d"
    directory.mkdir()
    (directory / "was").write_text("x")
    pond.commit()
    good = version(pond)
    (directory / "was").unlink()
    (directory / "came").write_text("y")
    directory.chmod(0o711)
    assert not (directory / "was").exists()
    assert (directory / "came").exists()
    assert os.listdir(directory) == ["came"]
    here = os.open(directory, os.O_RDONLY)
    pond.pond("restore", "--at", str(good), "/d")
    assert os.listdir(here) == os.listdir(directory) == ["was"]
    assert (directory / "was").read_text() == "x"
    assert not (directory / "came").exists()
    assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE(os.fstat(here).st_mode) == 0o755
    os.close(here)
    (directory / "came").write_text("again")
    (directory / "was").write_text("goes on")
    pond.remount()
    assert (directory / "was").read_text() == "goes on"


def test_what_was_pending_is_a_version_of_its_own(pond: PondMount) -> None:
    pond.remount("commit=3600")
    (pond.mnt / "a").write_text("1")
    pond.commit()
    (pond.mnt / "a").write_text("2")
    pond.pond("restore", "--at", "2", "a")
    messages = [entry["message"] for entry in pond.log()]
    assert messages[:2] == ["restore from version 2", "before restore from version 2"]
    assert pond.pond("cat", "--at", "3", "a").stdout == "2"
    assert pond.pond("restore", "--at", "2", "a").stdout == (
        "nothing to do: it is as it was at version 2\n"
    )


def test_a_restore_of_much_content_is_staged_and_whole(pond: PondMount) -> None:
    """More than fits in memory at once, while another program writes and fsyncs."""
    pond.remount("commit=1")
    big = pond.mnt / "big"
    digest = hashlib.sha256()
    with open(big, "wb") as file:
        for number in range(150):
            piece = bytes([number]) * (1 << 20)
            digest.update(piece)
            file.write(piece)
        file.truncate(200 << 20)  # and a hole
    digest.update(bytes(50 << 20))
    pond.commit()
    good = version(pond)
    big.unlink()
    pond.commit()
    stop = threading.Event()

    def write() -> None:
        with open(pond.mnt / "journal", "ab") as journal:
            while not stop.is_set():
                journal.write(b"line\n")
                journal.flush()
                os.fsync(journal.fileno())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        pond.pond("restore", "--at", str(good), "big")
    finally:
        stop.set()
        writer.join()
    for _ in range(2):
        with open(big, "rb") as stored:
            assert hashlib.file_digest(stored, "sha256").digest() == digest.digest()
        assert big.stat().st_blocks * 512 == 150 << 20
        pond.remount()
    # Every version has all of it or nothing.
    for entry in pond.log():
        old = pond.mnt / f".pond/versions/{entry['version']}/big"
        assert not old.exists() or old.stat().st_size in (0, 200 << 20)


def test_without_a_time_the_last_change_is_taken_back(pond: PondMount) -> None:
    pond.remount("commit=3600")
    for text in ("one", "two"):
        (pond.mnt / "file").write_text(text)
        pond.commit()
    (pond.mnt / "other").write_text("later")
    pond.commit()
    pond.pond("restore", "file")
    assert (pond.mnt / "file").read_text() == "one"
    (pond.mnt / "file").unlink()
    pond.pond("restore", "file")
    assert (pond.mnt / "file").read_text() == "one"
    (pond.mnt / "file").write_text("pending")
    pond.pond("restore", "file")
    assert (pond.mnt / "file").read_text() == "one"
    assert (pond.mnt / "other").read_text() == "later"
    assert pond.pond("restore", "other", check=False).returncode == 11
    assert pond.pond("restore", "never", check=False).returncode == 11
    assert pond.pond("restore", "file", "other", check=False).returncode == 1


def test_undo_refuses_what_changed_again(pond: PondMount) -> None:
    pond.remount("commit=3600")
    (pond.mnt / "a").write_text("1")
    (pond.mnt / "b").write_text("1")
    pond.commit()
    (pond.mnt / "a").write_text("2")
    (pond.mnt / "b").write_text("2")
    pond.commit()
    (pond.mnt / "a").write_text("3")
    refused = pond.pond("undo", "3", check=False)
    assert refused.returncode == 12
    assert refused.stderr.startswith("pond: later versions changed what version 3 did: /a; ")
    assert refused.stderr.count("\n") == 1
    assert (pond.mnt / "b").read_text() == "2"
    dry = pond.pond("undo", "3", "--force", "--dry-run").stdout
    assert dry == "M a\nM b\nwould make 2 changes; nothing was done\n"
    pond.pond("undo", "3", "--force")
    assert [(pond.mnt / name).read_text() for name in "ab"] == ["1", "1"]
    pond.pond("undo")
    assert [(pond.mnt / name).read_text() for name in "ab"] == ["3", "2"]
    assert pond.pond("undo", "1", check=False).returncode == 1


def test_copies_beside(pond: PondMount) -> None:
    (pond.mnt / "d/e").mkdir(parents=True)
    (pond.mnt / "d/e/f").write_text("old")
    pond.commit()
    (pond.mnt / "d/e/f").write_text("new")
    done = json.loads(pond.pond("restore", "--at", "2", "d", "--to", "d.old", "--json").stdout)
    assert (done["at"], done["version"]) == (2, version(pond))
    assert [change["path"] for change in done["changes"]] == ["d.old", "d.old/e", "d.old/e/f"]
    assert (pond.mnt / "d.old/e/f").read_text() == "old"
    assert (pond.mnt / "d/e/f").read_text() == "new"
    again = pond.pond("restore", "--at", "2", "d/e/f", "--to", "d.old/e", check=False)
    assert (again.returncode, again.stderr) == (
        12, "pond: /d.old/e/f is there already: restore to another name\n",
    )  # fmt: skip


def test_an_unmounted_pond(pond: PondMount) -> None:
    (pond.mnt / "f").write_text("old")
    pond.commit()
    (pond.mnt / "f").write_text("new")
    pond.umount()
    pond.pond("tag", "new")
    pond.pond("restore", "--at", "2", "f")
    assert pond.pond("cat", "f").stdout == "old"
    pond.pond("undo")
    assert pond.pond("diff", "new").stdout == ""
    assert pond.pond("restore", "--at", "2", "none", check=False).returncode == 11
    assert pond.pond("restore", "--at", "77", "f", check=False).returncode == 10
    pond.mount()
    assert (pond.mnt / "f").read_text() == "new"


# --- tags -----------------------------------------------------------------------------------------


def test_tags_are_directories(pond: PondMount) -> None:
    pond.remount("commit=3600")
    tags = pond.mnt / ".pond/tags"
    (pond.mnt / "file").write_text("one")
    (tags / "before-upgrade").mkdir()
    pinned = version(pond)
    assert pinned == 2
    (pond.mnt / "file").write_text("two")
    for old in (tags / "before-upgrade", pond.mnt / ".pond/at/before-upgrade"):
        assert (old / "file").read_text() == "one"
        assert errno_of((old / "file").write_text, "x") == "EROFS"
    assert os.listdir(tags) == ["before-upgrade"]
    assert pond.pond("cat", "--at", "before-upgrade", "file").stdout == "one"
    assert pond.pond("diff", "before-upgrade").stdout == "M file\n"
    assert errno_of((tags / "before-upgrade").mkdir) == "EEXIST"
    for name in ("2026", "42", "latest", "yesterday", "10m-ago", "a..b", "-x"):
        assert errno_of((tags / name).mkdir) == "EINVAL"
    assert errno_of((tags / "file").write_text, "x") == "EROFS"
    assert errno_of((tags / "none").rmdir) == "ENOENT"
    pond.remount()
    assert os.listdir(tags) == ["before-upgrade"]
    told = json.loads(pond.pond("tag", "--json").stdout)
    assert [(tag["name"], tag["version"]) for tag in told] == [("before-upgrade", pinned)]
    (tags / "before-upgrade").rmdir()
    assert not (pond.mnt / ".pond/at/before-upgrade").exists()
    assert pond.pond("tag", "--json").stdout == "[]\n"
    # Pinning something older, and taking that off, by command.
    assert pond.pond("tag", "first", "1").stdout == "tag first is on version 1\n"
    assert sorted(os.listdir(tags)) == ["first"]
    assert pond.pond("tag", "first", check=False).returncode == 1
    pond.pond("tag", "-d", "first")
    assert os.listdir(tags) == []
    assert version(pond) == 3  # tags are no versions


def test_a_read_only_mount_sets_no_tags(pond: PondMount, tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    pond.run("mount.pond", str(pond.store), str(tmp_path / "ro"), "-o", "ro")
    try:
        tags = tmp_path / "ro/.pond/tags"
        assert errno_of((tags / "x").mkdir) == "EROFS"
        (pond.mnt / ".pond/tags/x").mkdir()
        assert os.listdir(tags) == ["x"]
    finally:
        pond.umount()
        pond.run("umount.pond", str(tmp_path / "ro"))


# --- others ---------------------------------------------------------------------------------------


def test_an_ordinary_user_gets_a_file_back(public: PondMount, say: Say) -> None:
    """With nothing but the mount: log, history, diff, restore, undo, commit."""
    mnt = public.mnt
    for name, owner in (("alice", ALICE), ("bob", BOB)):
        (mnt / name).mkdir()
        os.chown(mnt / name, owner, owner)
        with as_user(owner, mnt / name):
            Path("file").write_text("one")
            Path("secret").write_text("one")
            Path("secret").chmod(0o600)
    public.commit()
    for name, owner in (("alice", ALICE), ("bob", BOB)):
        with as_user(owner, mnt / name):
            Path("file").write_text("two")
            Path("secret").write_text("two")
    (mnt / "bob").chmod(0o700)
    assert public.store.stat().st_mode & 0o777 == 0o700
    assert say("commit", "-m", "mine")[1].startswith("version 3: ")
    code, out, err = say("log", "--json")
    assert (code, err) == (0, "")
    assert [entry["message"] for entry in json.loads(out)] == ["mine", "", "init"]
    assert say("diff", "2..3") == (0, "M alice/file\nM alice/secret\nm bob (0755 -> 0700)\n", "")
    assert say("diff", "2..3", uid=BOB)[1].count("bob/") == 2
    assert "written" in say("history", "alice/file")[1]
    assert say("history", "bob/file")[0] == 1
    assert say("log", "alice/file", "--json")[0] == 0
    assert say("log", "bob/file", "--json")[0] == 1
    assert say("restore", "--at", "2", "alice") == (
        0, "M alice/file\nM alice/secret\nversion 4: 2 changes\n", "",
    )  # fmt: skip
    assert (mnt / "alice/file").read_text() == "one"
    found = (mnt / "alice/secret").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (ALICE, ALICE, 0o600)
    assert say("undo")[0] == 0
    assert (mnt / "alice/file").read_text() == "two"
    refused = say("restore", "--at", "2", "bob/file")
    assert refused[0] == 1
    assert refused[2] == "pond: /bob: you may not change this directory\n"
    assert (mnt / "bob/file").read_text() == "two"
    assert say("undo", "3")[0] != 0
    assert (mnt / "bob/file").read_text() == "two"


def test_an_ordinary_user_takes_nothing_that_is_not_theirs(public: PondMount, say: Say) -> None:
    """What a restore could do that the kernel would refuse, one by one."""
    mnt = public.mnt
    (mnt / "open").mkdir()
    (mnt / "open").chmod(0o777)
    (mnt / "sticky").mkdir()
    (mnt / "sticky").chmod(0o1777)
    for directory in ("open", "sticky"):
        (mnt / directory / "root").write_text("one")
        (mnt / directory / "setuid").write_text("one")
        (mnt / directory / "setuid").chmod(0o4755)
        (mnt / directory / "hidden").write_text("secret")
        (mnt / directory / "hidden").chmod(0o600)
    public.commit()
    for name in ("root", "setuid", "hidden"):
        (mnt / "open" / name).unlink()
        (mnt / "sticky" / name).write_text("two")
    public.commit()
    for path in ("open/root", "open/setuid", "open/hidden", "sticky/root", "open", "sticky"):
        code, _, err = say("restore", "--at", "2", path)
        assert (code, err.count("\n")) == (1, 1)
    assert say("restore", "--at", "2", "open/root", "--to", "open/copy")[0] == 1
    assert say("tag", "mine")[0] == 1
    assert say("tag", "-d", "mine")[0] == 1
    assert os.listdir(mnt / "open") == []
    assert (mnt / "sticky/root").read_text() == "two"
    with as_user(ALICE, mnt):
        assert errno_of(Path(".pond/tags/x").mkdir) == "EACCES"
    os.chown(mnt, ALICE, ALICE)
    assert say("tag", "mine")[0] == 0
    with as_user(ALICE, mnt):
        Path(".pond/tags/also").mkdir()
        assert sorted(os.listdir(".pond/tags")) == ["also", "mine"]


def ask(request: dict[str, Any] | bytes) -> bytes:
    line = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
    control = os.open(".pond/control", os.O_RDWR)
    try:
        os.write(control, line)
        while True:
            with contextlib.suppress(BlockingIOError):
                return os.read(control, 1 << 20)
    finally:
        os.close(control)


def test_nonsense_in_the_control_file_harms_nobody(public: PondMount) -> None:
    with as_user(ALICE, public.mnt):
        assert b'"ok":false' in ask({"op": "no such thing"})
        assert b'"ok":false' in ask({"op": "restore", "paths": [7], "at": "1"})
        assert b'"ok":false' in ask({"op": "restore", "paths": ["../.."], "at": "1"})
        assert b'"ok":false' in ask(b"not json\n")
        assert errno_of(ask, b"no line") == "EINVAL"
        assert errno_of(ask, b"{}\n" * 2) == "EINVAL"
        assert errno_of(ask, b"x" * 200_000 + b"\n") == "EMSGSIZE"
        assert Path(".pond/control").read_bytes() == b""
        # Who asks is not for them to say.
        (ours,) = [json.loads(ask({"op": "tag", "name": "x", "peer": {"uid": 0, "pid": 1}}))]
        assert ours["errno"] == 1
    assert os.listdir(public.mnt) == []


def test_a_busy_pond(pond: PondMount) -> None:
    """Others commit all the time and come and go in the very directory: it gets its turn."""
    directory = pond.mnt / "d"
    directory.mkdir()
    (directory / "file").write_text("good")
    pond.commit()
    good = version(pond)
    (directory / "file").write_text("bad")
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            busy = directory / f"busy{number}"
            with open(busy, "w") as file:
                file.write("x")
                file.flush()
                os.fsync(file.fileno())
            busy.unlink()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3):
            done = json.loads(pond.pond("restore", "--at", str(good), "d/file", "--json").stdout)
            assert (directory / "file").read_text() == "good"
            pond.pond("undo", str(done["version"]), check=False)
            (directory / "file").write_text("bad")
        assert pond.pond("diff", str(good)).returncode == 0
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_names_no_file_may_have(public: PondMount, say: Say) -> None:
    mnt = public.mnt
    mnt.chmod(0o1777)
    (mnt / "a").mkdir()
    os.chown(mnt / "a", ALICE, ALICE)
    with as_user(ALICE, mnt / "a"):
        for name in ("x", "y"):
            Path(name).mkdir()
            Path(name, "f").write_text(name)
    public.commit()
    for to in ("a/" + "M" * 256, ".pond", "a/x/f"):
        code, _, err = say("restore", "--at", "2", "a/x/f", "--to", to)
        assert (code != 0, err.count("\n")) == (True, 1)
    with as_user(ALICE, mnt):
        reply = ask({"op": "restore", "at": "2", "paths": ["a/x/f"], "to": "a/n\0l"})
        assert json.loads(reply)["exit_code"] == 1
    code, _, err = say("restore", "--at", "2", "a/x/f", "a/y/f", "--to", "a")
    assert (code, err) == (12, "pond: two of the paths would be /a/f: restore them one by one\n")
    assert sorted(os.listdir(mnt / "a")) == ["x", "y"]
    assert ".pond" not in os.listdir(mnt)


@pytest.mark.parametrize("what", ["device", "attribute", "directory", "mode"])
def test_what_only_root_may_do(public: PondMount, say: Say, what: str) -> None:
    public.remount("commit=3600,allow_other,xattr")
    mnt = public.mnt
    for name in ("s1", "s2"):
        (mnt / name).mkdir()
        (mnt / name).chmod(0o777)
    (mnt / "closed").mkdir()
    if what == "device":
        os.mknod(mnt / "s1/null", 0o20600, os.makedev(1, 3))
        os.chown(mnt / "s1/null", ALICE, ALICE)
    elif what == "attribute":
        (mnt / "s1/file").write_text("x")
        os.chown(mnt / "s1/file", ALICE, ALICE)
        os.setxattr(mnt / "s1/file", "trusted.t", b"1")
    elif what == "directory":
        (mnt / "s1/bobs").mkdir()
        os.chown(mnt / "s1/bobs", BOB, BOB)
    else:
        (mnt / "closed/file").write_text("x")
        os.chown(mnt / "closed/file", ALICE, ALICE)
    public.commit()
    if what == "directory":
        (mnt / "s1/bobs").rename(mnt / "s2/bobs")
    elif what == "mode":
        (mnt / "closed/file").chmod(0o600)
        (mnt / "closed").chmod(0o700)
    else:
        next((mnt / "s1").iterdir()).unlink()
    public.commit()
    before = tree_hash(mnt)
    paths = ["closed/file"] if what == "mode" else ["s1", "s2"]
    assert say("restore", "--at", "2", *paths)[0] == 1
    assert tree_hash(mnt) == before


def test_others_learn_no_names(public: PondMount, say: Say) -> None:
    """Of what is in directories they may not read: by conflicts, missing paths, histories."""
    mnt = public.mnt
    (mnt / "secret").mkdir(0o700)
    (mnt / "gone").mkdir(0o700)
    for name in ("secret/passwords", "gone/diary"):
        (mnt / name).write_text("one")
    public.commit()
    (mnt / "secret/passwords").write_text("two")
    public.commit()
    (mnt / "secret/passwords").write_text("three")
    (mnt / "gone/diary").unlink()
    (mnt / "gone").rmdir()
    public.commit()
    code, _, err = say("undo", "3", "--dry-run")
    assert (code, "passwords" in err) == (12, False)
    told = {say("restore", "--at", "2", f"secret/{name}")[::2] for name in ("passwords", "none")}
    assert {code for code, _ in told} == {1}
    assert say("history", "gone/diary")[0] == 1
    assert say("log", "gone/diary")[0] == 1
    public.pond("restore", "--at", "2", "secret/passwords")
    assert "passwords" not in (mnt / ".pond/log").read_text()


def test_a_mount_inside_is_not_torn_away(pond: PondMount) -> None:
    (pond.mnt / "d").mkdir()
    pond.commit()
    (pond.mnt / "d/inner").mkdir()
    run(["mount", "-t", "tmpfs", "none", pond.mnt / "d/inner"])
    try:
        refused = pond.pond("restore", "--at", "2", "d", check=False)
        assert (refused.returncode, refused.stderr) == (
            12, "pond: something is mounted on /d/inner: unmount it first\n",
        )  # fmt: skip
        assert os.path.ismount(pond.mnt / "d/inner")
    finally:
        run(["umount", pond.mnt / "d/inner"])
    pond.pond("restore", "--at", "2", "d")
    assert os.listdir(pond.mnt / "d") == []


def test_undo_does_not_reach_beyond_a_pruned_version(pond: PondMount) -> None:
    pond.remount("commit=3600")
    for number in range(4):
        (pond.mnt / f"f{number}").write_text("x")
        pond.commit()
    with open(pond.mnt / ".pond/versions/4/f2") as held:
        pond.pond("tag", "old", "2")
        pond.pond("prune", "--keep-last", "1")
        # Whoever has a file of a forgotten version open goes on with it.
        assert os.fstat(held.fileno()).st_size == 1
        assert held.read() == "x"
    refused = pond.pond("undo", check=False)
    assert refused.returncode == 12
    assert refused.stderr.startswith("pond: version 4 was pruned, so undoing 5 would take back")
    pond.pond("undo", "--force")
    assert sorted(os.listdir(pond.mnt)) == ["f0"]
    assert errno_of((pond.mnt / ".pond/versions/4").stat) == "ENOENT"


def test_one_question_at_a_time(public: PondMount) -> None:
    """Handles of the control file are few, and hold no more than one request and its reply."""
    with as_user(ALICE, public.mnt):
        handles = [os.open(".pond/control", os.O_RDWR) for _ in range(4)]
        try:
            assert errno_of(os.open, ".pond/control", os.O_RDWR) == "EUSERS"
            os.write(handles[0], b'{"op":"log"}\n')
            assert errno_of(os.write, handles[0], b'{"op":"log"}\n') == "EBUSY"
            assert os.read(handles[1], 100) == b""
            assert b'"versions"' in os.read(handles[0], 1 << 20)
            assert os.read(handles[0], 100) == b""
            os.write(handles[0], b'{"op":"log"}\n')
        finally:
            for handle in handles:
                os.close(handle)
        assert b'"ok":true' in ask({"op": "log"})
