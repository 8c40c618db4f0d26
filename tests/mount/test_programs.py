"""Programs people use, on a pond: copying, searching, archiving, version control, databases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakePond
from tests.mount import harness
from tests.mount.harness import PondMount, require, run
from tests.mount.place import Place
from tests.mount.real_tree import LEAST_FILES, make_real_tree

GIT_ENV = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "Pond",
    "GIT_AUTHOR_EMAIL": "pond@example.org",
    "GIT_COMMITTER_NAME": "Pond",
    "GIT_COMMITTER_EMAIL": "pond@example.org",
}


@pytest.fixture(scope="module")
def real_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the original, on an ordinary directory."""
    root = tmp_path_factory.mktemp("real") / "tree"
    make_real_tree(root)
    return root


@pytest.fixture(scope="module")
def copied(
    real_tree: Path, tmp_path_factory: pytest.TempPathFactory, pond_env: dict[str, str]
) -> Iterator[PondMount]:
    """Return a pond with a copy by ``cp -a`` of the real tree, mounted anew since."""
    base = tmp_path_factory.mktemp("copied")
    pond = harness.make_pond(base / "pond", base / "mnt", pond_env)
    try:
        pond.mount()
        run([require("cp"), "-a", real_tree, pond.mnt], timeout_s=120)
        pond.remount()
        yield pond
    finally:
        pond.close()


def test_cp_of_a_real_tree_leaves_nothing_for_diff_to_say(
    real_tree: Path, copied: PondMount
) -> None:
    """Every name, kind and byte, read back from the table."""
    files = sum(len(names) for _, _, names in os.walk(copied.mnt / "tree"))
    assert files >= LEAST_FILES
    said = run([require("diff"), "-r", "--no-dereference", real_tree, copied.mnt / "tree"])
    assert said.stdout == ""


def test_cp_of_a_real_tree_leaves_nothing_for_rsync_to_do(
    real_tree: Path, copied: PondMount
) -> None:
    """Modes, owners, times and hard links too, which diff does not look at."""
    rsync = [require("rsync"), "-aHn", "--checksum", "--itemize-changes", "--delete"]
    assert run([*rsync, f"{real_tree}/", f"{copied.mnt}/tree/"], timeout_s=120).stdout == ""


def test_find_du_and_grep_say_the_same_of_both(real_tree: Path, copied: PondMount) -> None:
    """Walking, weighing and searching a tree."""

    def both(*command: str) -> tuple[list[str], list[str]]:
        program = [require(command[0]), *command[1:]]
        outputs = (run(program, cwd=at, check=False) for at in (real_tree, copied.mnt / "tree"))
        first, second = (sorted(output.stdout.split("\n")) for output in outputs)
        return first, second

    here, there = both(
        "find", ".", "-not", "-type", "d", "-printf", "%P %y %m %s %n %U %G %l %T@\n"
    )
    assert here == there
    here, there = both("find", ".", "-type", "d", "-printf", "%P %m %n %U %G\n")
    assert here == there
    here, there = both("grep", "-r", "-c", "--include=*.py", "import", ".")
    assert len(here) > 1000
    assert here == there
    weights = [
        int(run([require("du"), "-sk", at]).stdout.split()[0])
        for at in (real_tree, copied.mnt / "tree")
    ]
    assert weights[0] / 2 < weights[1] < weights[0] * 2


def test_tar_out_of_a_pond_and_into_it(real_tree: Path, copied: PondMount, tmp_path: Path) -> None:
    """An archive made from the copy unpacks to the original; unpacking into the pond works too."""
    tar, archive = require("tar"), tmp_path / "tree.tar"
    parts = ["links", "modes", "names", "stdlib/json", "stdlib/email"]
    run([tar, "-C", copied.mnt, "-cf", archive, "--sparse", *(f"tree/{part}" for part in parts)])
    out, into = tmp_path / "out", copied.mnt / "untarred"
    for target in (out, into):
        target.mkdir()
        run([tar, "-C", target, "-xpf", archive])
    rsync = [require("rsync"), "-aHn", "--checksum", "--itemize-changes"]
    for target in (out, into):
        for part in parts:
            said = run([*rsync, f"{real_tree}/{part}/", f"{target}/tree/{part}/"]).stdout
            assert said == "", (target, part)
    run([tar, "-C", copied.mnt, "--compare", "-f", archive])
    run([require("rm"), "-rf", into])
    assert not into.exists()


