import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pondfs import logs


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raises


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
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: why"


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who may look into the mount can have lines written."""
    monkeypatch.setattr(logs, "LOG_KEEP_BYTES", 10_000)
    logs.set_up("info", tmp_path / "log", terminal=False)
    for number in range(1000):
        logging.getLogger("x").info("line %d", number)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 21_000
    assert "line 999" in (tmp_path / "log").read_text()


def test_no_link_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    logs.set_up("info", tmp_path / "log", terminal=False)
    logging.getLogger("x").info("a line")
    assert "no log at" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["log"]
