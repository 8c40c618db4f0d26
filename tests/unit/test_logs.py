"""What the daemon says, in which form, and how often."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import logging_journald
import pytest

from pondfs import logs

log = logging.getLogger("pondfs.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_a_line_is_text(tmp_path: Path) -> None:
    logs.set_up("info", tmp_path / "log", terminal=False)
    log.warning("%d files", 3)
    log.debug("not told")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("WARNING pondfs.test: 3 files")


def test_json_is_an_object_a_line(tmp_path: Path) -> None:
    fields = {"store": "/srv/ä", "mountpoint": "/mnt"}
    logs.set_up("info", tmp_path / "log", terminal=False, form="json", fields=fields)
    log.info("it is\n%s", '"so"')
    try:
        raise OSError(5, "broken")
    except OSError:
        log.exception("failed")
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert first.pop("timestamp").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "pondfs.test",
        "message": 'it is\n"so"',
        **fields,
    }
    assert "OSError: [Errno 5] broken" in second["exc_info"]


def test_journald_gets_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        journal.settimeout(5)
        monkeypatch.setattr(logging_journald.JournaldLogHandler, "SOCKET_PATH", tmp_path / "socket")
        logs.set_up("info", None, terminal=True, form="journal", fields={"store": "/srv/pond"})
        log.error("no room")
        fields = journal.recv(65536).decode().splitlines()
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, logging_journald.JournaldLogHandler):
                handler.transport.socket.close()
    for expected in (
        "MESSAGE=no room",
        "PRIORITY=3",
        "SYSLOG_IDENTIFIER=pondfs",
        "LOGGER_NAME=pondfs.test",
        "EXTRA_STORE=/srv/pond",
    ):
        assert expected in fields


def test_repeats_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    repeats = logs.Repeats(lambda: now)
    monkeypatch.setattr(logs, "Repeats", lambda: repeats)
    logs.set_up("info", tmp_path / "log", terminal=False)
    for number in range(50):
        log.warning("block %d is gone", number)
        log.info("something else") if number == 0 else None
    now += logs.REPEATS_S
    log.warning("block %d is gone", 50)
    log.warning("block %d is gone", 51)
    lines = [line.split(": ")[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [
        "block 0 is gone",
        "something else",
        *(f"block {number} is gone" for number in range(1, 10)),
        "block 50 is gone (and 40 more in 60 s)",
        "block 51 is gone",
    ]


def test_a_message_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    logs.set_up("info", tmp_path / "log", terminal=False)
    logging.getLogger("x").info("name %s", "a\nb\r\x1b[31m\udcff\u2028ä")
    (line,) = (tmp_path / "log").read_bytes().splitlines()
    assert line.endswith("name a\\nb\\r\\x1b[31m\\udcff\\u2028ä".encode())


def test_the_lines_of_a_traceback_stay(tmp_path: Path) -> None:
    logs.set_up("info", tmp_path / "log", terminal=False)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("what")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[1] == " Traceback (most recent call last):"
    assert lines[-1] == " ValueError: why"


def test_no_line_of_a_traceback_passes_for_a_message(tmp_path: Path) -> None:
    """A name is in it, and whoever gave that may have thought of it."""
    logs.set_up("info", tmp_path / "log", terminal=False)
    forged = "2026-11-30 10:00:00,000 ERROR pondfs.vfs: forged"
    try:
        raise ValueError(f"a\n{forged}\r{forged}\u2028{forged}")
    except ValueError:
        log.exception("what", stack_info=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert any("forged" in line for line in lines)
    assert [line for line in lines if not line.startswith(" ")] == lines[:1]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_name_that_is_no_text_is_told(tmp_path: Path, form: str) -> None:
    logs.set_up("info", tmp_path / "log", terminal=False, form=form)
    try:
        raise ValueError("name\udcff")
    except ValueError:
        log.exception("failed at %s", "name\udcff")
    assert "\\udcff" in (tmp_path / "log").read_text()
    if form == "json":
        assert json.loads((tmp_path / "log").read_text())["message"] == "failed at name\udcff"


def test_a_log_that_can_not_be_set_aside_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_KEEP_BYTES", 1000)
    (tmp_path / "log.1" / "in the way").mkdir(parents=True)
    logs.set_up("info", tmp_path / "log", terminal=False)
    for number in range(100):
        message = f"line {number}"  # each of its own kind: none is a repeat
        log.info(message)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"line {number}" for number in range(100)]


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who may look into the mount can have lines written."""
    monkeypatch.setattr(logs, "LOG_KEEP_BYTES", 10_000)
    logs.set_up("info", tmp_path / "log", terminal=False)
    for number in range(1000):
        message = f"line {number}"  # each of its own kind: none is a repeat
        logging.getLogger("x").info(message)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 21_000
    assert "line 999" in (tmp_path / "log").read_text()


def test_no_link_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    logs.set_up("info", tmp_path / "log", terminal=False)
    logging.getLogger("x").info("a line")
    assert "no log at" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["log"]
