"""docs/reference/semantics.md is executed: each row of its tables has a check, and passes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakePond
from tests.mount import harness, semantics_different, semantics_errors, semantics_local
from tests.mount.conftest import SharedPond
from tests.mount.semantics_page import CHECKS, PAGE, Ground, rows

assert all((semantics_local, semantics_different, semantics_errors))  # imported for their checks

ROWS = rows(PAGE.read_text())
PLAIN_OPTIONS = ("allow_other", "commit=3600")
ACL_OPTIONS = ("allow_other", "acl")


@pytest.fixture
def ground(
    request: pytest.FixtureRequest,
    shared_pond: SharedPond,
    make_pond: MakePond,
    tmp_path: Path,
    _umask: None,
) -> Ground:
    pond, acl_pond = shared_pond(PLAIN_OPTIONS), shared_pond(ACL_OPTIONS)
    name = f"row{ROWS.index(request.node.callspec.params['name'])}"
    for each in (pond, acl_pond):
        (each.mnt / name).mkdir()
    return Ground(pond, pond.mnt / name, acl_pond.mnt / name, make_pond, tmp_path)


@pytest.mark.skipif(harness.PLAIN, reason="about what a pond does")
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, ground: Ground) -> None:
    assert name in CHECKS, f"no check in tests/mount/semantics_*.py for the row '{name}'"
    seen = len(ground.pond.daemon_log())
    CHECKS[name](ground)
    assert not harness.alarming(ground.pond.daemon_log()[seen:])


def test_each_check_has_its_row() -> None:
    assert not set(CHECKS) - set(ROWS), "no such row in docs/reference/semantics.md"
    assert len(ROWS) == len(set(ROWS)), "two rows are called the same"


def test_rows_are_found() -> None:
    """Were a table's form not understood, nothing of it would be executed."""
    one, two = (
        "| point | |\n|---|---|\n| `a` b | c |\n| d | e |\n",
        "| x | |\n|:--|--:|\n| y | z |\n",
    )
    assert rows(f"text\n{one}\nmore\n\n{two}") == ["`a` b", "d", "y"]
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    tables = sum(line.startswith("|---") for line in lines)
    assert len(ROWS) == len(lines) - 2 * tables
    assert tables == PAGE.read_text().count("\n## ")
