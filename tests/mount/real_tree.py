"""A real tree of at least 5,000 files, with everything in it that makes copying hard."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SKIPPED = {"site-packages", "test"}
LEAST_FILES = 5_000
MOST_FILES = 5_600
# Keeps a stray test corpus or a shared library from making the copy all of the test's time.
LARGEST_BYTES = 512 << 10
# The large file: several row groups, and not a multiple of anything.
BIG_BYTES = (20 << 20) + 4321


def _sources() -> Iterator[tuple[Path, Path]]:
    """Yield files of the Python installation: the standard library's, then installed packages'."""
    for kind in ("stdlib", "purelib"):
        base = Path(sysconfig.get_path(kind))
        for folder, subfolders, names in os.walk(base):
            subfolders.sort()
            if Path(folder) == base:
                # Debian leaves Python's own tests out; so do we, to copy the same everywhere.
                subfolders[:] = [name for name in subfolders if name not in SKIPPED]
            for name in sorted(names):
                path = Path(folder) / name
                yield path, Path(kind) / path.relative_to(base)


def make_real_tree(root: Path) -> None:
    """Make the tree at *root*: copies of the Python installation, then the oddities."""
    count = 0
    for source, relative in _sources():
        if source.is_symlink() or source.stat().st_size > LARGEST_BYTES:
            continue
        target = root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        count += 1
        if count == MOST_FILES:
            break
    assert count >= LEAST_FILES, f"this Python installation has only {count} files to copy"
    _add_links(root)
    _add_modes(root)
    _add_names(root)


def _add_links(root: Path) -> None:
    links = root / "links"
    (links / "sub" / "deep").mkdir(parents=True)
    for group in range(20):
        first = links / f"group{group}"
        first.write_bytes(f"group {group}\n".encode() * 100)
        for member in range(group % 4):
            os.link(first, links / "sub" / f"group{group}-{member}")
    (links / "relative").symlink_to("sub/deep")
    (links / "absolute").symlink_to("/usr/bin/env")
    (links / "dangling").symlink_to("no/such/thing")
    (links / "loop").symlink_to("loop")
    (links / "sub" / "up").symlink_to("../..")
    (links / "long").symlink_to("x" * 4000)
    os.link(links / "dangling", links / "sub" / "dangling too", follow_symlinks=False)


def _add_modes(root: Path) -> None:
    modes = root / "modes"
    modes.mkdir()
    for mode in (0o000, 0o400, 0o444, 0o755, 0o666, 0o2755, 0o4755, 0o6711, 0o1644):
        for what in ("file", "dir"):
            path = modes / f"{what}-{mode:04o}"
            path.mkdir() if what == "dir" else path.write_bytes(b"content")
            os.chown(path, 1000 + mode, 2000)
            path.chmod(mode)
    (modes / "old").write_bytes(b"older than the epoch")
    os.utime(modes / "old", ns=(-1_000_000_001, -2_000_000_003))
    (modes / "future").write_bytes(b"after 2038")
    os.utime(modes / "future", ns=(1 << 62, (3 << 30) * 10**9 + 5))
    (modes / "empty").touch()
    (modes / "big").write_bytes(os.urandom(BIG_BYTES))
    with open(modes / "sparse", "wb") as sparse:
        sparse.truncate(5 << 20)
        sparse.seek(3 << 20)
        sparse.write(b"island")


def _add_names(root: Path) -> None:
    names = root / "names"
    names.mkdir()
    odd = [
        b"caf\xe9",
        b"\xff" * 255,
        "ünï".encode(),
        b"new\nline",
        b" spaces ",
        b"-n",
        b"*?[",
        b"\\",
    ]
    for name in odd:
        (names / os.fsdecode(name)).write_bytes(name)
    (names / os.fsdecode(b"dir\xfe")).mkdir()
    (names / os.fsdecode(b"dir\xfe/inner\xfd")).symlink_to(os.fsdecode(b"../caf\xe9"))
