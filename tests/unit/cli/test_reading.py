"""``pond ls``, ``cat``, ``find``, ``cp``, ``diff --patch``, ``log --stat`` on a store."""

import io
import json
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pondfs.cli import cat, patch, pond
from pondfs.cli.copy_out import CopyOut
from pondfs.cli.globs import match
from pondfs.cli.ls import moment
from pondfs.cli.run import run
from tests.unit.store.support import DIRECTORY, SYMLINK
from tests.unit.store.test_changes import Life

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, mount_table: Callable[..., Path]) -> Path:
    del mount_table  # it is empty: nothing is mounted
    life = Life(tmp_path / "store")
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/a", data=b"one\n")
    tree.make(b"d/odd\n\xff", data=b"x" * 2048)
    tree.make(b"d/.hidden")
    tree.make(b"d/null", stat.S_IFCHR | 0o666)
    tree.make(b"soft", SYMLINK, data=b"d/a")
    life.commit()
    tree.write(b"d/a", b"one\ntwo")
    tree.chmod(b"d/a", 0o600, 7)
    tree.make(b"d/bin", data=b"\0")
    tree.make(b"d/empty dir", DIRECTORY)
    life.commit()
    tree.rename(b"d", b"e")
    tree.write(b"e/bin", b"\0\0")
    tree.remove(b"e/odd\n\xff")
    tree.make(b"e/t\xc3\xa9 xt", data=b"\xff\n")
    life.commit()
    life.store.close()
    return life.path


