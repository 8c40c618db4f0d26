import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pondfs.errors import NotAPond
from pondfs.oplog import VersionInfo
from pondfs.store import checkpoint
from pondfs.store.log import read_versions
from tests.unit.store.support import file_row, log_entry, make_cut, new_pond, open_pond


@pytest.fixture
def pond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint, "ENTRIES_BETWEEN", 5)
    path = tmp_path / "pond"
    store = new_pond(path)
    for version in range(2, 9):
        rows = [file_row(version, b"x", b"f%d" % version)]
        store.commit(make_cut(version, rows, message=f"note {version}"))
    store.close()
    return path


def check(versions: list[VersionInfo], expected: range) -> None:
    assert [info.version for info in versions] == list(expected)
    assert [info.message for info in versions if info.version > 1] == [
        f"note {number}" for number in expected if number > 1
    ]
    for info in versions:
        assert abs((datetime.now(UTC) - info.timestamp).total_seconds()) < 60
        if info.version > 1:
            assert (info.user, info.host, info.operations) == ("ada", "lab", 1)


def test_newest_first(pond: Path) -> None:
    check(read_versions(pond), range(8, 0, -1))
    check(read_versions(pond, 3), range(8, 5, -1))
    check(read_versions(pond, 0), range(0))
    check(read_versions(pond, 99), range(8, 0, -1))


def test_beside_a_writer(pond: Path) -> None:
    store = open_pond(pond)
    store.commit(make_cut(9, [file_row(9, b"x", b"f9")], message="note 9"))
    check(read_versions(pond, 2), range(9, 7, -1))
    store.close()


def test_foreign_commits_are_no_versions(pond: Path) -> None:
    DeltaTable(pond).optimize.compact()
    check(read_versions(pond, 2), range(8, 6, -1))


def test_where_log_entries_are_gone_the_rows_tell(pond: Path) -> None:
    """A compacted table whose log was cleaned up still knows every version."""
    before = read_versions(pond)
    for number in range(8):
        log_entry(pond, number).unlink()
    assert read_versions(pond) == before
    assert read_versions(pond, 1) == before[:1]
    assert read_versions(pond, 3) == before[:3]
    DeltaTable(pond).optimize.compact()
    log_entry(pond, 8).unlink()
    assert read_versions(pond) == before
    assert read_versions(pond, 3) == before[:3]


def test_a_torn_newest_entry_is_a_commit_that_did_not_happen(pond: Path) -> None:
    log_entry(pond, 8).write_bytes(b"")
    check(read_versions(pond, 2), range(7, 5, -1))


def test_no_pond(tmp_path: Path) -> None:
    with pytest.raises(NotAPond):
        read_versions(tmp_path)


def test_the_newest_versions_need_no_arrow(pond: Path) -> None:
    """`pond log -n 20` shall answer at once; importing pyarrow takes 0.2 s."""
    code = (
        "import sys; from pathlib import Path; from pondfs.store.log import read_versions;"
        "read_versions(Path(sys.argv[1]), 3); sys.exit('pyarrow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, os.fspath(pond)], check=True)
