"""What the doctor says of a store: each damage is a real one, made by hand or by a fault point."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pondfs.doctor import stored
from pondfs.doctor.finding import Finding, worst
from pondfs.doctor.scene import Look, NoMore, Scene
from pondfs.oplog import Cut
from pondfs.store import images
from pondfs.store.delta import DeltaStore
from pondfs.store.journal import journal_path
from pondfs.store.request import COMPACT
from tests.mount.harness import command, run
from tests.unit.store.support import fault, file_row, log_entry, make_cut, new_pond, open_pond

LOOKS = (
    stored.look_at_store, stored.look_at_set_aside, stored.look_at_messages, stored.look_at_log,
    stored.look_at_times, stored.look_at_journal, stored.look_at_image, stored.look_at_strays,
)  # fmt: skip

MINUTE_NS = 60 * 10**9


@pytest.fixture(autouse=True)
def _sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run in a container, where a lock that is not listed may be held outside."""
    monkeypatch.setattr(stored, "sees_all_locks", lambda: True)


def look(path: Path, what: Look) -> list[Finding]:
    """Return what one look finds."""
    found: list[Finding] = []
    try:
        found.extend(what(Scene(os.fspath(path), 1.0)))
    except NoMore:
        pytest.fail("the looks ended")
    return found


def only(path: Path, what: Look, severity: str) -> Finding:
    """Return the one finding of a look; fail unless it is as bad as said."""
    (finding,) = look(path, what)
    assert finding.severity == severity, finding
    return finding


def last_words(path: Path, what: Look) -> Finding:
    """Return what was found by a look after which there is nothing to look at."""
    found: list[Finding] = []
    with pytest.raises(NoMore):
        found.extend(what(Scene(os.fspath(path), 1.0)))
    return found[-1]


def newest_entry(path: Path) -> Path:
    return max((path / "_delta_log").glob("*.json"))


