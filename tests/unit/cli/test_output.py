import io
import re
import sys
from datetime import UTC, datetime

import pytest

from pondfs.cli.output import (
    format_duration,
    format_size,
    format_utc,
    print_fields,
    print_json,
    print_table,
    progress,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1023 * 1024, "1.0 MiB"),
        (200 << 20, "200 MiB"),
        (1 << 40, "1.0 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0042, "4 ms"),
        (2.34, "2.3 s"),
        (300, "5 min"),
        (7200, "2.0 h"),
        (864000, "10 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_times_survive_the_round_trip_and_sort_as_text() -> None:
    whole = datetime(2026, 6, 20, 12, 0, 0, 0, UTC)
    assert format_utc(whole) == "2026-06-20T12:00:00.000000Z"
    assert datetime.fromisoformat(format_utc(whole)) == whole


def test_names_that_are_not_utf8_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "\udcff é"})
    assert capsys.readouterr().out == '{\n  "name": "\\udcff \\u00e9"\n}\n'


def test_a_pipe_gets_plain_text_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("n", "text"), [("1", "x" * 300), ("22", "")], right="n")
    assert capsys.readouterr().out == " N  TEXT\n 1  " + "x" * 300 + "\n22\n"


def test_an_empty_table_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("n", "text"), [])
    assert capsys.readouterr().out == "N  TEXT\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_table_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(("n", "text"), [("1", "[bold]" + "x" * 300)], right="n")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "[bold]xxx" in printed
    assert max(len(line) for line in printed.splitlines()) <= 40


@pytest.mark.parametrize("stream", [io.StringIO(), _Terminal()])
def test_what_is_quick_shows_no_progress(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("working"):
        pass
    assert "working" not in stream.getvalue()


def test_what_others_wrote_does_not_speak_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A commit message with an escape sequence was printed as it is."""
    print_table(("version", "message"), [("1", "\x1b]0;title\x07\n\udcff")])
    print_fields([("message", "\x1b[31m")])
    out = capsys.readouterr().out
    assert "\\x1b]0;title\\x07\\n\\udcff" in out
    assert "\x1b" not in out
    assert "\x07" not in out
