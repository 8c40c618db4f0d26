"""``pond ls``, ``cat``, ``find``, ``cp``, ``diff --patch``: mounted, unmounted, as anybody."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.mount.harness import PondMount, command, run
from tests.mount.place import ALICE, Say, tree
from tests.mount.test_past import Life, life

__all__ = ["life"]

NAME = os.fsdecode(b"odd\n\xff\xc3\xa9")


def same_tree(left: Path, right: Path) -> None:
    """Fail unless both hold the same, the roots included: types, modes, owners, times, links."""
    # diff finds any two special files different; rsync knows better.
    special = ["--exclude=fifo", "--exclude=null", "--exclude=sock"]
    run(["diff", "-r", "--no-dereference", *special, left, right])
    listed = run(
        ["rsync", "-aHXAn", "--checksum", "--delete", "--itemize-changes", f"{left}/", f"{right}/"]
    )
    # The root's own times move with each copy's making; what is in it must not differ.
    changed = [line for line in listed.stdout.splitlines() if not line.endswith(" ./")]
    assert not changed


def fill(root: Path) -> None:
    """Make one of everything."""
    (root / "d/inner").mkdir(parents=True)
    (root / "d/text").write_text("one\ntwo\n")
    os.link(root / "d/text", root / "d/inner/link")
    (root / "d/soft").symlink_to("inner/link")
    (root / "d/out").symlink_to("/etc/passwd")
    (root / "d" / NAME).write_bytes(b"\0\1\2")
    os.mkfifo(root / "d/fifo", 0o640)
    os.mknod(root / "d/null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(root / "d")
        sock.bind("sock")
        os.chdir(here)
    with open(root / "d/sparse", "wb") as file:
        file.write(b"begin")
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(64 << 20)
    (root / "d/empty").touch()
    (root / "d/set-id").write_bytes(b"#!")
    os.chown(root / "d/set-id", 5, 6)
    (root / "d/set-id").chmod(0o6751)
    os.chown(root / "d/soft", 7, 8, follow_symlinks=False)
    os.setxattr(root / "d/text", "user.note", b"worth\0keeping")
    os.setxattr(root / "d/inner", "user.note", b"dir")
    (root / "d/locked").mkdir()
    (root / "d/locked/file").write_bytes(b"in a directory nobody may write to")
    (root / "d/locked").chmod(0o555)
    for path, when in (("d/text", 10**18 + 123456789), ("d/locked", 5 * 10**17), ("d", 10**17 + 1)):
        os.utime(root / path, ns=(when, when))


@pytest.fixture
def kept(pond: PondMount, tmp_path: Path) -> Path:
    """A pond with one of everything in version 2, changed since; returns a copy of version 2."""
    pond.remount("commit=3600,xattr,allow_other")
    fill(pond.mnt)
    pond.commit("all")
    run(["cp", "-a", "--sparse=always", pond.mnt, tmp_path / "kept"])
    (pond.mnt / "d/text").write_text("one\nthree\n")
    (pond.mnt / "d/inner").rename(pond.mnt / "d/other")
    (pond.mnt / "d/out").unlink()
    (pond.mnt / "d/out").symlink_to("/etc/group")
    (pond.mnt / "d/empty").unlink()
    (pond.mnt / "d/new").touch()
    shutil.rmtree(pond.mnt / "d/locked")
    pond.commit("changed")
    (pond.mnt / "pending").write_text("now")
    return tmp_path / "kept"


@pytest.fixture(params=["mounted", "unmounted"])
def side(request: pytest.FixtureRequest, pond: PondMount, kept: Path) -> str:
    if request.param == "unmounted":
        pond.umount()
    return str(request.param)


@pytest.mark.usefixtures("side")
def test_cp_is_what_was(pond: PondMount, kept: Path, tmp_path: Path) -> None:
    """The whole tree, a directory and a file; into a directory, and under another name."""
    said = pond.pond("cp", "--at", "2", "/", str(tmp_path / "all"))
    assert said.stderr == ""
    assert said.stdout.startswith("copied 12 files, ")
    same_tree(kept, tmp_path / "all")
    assert (tmp_path / "all/d/sparse").stat().st_blocks <= (kept / "d/sparse").stat().st_blocks
    assert tree(tmp_path / "all", inodes=False).keys() == tree(kept).keys()
    into = tmp_path / "into"
    into.mkdir()
    pond.pond("cp", "--at", "2", "/d", str(into))
    same_tree(kept / "d", into / "d")
    pond.pond("cp", "--at", "2", "d/text", str(into))
    pond.pond("cp", "--at", "2", "d/text", str(into / "other"))
    for name in ("text", "other"):
        assert (into / name).read_text() == "one\ntwo\n"
        assert (into / name).stat().st_mtime_ns == (kept / "d/text").stat().st_mtime_ns
        assert os.getxattr(into / name, "user.note") == b"worth\0keeping"


@pytest.mark.usefixtures("side")
def test_cp_replaces_by_force_only(pond: PondMount, kept: Path, tmp_path: Path) -> None:
    """Nothing at all is written if one file is in the way; --force leaves what is only there."""
    there = tmp_path / "there"
    (there / "d").mkdir(parents=True)
    (there / "d/text").write_text("mine")
    (there / "d/mine").write_text("mine")
    refused = pond.pond("cp", "--at", "2", "/", str(there), check=False)
    assert refused.returncode == 1
    assert refused.stderr == f"pond: '{there}/d/text' is there already: --force replaces it\n"
    assert sorted(os.listdir(there / "d")) == ["mine", "text"]
    pond.pond("cp", "--at", "2", "/", str(there), "--force")
    pond.pond("cp", "--at", "2", "/", str(there), "--force")
    assert (there / "d/mine").read_text() == "mine"
    (there / "d/mine").unlink()
    os.utime(there / "d", ns=(10**17 + 1, 10**17 + 1))
    same_tree(kept, there)
    (there / "d/text").unlink()
    (there / "d/text").mkdir()
    refused = pond.pond("cp", "--at", "2", "d", str(there), "--force", check=False)
    assert "is a directory, what is copied there is none" in refused.stderr


def test_cp_of_many_kinds_by_force(pond: PondMount, kept: Path, tmp_path: Path) -> None:
    """By a name of its own first, what is special and what is linked included; none is left."""
    for _ in range(2):
        pond.pond("cp", "--at", "2", "d", str(tmp_path), "--force")
        same_tree(kept / "d", tmp_path / "d")
        assert tree(tmp_path / "d", inodes=False).keys() == tree(kept / "d").keys()


def test_standing_in_the_past(pond: PondMount, kept: Path) -> None:
    """Without --at the verbs read what is seen there; else its path is the one in the pond."""
    del kept
    link = pond.mnt.with_name("link to the mount")
    link.symlink_to(pond.mnt)

    def say(*args: str, cwd: Path) -> str:
        return run([command("pond"), *args], cwd=cwd).stdout

    for past in (".pond/at/2/d", ".pond/versions/2/d"):
        here = pond.mnt / past
        assert say("cat", "text", cwd=here) == "one\ntwo\n"
        assert "empty" in say("ls", cwd=here)
        assert say("cat", "text", "--at", "3", cwd=here) == "one\nthree\n"
        assert "empty" not in say("ls", "--at", "3", cwd=here)
        assert say("diff", "2..3", "text", cwd=here) == "M d/text\n"
        assert "created" in say("history", "text", cwd=here)
        assert say("log", "text", cwd=here).count("\n") == 3
        done = say("restore", "--at", "2", "-n", "text", cwd=here)
        assert done == say("restore", "--at", "2", "-n", f"{link}/d/text", cwd=pond.mnt)
        assert "d/text" in done


def test_every_version_comes_out_as_it_was(life: Life, tmp_path: Path) -> None:
    for version in sorted(life.kept)[::6]:
        life.pond.pond("cp", "--at", f"v{version}", "/", str(tmp_path / f"m{version}"))
        same_tree(life.kept[version], tmp_path / f"m{version}")
    life.pond.umount()
    for version in sorted(life.kept)[::6]:
        life.pond.pond("cp", "--at", f"v{version}", "/", str(tmp_path / f"u{version}"))
        same_tree(life.kept[version], tmp_path / f"u{version}")


def test_cp_into_the_mount(pond: PondMount, kept: Path) -> None:
    """Restoring; but a live directory is not copied into itself."""
    pond.pond("cp", "--at", "2", "d/locked", str(pond.mnt / "d"))
    same_tree(kept / "d/locked", pond.mnt / "d/locked")
    refused = pond.pond("cp", "d", str(pond.mnt / "d/other/copy"), check=False)
    assert refused.returncode == 1
    assert "is inside what is to be copied" in refused.stderr
    pond.pond("cp", "d", str(pond.mnt / "copy"))
    assert (pond.mnt / "copy/text").read_text() == "one\nthree\n"


def test_ls_find_and_cat(pond: PondMount, side: str) -> None:
    mounted = side == "mounted"
    names = ["d", "pending"]  # umount commits
    assert pond.pond("ls").stdout.split() == names
    assert pond.pond("ls", "--at", "3").stdout.split() == ["d"]
    assert pond.pond("cat", "pending").stdout == "now"
    assert pond.pond("cat", "--at", "2", "d/soft").stdout == "one\ntwo\n"
    wanted = subprocess.run(
        [command("pond"), "--pond", pond.store, "cat", "--at", "2", "d/sparse"],
        capture_output=True,
        check=True,
    ).stdout
    assert len(wanted) == 64 << 20
    assert wanted.startswith(b"begin\0")
    assert wanted[3 << 20 :].startswith(b"middle\0")
    listed = json.loads(pond.pond("ls", "-R", "--json", "--at", "2").stdout)
    assert len(listed) == 15
    by_path = {entry["path"]: entry for entry in listed}
    assert by_path["d/null"]["device"] == "1:3"
    assert by_path["d/soft"]["target"] == "inner/link"
    assert by_path[f"d/{NAME}"]["size"] == 3
    found = pond.pond("find", "--at", "2", "--json").stdout
    more: dict[str, object] = {"version": None, "captures": []}
    wanted_records = [{**entry, **more} for entry in listed]
    assert sorted(map(str, json.loads(found))) == sorted(map(str, wanted_records))
    assert pond.pond("find", "d", "--larger", "1M", "--at", "2").stdout == "d/sparse\n"
    since = pond.pond("find", "--changed-since", "2", "--type", "f").stdout.split()
    assert since == ["d/new", "d/other/link", "d/text", "pending"]
    for args, code, says in (
        (["ls", "--at", "99"], 10, "there is no version"),
        (["ls", "--at", "soon"], 10, "'soon' names no version"),
        (["ls", "--at", "1999"], 10, "so early" if mounted else "before the pond's first version"),
        (["cat", "none"], 11, "has no '/none'"),
        (["cat", "d/text/x"], 11, "has no '/d/text/x'"),
        (["cat", "d/out"], 1, "leads out of"),
        (["cat", "d"], 1, "is a directory"),
        (["cat", "d/fifo"], 1, "is a fifo"),
    ):
        done = pond.pond(*args, check=False)
        assert (done.returncode, done.stdout) == (code, ""), args
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_patch_makes_the_new_from_the_old(pond: PondMount, tmp_path: Path, side: str) -> None:
    """Renames, modes and removals included."""
    assert side
    pond.pond("cp", "--at", "2", "d", str(tmp_path / "d"))
    # patch(1) takes two names of one file for one.
    (tmp_path / "d/inner/link").unlink()
    (tmp_path / "d/inner/link").write_text("one\ntwo\n")
    pond.pond("cp", "--at", "3", "d", str(tmp_path / "new"))
    said = pond.pond("diff", "2..3", "d", "--patch").stdout
    assert "rename from d/inner/link\nrename to d/other/link\n" in said
    run(["patch", "-p1", "-d", tmp_path], stdin=said)
    special = ["--exclude=fifo", "--exclude=null", "--exclude=sock"]
    run(["diff", "-r", "--no-dereference", *special, tmp_path / "d", tmp_path / "new"])


# --- somebody else ---


def test_an_ordinary_user_reads_the_past(public: PondMount, say: Say) -> None:
    """Neither the store nor the control socket are theirs; the old permissions decide."""
    pond = public
    (pond.mnt / "d").mkdir()
    (pond.mnt / "d/open").write_text("one\n")
    (pond.mnt / "d/secret").write_text("secret")
    (pond.mnt / "d/secret").chmod(0o600)
    (pond.mnt / "private").mkdir(0o700)
    pond.commit()
    (pond.mnt / "d/open").write_text("two\n")
    (pond.mnt / "d/secret").chmod(0o644)
    pond.commit()
    assert pond.store.stat().st_mode & 0o777 == 0o700

    assert say("ls", "-R", "--at", "2", "d") == (0, "d:\nopen\nsecret\n", "")
    assert say("cat", "open", "--at", "2", cwd=pond.mnt / "d") == (0, "one\n", "")
    assert say("--pond", str(pond.mnt), "cat", "/d/open", cwd=Path("/")) == (0, "two\n", "")
    assert say("cat", "d/secret") == (0, "secret", "")
    assert say("cat", "d/secret", "--at", "2") == (2, "", "pond: d/secret: Permission denied\n")
    assert say("find", "--at", "1h-ago")[0] == 10
    assert say("find", "--at", "2") == (
        2, "d\nd/open\nd/secret\nprivate\n", "pond: private: Permission denied\n",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, ALICE, ALICE)
        code, out, err = say("cp", "--at", "2", "d", f"{home}/d")
        assert (code, out) == (2, f"copied 1 file, 4 B, to {home}/d\n")
        assert err.splitlines() == [
            "pond: d/secret: Permission denied",
            "pond: 2 of them had another owner: root keeps owners",
        ]
        copy = Path(home) / "d/open"
        assert copy.read_text() == "one\n"
        assert copy.stat().st_uid == ALICE
        old = pond.mnt / ".pond/at/2/d/open"
        assert copy.stat().st_mtime_ns == old.stat().st_mtime_ns


def test_ponddir_off_leaves_the_store(pond: PondMount) -> None:
    pond.remount("commit=3600,ponddir=off")
    (pond.mnt / "file").write_text("one")
    pond.commit()
    (pond.mnt / "file").write_text("two")
    assert pond.pond("cat", "file").stdout == "two"
    assert pond.pond("cat", "file", "--at", "2").stdout == "one"


def test_ponddir_visible_is_no_part_of_the_tree(pond: PondMount) -> None:
    pond.remount("commit=3600,ponddir=visible")
    (pond.mnt / "file").write_text("one")
    assert pond.pond("ls", "-a").stdout == "file\n"
    assert pond.pond("find").stdout == "file\n"
    assert {"at", "versions"} <= set(pond.pond("ls", ".pond").stdout.split())
