"""``docs/reference/semantics.md``, row by row, and the check that each row has.

A row is known by what its first cell says. A check is an ordinary function that does on a mount
what the row claims, and fails where that is not so:

    @row("a directory's size")
    def _(ground: Ground) -> None:
        assert ground.dir.stat().st_size == 0

``tests/mount/test_semantics_page.py`` runs them, and sees to it that no row and no check is alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import MakePond
from tests.mount.harness import PondMount

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "semantics.md"


@dataclass(frozen=True)
class Ground:
    """Where a check works.

    Attributes:
        pond: a pond that is mounted with ``allow_other`` and ``commit=3600``; shared by the checks.
        dir: an empty directory in it.
        acl_dir: one in a pond that is mounted with ``acl``, and so with ``xattr``.
        make: makes ponds of its own, for what a shared one can't stand.
        tmp: a directory on the disk.
    """

    pond: PondMount
    dir: Path
    acl_dir: Path
    make: MakePond
    tmp: Path


Check = Callable[[Ground], None]

CHECKS: dict[str, Check] = {}


def row(name: str) -> Callable[[Check], Check]:
    """Make a function the check of the row that begins with *name*."""

    def register(check: Check) -> Check:
        assert name not in CHECKS, f"two checks for '{name}'"
        CHECKS[name] = check
        return check

    return register


def rows(text: str) -> list[str]:
    """Return the first cell of each row of each table, in the page's order."""
    found: list[str] = []
    before = ""
    in_table = False
    for line in text.splitlines():
        if not line.startswith("|"):
            in_table = False
        elif set(line) <= set("|-: "):
            assert before.startswith("|"), f"a table without a heading: {line}"
            in_table = True
        elif in_table:
            found.append(line.split("|")[1].strip())
        before = line
    return found