@pytest.fixture
def say(store: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    def say(*args: str) -> tuple[int, str, str]:
        code = run(pond, "pond", ["--pond", str(store), *args])
        told = capsys.readouterr()
        return code, told.out, told.err

    return say


def test_ls(say: Say) -> None:
    assert say("ls") == (0, "e\nsoft\n", "")
    assert say("ls", "--at", "2", "/d") == (0, "a\nnull\nodd\\n\\xff\n", "")
    assert say("ls", "-a", "d", "--at", "2")[1].startswith(".hidden\na\n")
    assert say("ls", "soft", "--at", "2") == (0, "soft\n", "")
    assert say("ls", "-R", "--at", "3")[1].endswith("\nd/empty dir:\n")
    lines = say("ls", "-l", "--at", "2", "d")[1].splitlines()
    assert lines[0].startswith("-rw-r--r--  1  ")
    assert "  4 B  2001-09-09 " in lines[0]
    assert lines[0].endswith("  a")
    assert " 0:0 " in lines[1]
    assert say("ls", "-l", "soft")[1].endswith("soft -> d/a\n")


def test_ls_as_json(say: Say) -> None:
    (found,) = json.loads(say("ls", "e/a", "--json")[1])
    assert found == {
        "path": "e/a",
        "type": "file",
        "mode": 0o600,
        "uid": 7,
        "gid": 100,
        "nlink": 1,
        "size": 7,
        "mtime": "2001-09-09T01:46:40.000000Z",
        "ctime": "2001-09-09T01:46:40.000000Z",
        "target": None,
        "device": None,
    }


def test_times_beyond_pythons() -> None:
    assert moment(2**62).year == 2116
    assert moment(10**21).year == 9998
    assert moment(-(10**21)).year == 2


def test_find(say: Say) -> None:
    assert say("find", "--at", "2")[1].splitlines() == [
        "d", "d/.hidden", "d/a", "d/null", "d/odd\\n\\xff", "soft",
    ]  # fmt: skip
    assert say("find", "--at", "2", "--type", "l", "--type", "c")[1] == "d/null\nsoft\n"
    assert say("find", "/d", "--name", "[ab]", "--at", "2")[1] == "/d/a\n"
    assert say("find", "--larger", "1k", "--at", "2")[1] == "d/odd\\n\\xff\n"
    assert say("find", "--smaller", "4", "--type", "f", "--at", "2")[1] == "d/.hidden\n"
    assert say("find", "soft", "--at", "2")[1] == "soft\n"
    assert say("find", "--changed-since", "1h-ago") == (0, "", "")
    assert len(say("find", "--changed-since", "2001")[1].splitlines()) == 8
    (odd,) = json.loads(say("find", "--name", "odd*", "--at", "2", "--json")[1])
    assert odd["path"] == "d/odd\n\udcff"
    for args in (["--json", "-0"], ["--larger", "much"], ["--type", "x"]):
        code, out, err = say("find", *args)
        assert (code, out, err.count("\n")) == (1, "", 1)


def test_find_prints_names_as_they_are(
    store: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    args = ["--pond", str(store), "find", "d", "--at", "2", "--name", "o*", "-0"]
    assert run(pond, "pond", args) == 0
    assert capfdbinary.readouterr().out == b"d/odd\n\xff\0"


@pytest.mark.parametrize(
    ("glob", "path", "is_like"),
    [
        ("a/*.txt", "a/b.txt", True),
        ("a/*.txt", "a/b/c.txt", False),
        ("**/*.txt", "b.txt", True),
        ("**/*.txt", "a/b/c.txt", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("a/**", "a/x/y", True),
        ("a/?", "a/é", True),
        ("**/a/**/b", "a/x/a/y/b", True),
    ],
)
def test_match(glob: str, path: str, is_like: bool) -> None:
    assert (match(glob.split("/"), path.split("/")) is not None) is is_like


def test_cat(say: Say) -> None:
    assert say("cat", "soft", "d/a", "--at", "2") == (0, "one\none\n", "")
    assert say("cat", "d", "--at", "2")[2] == "pond: '/d' is a directory: see pond ls\n"
    assert say("cat", "d/null", "--at", "2")[0] == 1
    assert say("cat", "d/a") == (11, "", "pond: version 4 has no '/d'\n")


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", True), ("é\t\n".encode(), True), (b"\xff", False), (b"a\0", False), (b"\xc3", False)],
)
def test_is_text(data: bytes, text: bool) -> None:
    assert cat.is_text(data) is text


def test_is_text_though_cut_in_a_character() -> None:
    assert cat.is_text(b"a" + "é".encode() * (40 << 10))


def test_a_terminal_gets_a_dump() -> None:
    out = io.BytesIO()
    cat._show(iter([b"\0abc", bytes(60), b"\xff~"]), out)
    assert out.getvalue().decode().splitlines() == [
        "00000000  00 61 62 63 00 00 00 00  00 00 00 00 00 00 00 00  |.abc............|",
        "00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "*",
        "00000040  ff 7e                                             |.~|",
        "00000042",
    ]


def test_cp(say: Say, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    assert say("cp", "--at", "2", "d/a", str(dest)) == (0, f"copied 1 file, 4 B, to {dest}\n", "")
    assert dest.read_bytes() == b"one\n"
    assert (dest.stat().st_mode & 0o777, dest.stat().st_mtime_ns) == (0o644, 10**18 + 2)
    code, out, err = say("cp", "--at", "3", "d/a", str(dest))
    assert (code, out, err) == (1, "", f"pond: '{dest}' is there already: --force replaces it\n")
    assert say("cp", "--at", "3", "d/a", str(dest), "--force")[0] == 0
    assert dest.read_bytes() == b"one\ntwo"
    assert sorted(os.listdir(tmp_path)) == ["mountinfo", "out", "store"]
    for target, says in (("none/x", "there is no directory"), ("out2/", "is no directory")):
        code, _, err = say("cp", "--at", "3", "d/a", f"{tmp_path}/{target}")
        assert code == 1
        assert says in err


def test_a_copy_that_fails_leaves_nothing(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a file, nor less than there was."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", full)
    out = tmp_path / "out"
    out.mkdir()
    assert say("cp", "--at", "3", "d/a", str(out))[0] == 2
    assert list(out.iterdir()) == []
    (out / "a").write_text("before")
    assert say("cp", "--at", "3", "d/a", str(out), "--force")[0] == 2
    assert [file.read_text() for file in out.iterdir()] == ["before"]


def test_cp_into_what_is_swapped_meanwhile(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy replaced by a symlink before it got its mode, once, gave its mode to root's files."""
    out = tmp_path / "out"
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("secret")
    (victim / "secret").chmod(0o600)
    os.utime(victim / "secret", ns=(5, 5))
    put = CopyOut._put_xattrs

    def swap(self: CopyOut, path: bytes, copy: bytes) -> None:
        name = out / os.fsdecode(path.removeprefix(b"d").lstrip(b"/"))
        name.rename(tmp_path / f"swapped{len(os.listdir(tmp_path))}")
        name.symlink_to(victim if name == out else victim / "secret")
        put(self, path, copy)

    monkeypatch.setattr(CopyOut, "_put_xattrs", swap)
    assert say("cp", "--at", "2", "d", str(out))[0] == 0
    assert os.readlink(out) == str(victim)
    info = (victim / "secret").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o600, 5)
    assert (victim / "secret").read_text() == "secret"
    assert os.listdir(victim) == ["secret"]


def test_cp_into_a_directory_that_is_swapped_meanwhile(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied later stays in the directory that was made."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    put = CopyOut._put_xattrs

    def swap(self: CopyOut, path: bytes, copy: bytes) -> None:
        if path == b"d/.hidden":
            out.rename(tmp_path / "moved")
            out.symlink_to(victim)
        put(self, path, copy)

    monkeypatch.setattr(CopyOut, "_put_xattrs", swap)
    assert say("cp", "--at", "2", "d", str(out))[0] == 0
    assert os.listdir(victim) == []
    assert (tmp_path / "moved/a").read_text() == "one\n"


def test_cp_does_not_write_through_what_is_there(say: Say, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_text("mine")
    (out / "a").symlink_to(mine)
    assert say("cp", "--at", "2", "d/a", str(out))[0] == 1
    assert say("cp", "--at", "2", "d/a", str(out), "--force")[0] == 0
    assert (mine.read_text(), (out / "a").read_text()) == ("mine", "one\n")
    assert not (out / "a").is_symlink()
    (out / "d").symlink_to(tmp_path)
    assert "is no directory" in say("cp", "--at", "2", "d", str(out), "--force")[2]
    assert (
        say("cp", "--at", "2", "d/a", "")[2] == "pond: DEST is empty: name a file or a directory\n"
    )


def test_cp_of_a_deep_tree(tmp_path: Path, mount_table: Callable[..., Path]) -> None:
    """Deeper than files may be open by default, and than a path may be long."""
    del mount_table
    life = Life(tmp_path / "store")
    path, depth = b"", 1100
    for _ in range(depth):
        path = path + b"/deep" if path else b"deep"
        life.tree.make(path, DIRECTORY)
    life.commit()
    life.store.close()
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        assert run(pond, "pond", ["--pond", str(life.path), "cp", "/", str(out)]) == 0
        # Python's own ways through a tree are by recursion, pytest's to remove it as well.
        found = subprocess.run(["find", out, "-printf", "."], check=True, capture_output=True)
        assert len(found.stdout) == depth + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        subprocess.run(["rm", "-rf", out], check=True)


def test_patch(store: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(pond, "pond", ["--pond", str(store), "diff", "2..4", "--patch"]) == 0
    said = capfdbinary.readouterr().out
    assert said == b"\n".join([
        b'diff --git "a/d/odd\\n\\377" "b/d/odd\\n\\377"',
        b"deleted file mode 100644",
        b"index 1e1744b..0000000",
        b'--- "a/d/odd\\n\\377"',
        b"+++ /dev/null",
        b"@@ -1 +0,0 @@",
        b"-" + b"x" * 2048,
        b"\\ No newline at end of file",
        b"diff --git a/d/.hidden b/e/.hidden",
        b"rename from d/.hidden",
        b"rename to e/.hidden",
        b"Owner of b/e/a: 1000:100 -> 7:100",
        b"diff --git a/d/a b/e/a",
        b"old mode 100644",
        b"new mode 100600",
        b"rename from d/a",
        b"rename to e/a",
        b"index 5626abf..9ed40b4",
        b"--- a/d/a",
        b"+++ b/e/a",
        b"@@ -1 +1,2 @@",
        b" one",
        b"+two",
        b"\\ No newline at end of file",
        b"Binary files /dev/null and b/e/bin differ",
        b'New directory: "b/e/empty dir"',
        b"Moved char: a/d/null -> b/e/null",
        b'diff --git "a/e/t\xc3\xa9 xt" "b/e/t\xc3\xa9 xt"',
        b"new file mode 100644",
        b"index 0000000..29e181e",
        b"--- /dev/null",
        b'+++ "b/e/t\xc3\xa9 xt"',
        b"@@ -0,0 +1 @@",
        b"+\xff",
        b"",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a/b", b"a/b"),
        ("é".encode(), "é".encode()),
        ("é b".encode(), '"é b"'.encode()),
        (b"a b", b'"a b"'),
        (b'a"\\\n\x01\xff', b'"a\\"\\\\\\n\\001\\377"'),
    ],
)
def test_quote(name: bytes, shown: bytes) -> None:
    assert patch.quote(name) == shown


def test_patch_with_blanks_in_names(
    tmp_path: Path, mount_table: Callable[..., Path], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """patch(1) took such names for none where there were no hunks."""
    del mount_table
    life = Life(tmp_path / "store")
    life.tree.make(b"a b", data=b"one\n")
    life.tree.make(b"c d")
    life.tree.make(b"e f", data=b"script\n")
    life.tree.make(b"g h", data=b"old\n")
    life.commit()
    life.tree.rename(b"a b", b"\xc3\xa9 b")
    life.tree.remove(b"c d")
    life.tree.chmod(b"e f", 0o755, 1000)
    life.tree.write(b"g h", b"new\n")
    life.tree.make(b"i j")
    life.commit()
    life.store.close()
    args = ["--pond", str(life.path)]
    for version in ("2", "3"):
        assert run(pond, "pond", [*args, "cp", "--at", version, "/", f"{tmp_path}/{version}"]) == 0
    capfdbinary.readouterr()
    assert run(pond, "pond", [*args, "diff", "2..3", "--patch"]) == 0
    said = capfdbinary.readouterr().out
    for tool in (["git", "apply"], ["patch", "-p1"]):
        copy = tmp_path / tool[0]
        shutil.copytree(tmp_path / "2", copy)
        # Not as part of the repository the tests may run in.
        env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        subprocess.run(tool, cwd=copy, input=said, check=True, env=env)
        assert facts(copy) == facts(tmp_path / "3")


def facts(directory: Path) -> dict[str, tuple[int, str]]:
    return {
        file.name: (file.stat().st_mode & 0o777, file.read_text()) for file in directory.iterdir()
    }


def test_patch_names_what_is_too_large(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "LARGEST_BYTES", 1 << 10)
    said = say("diff", "4..2", "d/odd\n\udcff", "-p")[1]
    assert said.endswith("differ (over 1.0 KiB, not looked into)\n")
    assert say("diff", "2", "--patch", "--json")[0] == 1


def test_log_with_what_changed(say: Say) -> None:
    lines = say("log", "--stat", "-n", "2")[1].splitlines()
    assert [line for line in lines if line.startswith("version ")] == [lines[0], lines[7]]
    assert lines[1:5] == [
        "  D d/odd\\n\\xff (2.0 KiB)", "  R d -> e", "  M e/bin (1 B -> 2 B)", "  A e/té xt (2 B)",
    ]  # fmt: skip
    assert say("log", "--stat", "--until", "1")[1].endswith("nothing before it to compare with\n")
    found = json.loads(say("log", "--stat", "--json", "--until", "2")[1])
    assert [info["version"] for info in found] == [2, 1]
    assert [change["path"] for change in found[0]["changes"]][:2] == ["d", "d/.hidden"]
    assert found[1]["changes"] == []
