"""How editors save: write-temp-fsync-rename, backup-and-truncate, lock links, swap files.

Each edits a committed file, so that a save replaces what the store holds, and each must leave the
new text, the old mode, and after a remount nothing else than before it.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mount.harness import require, run
from tests.mount.place import Place, tree

OLD = b"first line\nold words\nlast line\n"
NEW = b"first line\nnew words\nlast line\n"
TERMINAL_TIMEOUT_S = 20.0


def committed(place: Place, name: str = "text") -> Path:
    """Return a file with the old text and an unusual mode, read from the store."""
    file = place.file(name, OLD, mode=0o751)
    place.remount()
    return file


def check_saved(place: Place, file: Path, expected: bytes = NEW) -> None:
    """Check text, mode, and that all of it lasts."""
    assert file.read_bytes() == expected
    assert stat.S_IMODE(file.stat().st_mode) == 0o751
    assert [name for name in os.listdir(place.dir) if name.endswith(".swp")] == []
    before = tree(place.dir, times=True, inodes=True)
    place.remount()
    assert tree(place.dir, times=True, inodes=True) == before


@pytest.mark.parametrize("settings", ["backupcopy=no", "backupcopy=yes", "backup backupcopy=auto"])
def test_vim(place: Place, settings: str) -> None:
    """Rename and rewrite, or copy and truncate; a swap file and a probe named 4913 in between."""
    vim = next(filter(None, map(shutil.which, ("vim", "vim.tiny"))), None)
    assert vim is not None, "vim is not installed: run `make setup`"
    file = committed(place)
    script = [
        "-c",
        f"set swapfile writebackup backupskip= {settings}",
        "-c",
        "%s/old/new/",
        "-c",
        "wq",
    ]
    run([vim, "-u", "NONE", "-i", "NONE", "-Es", *script, file])
    check_saved(place, file)
    backup = place.path("text~")
    assert backup.exists() == settings.startswith("backup ")
    assert not backup.exists() or backup.read_bytes() == OLD


@pytest.mark.parametrize(
    "lisp",
    [
        "(setq make-backup-files nil)",
        "(setq backup-by-copying t)",
        "(setq backup-by-copying nil version-control t)",
        "(setq file-precious-flag t)",
    ],
)
def test_emacs(place: Place, lisp: str) -> None:
    """Its lock is a dangling symlink, its backup a rename or a copy, precious files a temp name."""
    file = committed(place)
    edit = '(progn (re-search-forward "old") (replace-match "new") (save-buffer))'
    run([require("emacs"), "-Q", "--batch", "--eval", lisp, file, "--eval", edit])
    check_saved(place, file)
    assert not os.path.lexists(place.path(".#text"))


@pytest.mark.parametrize("options", [[], ["-B"]])
def test_nano(place: Place, options: list[str]) -> None:
    """Truncates and rewrites in place, with ``-B`` after writing a backup."""
    file = committed(place)
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C", "HOME": str(place.dir)}
    editor = subprocess.Popen(
        [require("nano"), "-I", *options, file.name],
        cwd=place.dir,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        read_until(controller, b"old words")
        os.write(controller, b"typed \x0f")  # ^O: write out
        read_until(controller, b"Write")
        os.write(controller, b"\r")
        read_until(controller, b"Wrote")
        os.write(controller, b"\x18")  # ^X: exit
        read_until(controller, None)
        assert editor.wait(timeout=TERMINAL_TIMEOUT_S) == 0
    finally:
        editor.kill()
        editor.wait()
        os.close(controller)
    shutil.rmtree(place.path(".local"), ignore_errors=True)
    check_saved(place, file, b"typed " + OLD)
    assert place.path("text~").exists() == bool(options)


def read_until(controller: int, wanted: bytes | None) -> None:
    """Read what the program shows until *wanted* is there, or to its end."""
    shown = b""
    while wanted is None or wanted not in shown:
        ready, _, _ = select.select([controller], [], [], TERMINAL_TIMEOUT_S)
        assert ready, f"nano does not show {wanted!r}: {shown!r}"
        try:
            shown += os.read(controller, 65_536)
        except OSError:  # EIO: the last process on the terminal has gone
            assert wanted is None, f"nano ended before it showed {wanted!r}: {shown!r}"
            return


@pytest.mark.parametrize("option", ["-i", "-i.bak", "-ni"])
def test_sed_in_place(place: Place, option: str) -> None:
    """Writes sedXXXXXX, copies mode and owner, renames over."""
    file = committed(place)
    os.chown(file, 12, 34)
    run([require("sed"), option, "s/old/new/" + ("p" if option == "-ni" else ""), file])
    check_saved(place, file, b"new words\n" if option == "-ni" else NEW)
    assert (file.stat().st_uid, file.stat().st_gid) == (12, 34)
    assert place.path("text.bak").exists() == (option == "-i.bak")


def test_a_save_by_hand(place: Place) -> None:
    """The pattern itself, a hundred times: temp, write, fsync, rename, fsync of the directory."""
    file = committed(place)
    for number in range(100):
        temporary = place.path(f".text.{number}")
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o751)
        os.write(fd, OLD + b"%d\n" % number)
        os.fsync(fd)
        os.close(fd)
        os.rename(temporary, file)
    fd = os.open(place.dir, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    check_saved(place, file, OLD + b"99\n")
    assert os.listdir(place.dir) == ["text"]