def cut(version: int, *, time_ns: int | None = None) -> Cut:
    made = make_cut(version, [file_row(version, b"x", b"f%d" % version)])
    return made if time_ns is None else replace(made, time_ns=time_ns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pond"


@pytest.fixture
def store(path: Path) -> Iterator[DeltaStore]:
    store = new_pond(path)
    for version in range(1, 4):
        store.commit(cut(version))
    yield store
    store.close()


@pytest.fixture
def closed(store: DeltaStore, path: Path) -> Path:
    """A pond nobody has open."""
    store.close()
    return path


def test_a_healthy_store(store: DeltaStore, path: Path) -> None:
    assert worst([finding for what in LOOKS for finding in look(path, what)]) == "ok"
    store.close()
    assert worst([finding for what in LOOKS for finding in look(path, what)]) == "ok"


# --- whose it is ---


def test_open_to_others(closed: Path) -> None:
    closed.chmod(0o775)
    finding = only(closed, stored.look_at_store, "warning")
    run(["sh", "-c", finding.command])
    only(closed, stored.look_at_store, "ok")


def test_what_does_not_belong_to_its_owner(closed: Path) -> None:
    os.chown(closed, 1234, 1234)
    fine, finding = look(closed, stored.look_at_store)
    assert (fine.severity, finding.severity) == ("ok", "warning")
    assert "user 1234" in finding.message
    run(["sh", "-c", finding.command.removeprefix("sudo ")])
    only(closed, stored.look_at_store, "ok")


def test_a_copy_of_the_table_alone(closed: Path) -> None:
    shutil.rmtree(closed / "_pond")
    assert worst([finding for what in LOOKS for finding in look(closed, what)]) == "ok"


def test_a_directory_that_is_no_pond(tmp_path: Path) -> None:
    assert "no pond" in last_words(tmp_path, stored.look_at_store).message
    assert "no pond" in last_words(tmp_path / "none", stored.look_at_store).message


# --- the log ---


def test_a_torn_head(closed: Path) -> None:
    entry = newest_entry(closed)
    entry.write_bytes(entry.read_bytes()[:-20])
    finding, fine = look(closed, stored.look_at_log)
    assert finding.severity == "warning"
    assert entry.name in finding.message
    assert "version 2;" in fine.message
    open_pond(closed).close()  # as a mount does
    only(closed, stored.look_at_log, "ok")
    finding = only(closed, stored.look_at_set_aside, "warning")
    assert entry.name in finding.message
    run(["sh", "-c", finding.command])
    only(closed, stored.look_at_set_aside, "ok")


def test_a_missing_data_file(closed: Path) -> None:
    first = min(closed.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    first.unlink()
    finding = last_words(closed, stored.look_at_log)
    assert finding.severity == "error"
    assert first.name in finding.message
    assert finding.command.startswith("pond check")


def test_a_damaged_entry_in_the_middle(closed: Path) -> None:
    log_entry(closed, 2).write_text("{")
    finding = last_words(closed, stored.look_at_log)
    assert finding.severity == "error"
    assert log_entry(closed, 2).name in finding.message


def test_a_log_that_grows_as_checkpoints_fail(
    store: DeltaStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LONG_LOG_ENTRIES", 110)
    for version in range(4, 114):
        store.commit(cut(version))
    # Who has it open, and is busy, writes one later; not for ever.
    only(path, stored.look_at_log, "ok")
    with monkeypatch.context() as patch:
        patch.setattr(stored, "LONG_LOG_ENTRIES_HELD", 110)
        finding = only(path, stored.look_at_log, "warning")
        assert "entries after its last" in finding.message
        assert "mount it" not in finding.advice
    killed = path.with_name("killed")
    shutil.copytree(path, killed)  # nobody has this one open
    assert "mount it" in only(killed, stored.look_at_log, "warning").advice
    store.keep_log()
    assert "; 0 log entries" in only(path, stored.look_at_log, "ok").message


def test_a_damaged_checkpoint(store: DeltaStore, path: Path) -> None:
    assert store.checkpoint(now=True)
    (checkpoint,) = (path / "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    finding, fine = look(path, stored.look_at_log)
    assert finding.severity == "warning"
    assert str(int(checkpoint.name.partition(".")[0])) in finding.message
    assert fine.severity == "ok"


# --- times ---


def test_a_commit_in_the_future(store: DeltaStore, path: Path) -> None:
    store.commit(cut(4, time_ns=time.time_ns() + 3 * 24 * 60 * MINUTE_NS))
    finding = only(path, stored.look_at_times, "warning")
    assert "3 days from now" in finding.message
    assert "version 4" in finding.message


def test_a_clock_that_went_back(store: DeltaStore, path: Path) -> None:
    store.commit(cut(4, time_ns=time.time_ns() - 125 * MINUTE_NS))
    finding = only(path, stored.look_at_times, "note")
    assert "by 2 hours between version 3" in finding.message
    store.commit(cut(5, time_ns=time.time_ns() - 124 * MINUTE_NS))
    assert "between version 3" in only(path, stored.look_at_times, "note").message


def test_a_clock_that_is_set_a_little(store: DeltaStore, path: Path) -> None:
    store.commit(cut(4, time_ns=time.time_ns() + MINUTE_NS // 2))
    store.commit(cut(5))
    only(path, stored.look_at_times, "ok")


# --- the journal ---


def journaled(path: Path, *versions: int) -> None:
    """Have a writer journal versions and die."""
    script = (
        "import sys, os; from pathlib import Path\n"
        "from tests.unit.store.support import *\n"
        "store = open_pond(Path(sys.argv[1]))\n"
        "for version in map(int, sys.argv[2:]):\n"
        "    store.journal(make_cut(version, [file_row(version, b'x' * 500, b'f%d' % version)]))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    here = Path(__file__).parents[3]
    run([Path(command("python")), "-c", script, path, *map(str, versions)],
        check=False, cwd=here)  # fmt: skip
    assert os.path.exists(journal_path(os.fspath(path)))


def test_versions_that_only_the_journal_has(closed: Path) -> None:
    journaled(closed, 4, 5)
    finding = only(closed, stored.look_at_journal, "warning")
    assert "versions 4 to 5" in finding.message
    run(["sh", "-c", finding.command.replace("pond", command("pond"), 1)])
    only(closed, stored.look_at_journal, "ok")
    assert "version 5;" in only(closed, stored.look_at_log, "ok").message


def test_a_journal_that_is_in_use(store: DeltaStore, path: Path) -> None:
    store.journal(cut(4))
    assert "in use" in only(path, stored.look_at_journal, "ok").message


def test_a_journal_that_is_in_the_table_already(closed: Path) -> None:
    journaled(closed, 4)
    kept = Path(journal_path(os.fspath(closed))).read_bytes()
    open_pond(closed).close()
    Path(journal_path(os.fspath(closed))).write_bytes(kept)  # its removal did not reach the disk
    assert "all in it is in the table" in only(closed, stored.look_at_journal, "note").message


def test_a_journal_that_lost_what_was_synced(closed: Path) -> None:
    journaled(closed, 4, 5)
    path = Path(journal_path(os.fspath(closed)))
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    finding = only(closed, stored.look_at_journal, "error")
    assert "version 4 is damaged" in finding.message


# --- the image ---


@pytest.fixture
def saved(closed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pond with a saved image."""
    monkeypatch.setattr(images, "WORTH_ROWS", 1)
    store = open_pond(closed)
    store.commit(cut(4))
    store.load_image()
    store.close()
    return closed


def test_a_damaged_image(saved: Path) -> None:
    assert "version 4" in only(saved, stored.look_at_image, "ok").message
    image = saved / "_pond" / "image"
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 0x01
    image.write_bytes(data)
    assert "is damaged" in only(saved, stored.look_at_image, "warning").message
    image.unlink()
    assert "no saved image" in only(saved, stored.look_at_image, "ok").message


def test_an_image_left_behind(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_pond(saved)
    for version in range(5, 9):
        store.commit(cut(version))
    monkeypatch.setattr(stored, "WORTH_FILES", 2)
    finding = only(saved, stored.look_at_image, "note")
    assert "is of version 4: opening reads 8 rows in 4 data files" in finding.message
    store.close()
    run(["sh", "-c", finding.command.replace("pond", command("pond"), 1)])


# --- what lies about ---


def test_strays(closed: Path) -> None:
    ours = closed / f"{uuid.uuid4()}.parquet"
    ours.write_bytes(b"x" * 1000)
    only(closed, stored.look_at_strays, "ok")  # somebody may be about to commit it
    long_ago = time.time() - 2 * 86400
    os.utime(ours, (long_ago, long_ago))
    assert "1 data file (0.0 MB)" in only(closed, stored.look_at_strays, "note").message
    ours.unlink()
    (closed / "other.parquet").write_bytes(b"x")
    assert "other.parquet" in only(closed, stored.look_at_strays, "note").message


def test_what_a_killed_compaction_left(closed: Path) -> None:
    (closed / f".{COMPACT}-{uuid.uuid4()}.parquet").write_bytes(b"PAR1")
    found = look(closed, stored.look_at_strays)
    assert [finding.severity for finding in found] == ["note", "ok"]
    open_pond(closed).close()
    only(closed, stored.look_at_strays, "ok")


def test_what_the_daemon_said(closed: Path) -> None:
    log = closed / "_pond" / "log"
    before = "2026-11-30 10:00:00,000 ERROR pondfs.vfs: an old trouble\n"
    mounted = "2026-11-30 11:00:00,000 INFO pondfs.mount: mounted /pond on /mnt at version 3\n"
    log.write_text(before + mounted)
    only(closed, stored.look_at_messages, "ok")
    with log.open("a") as file:
        file.write("2026-11-30 11:00:01,000 WARNING pondfs.store: no checkpoint\n")
        file.write("2026-11-30 11:00:02,000 INFO pondfs.store: ERROR is not the level\n")
    message = only(closed, stored.look_at_messages, "note").message
    assert "1 time since" in message
    assert "no checkpoint" in message


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_the_daemon_said_in_either_form(closed: Path, form: str) -> None:
    """By what the daemon logs with, in a process of its own; names in it are nothing it said."""
    script = (
        "import logging, sys; from pathlib import Path; from pondfs import logs\n"
        "logs.set_up('info', Path(sys.argv[1]), terminal=False, form=sys.argv[2])\n"
        "mount, vfs = logging.getLogger('pondfs.mount'), logging.getLogger('pondfs.vfs')\n"
        "vfs.error('an old trouble')\n"
        "mount.info('mounted %s on %s at version %d', '/pond', '/mnt', 3)\n"
        "if sys.argv[3:]:\n"
        "    vfs.warning('no checkpoint')\n"
        "    vfs.info('of %s', '/pondfs.mount: mounted  WARNING ')\n"
        "    try: raise ValueError('x\\n2026-11-30 11:00:00,000 ERROR pondfs.vfs: forged')\n"
        "    except ValueError: vfs.info('what', exc_info=True)\n"
    )
    log = closed / "_pond" / "log"
    run([Path(command("python")), "-c", script, log, form])
    assert "has not complained" in only(closed, stored.look_at_messages, "ok").message
    run([Path(command("python")), "-c", script, log, form, "more"])
    message = only(closed, stored.look_at_messages, "note").message
    assert "1 time since" in message
    assert "no checkpoint" in message


def test_looking_changes_nothing(store: DeltaStore, path: Path) -> None:
    with fault("journal:done", "EIO"), pytest.raises(OSError, match="journal:done"):
        store.journal(cut(4))
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")}
    for what in LOOKS:
        look(path, what)
    assert before == {
        file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")
    }