def test_rsync_updates_in_place_and_by_rename(place: Place, tmp_path: Path) -> None:
    """rsync writes .name.XXXXXX and renames, rewrites with --inplace, removes with --delete."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(30):
        (source / f"file{number}").write_bytes(bytes([number]) * 10_000)
    rsync = [require("rsync"), "-aH", "--delete", "--checksum"]
    for options in ([], ["--inplace", "--no-whole-file"], ["--append-verify"]):
        run([*rsync, *options, f"{source}/", f"{place.dir}/"])
        said = run([*rsync, "-n", "--itemize-changes", f"{source}/", f"{place.dir}/"]).stdout
        assert said == "", options
        (source / "file3").write_bytes(b"changed" * 3000)
        with open(source / "file4", "ab") as file:
            file.write(b"appended" * 100)
        (source / "file5").unlink(missing_ok=True)


def test_git_from_init_to_clone(pond: PondMount, real_tree: Path, tmp_path: Path) -> None:
    """Git writes 0444 files, renames, hard-links, maps packs, and checks every byte in fsck."""
    repository = pond.mnt / "repository"

    def git(*args: str | Path, at: Path = repository) -> str:
        return run([require("git"), *args], cwd=at, env=GIT_ENV).stdout

    git("init", "-q", "-b", "main", str(repository), at=pond.mnt)
    for folder in ("json", "email", "asyncio", "concurrent"):
        run([require("cp"), "-a", real_tree / "stdlib" / folder, repository])
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    (repository / "json" / "decoder.py").write_text("changed\n")
    os.rename(repository / "email", repository / "mail")
    git("commit", "-q", "-a", "-m", "second")
    git("checkout", "-q", "-b", "side", "HEAD~1")
    (repository / "new file").write_text("on a side branch\n")
    git("add", "-A")
    git("commit", "-q", "-m", "third")
    git("checkout", "-q", "main")
    git("gc", "-q", "--aggressive", "--prune=now")
    git("fsck", "--full", "--strict")
    pond.remount()
    git("fsck", "--full", "--strict")
    git("clone", "-q", str(repository), str(pond.mnt / "linked"))
    git("clone", "-q", "--no-local", str(repository), str(pond.mnt / "packed"))
    git("clone", "-q", str(repository), str(tmp_path / "outside"))
    for clone in (pond.mnt / "linked", pond.mnt / "packed", tmp_path / "outside"):
        assert git("rev-parse", "HEAD", at=clone) == git("rev-parse", "HEAD")
        assert git("status", "--porcelain", at=clone) == ""
        git("fsck", "--full", at=clone)
    git("worktree", "add", "-q", str(pond.mnt / "tree"), "side")
    assert (pond.mnt / "tree" / "new file").read_text() == "on a side branch\n"


@pytest.mark.parametrize("journal", ["delete", "wal", "truncate", "persist"])
def test_sqlite_keeps_its_promises(place: Place, journal: str) -> None:
    """Locks, fsync, and a shared memory map; a second process reads while the first writes."""
    path = place.path("test.db")
    rows = len([row for row in range(1000) if row // 100 % 3 != 2 and row % 7])
    database = sqlite3.connect(path, isolation_level=None)
    try:
        assert database.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        for batch in range(10):
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO t VALUES (?, ?)",
                [(batch * 100 + row, os.urandom(700)) for row in range(100)],
            )
            database.execute("ROLLBACK" if batch % 3 == 2 else "COMMIT")
        database.execute("UPDATE t SET body = zeroblob(200000) WHERE id = 5")
        database.execute("DELETE FROM t WHERE id % 7 = 0")
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM t")
        seen = run([require("sqlite3"), path, "SELECT count(*) FROM t"], check=False)
        assert seen.stdout == f"{rows}\n", seen
        refused = run([require("sqlite3"), path, "DELETE FROM t"], check=False)
        assert "locked" in refused.stderr
        database.execute("ROLLBACK")
        database.execute("VACUUM")
    finally:
        database.close()
    for _ in range(2):
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("SELECT count(*) FROM t").fetchone() == (rows,)
        database.close()
        place.remount()
    leftovers = {name for name in os.listdir(place.dir) if name != "test.db"}
    assert leftovers <= {"test.db-journal"}


def test_pip_installs_into_a_venv_that_runs(pond: PondMount, tmp_path: Path) -> None:
    """Thousands of small files, symlinks to the interpreter, generated scripts, byte code."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/__init__.py", "def main() -> None:\n    print('from the pond')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
        archive.writestr(f"{info}/RECORD", "")
    run([sys.executable, "-m", "venv", pond.mnt / "venv"], timeout_s=120)
    pip: list[str | Path] = [
        pond.mnt / "venv/bin/python",
        "-m",
        "pip",
        "--disable-pip-version-check",
    ]
    run([*pip, "install", "--no-index", "--no-cache-dir", wheel], timeout_s=120)
    assert run([pond.mnt / "venv/bin/tiny"]).stdout == "from the pond\n"
    pond.remount()
    assert run([pond.mnt / "venv/bin/tiny"]).stdout == "from the pond\n"
    assert "tiny" in run([*pip, "list", "--no-index"]).stdout
    run([*pip, "uninstall", "-y", "tiny"])
    assert not (pond.mnt / "venv/bin/tiny").exists()


def test_make_builds_a_c_program_in_parallel(place: Place) -> None:
    """Compilers write temporaries, the linker maps its output, make compares mtimes."""
    for part in range(6):
        place.file(f"part{part}.c", b"int part%d(void) { return %d; }\n" % (part, part))
    calls = "+".join(f"part{part}()" for part in range(6))
    declared = "".join(f"int part{part}(void);" for part in range(6))
    place.file("main.c", f"{declared} int main(void) {{ return {calls}; }}\n".encode())
    objects = " ".join(f"part{part}.o" for part in range(6))
    place.file("Makefile", f"program: main.o {objects}\n\t$(CC) -o $@ $^\n".encode())
    require("gcc")
    make: list[str | Path] = [require("make"), "-C", place.dir, "-j2", "CC=gcc"]
    run(make)
    assert run([place.path("program")], check=False).returncode == 15
    place.remount()
    assert "up to date" in run(make).stdout
    assert subprocess.run([place.path("program")], timeout=30, check=False).returncode == 15


def test_two_ponds_do_not_know_each_other(make_pond: MakePond) -> None:
    """Two daemons, two stores; a copy between them is a copy."""
    one, two = make_pond("one").mount(), make_pond("two").mount()
    (one.mnt / "file").write_bytes(b"content")
    run([require("mv"), one.mnt / "file", two.mnt / "file"])
    one.remount()
    two.remount()
    assert os.listdir(one.mnt) == []
    assert (two.mnt / "file").read_bytes() == b"content"
