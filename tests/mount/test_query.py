"""``pond query`` on a mount: pending and committed, stopped by Ctrl-C, asked at a prompt."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import WAIT_TIMEOUT_S, PondMount, command, detach, wait_gone, wait_until

HEAVY = (
    "SELECT count(*) FROM generate_series(1, 10000000) a(x), generate_series(1, 10000000) b(y) "
    "WHERE x * y % 7 = 3"
)


@pytest.fixture
def held(pond_unmounted: PondMount) -> PondMount:
    """A mounted pond that commits when it is told to."""
    return pond_unmounted.mount("commit=3600")


def query(pond: PondMount, sql: str, *args: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(pond.pond("query", sql, "--json", *args).stdout)
    return found


def test_the_scenario_of_duckpond(held: PondMount) -> None:
    (held.mnt / "A").write_bytes(b"content")
    (held.mnt / "B").symlink_to("/A")
    sql = "SELECT name, file_type FROM oplog_entries"
    expected = [{"name": "A", "file_type": "file"}, {"name": "B", "file_type": "symlink"}]
    assert query(held, sql) == []
    assert sorted(query(held, sql, "--pending"), key=str) == sorted(expected, key=str)
    assert json.loads(held.pond("commit", "--json").stdout)["operations"] == 2
    assert sorted(query(held, sql), key=str) == sorted(expected, key=str)
    assert sorted(query(held, sql, "--pending"), key=str) == sorted(expected, key=str)


def test_what_is_pending_is_marked_and_then_committed_as_it_was(held: PondMount) -> None:
    (held.mnt / "old").write_text("x")
    held.commit()
    (held.mnt / "old").rename(held.mnt / "new")
    (held.mnt / "dir").mkdir()
    (held.mnt / "dir" / "file").write_bytes(bytes(range(256)))
    sql = "SELECT * EXCLUDE (pending) FROM oplog WHERE version = 3 AND op <> 'commit' ORDER BY seq"
    assert query(held, sql) == []
    before = query(held, sql, "--pending")
    marks = query(held, "SELECT DISTINCT version, pending FROM oplog", "--pending")
    assert {(row["version"], row["pending"]) for row in marks} == {
        (1, False), (2, False), (3, True),
    }  # fmt: skip
    held.commit()
    assert query(held, sql) == before


def test_the_tree_and_files_with_what_is_pending(held: PondMount) -> None:
    (held.mnt / "a.csv").write_text("t\n1\n2\n")
    held.commit()
    (held.mnt / "a.csv").write_text("t\n10\n20\n")
    (held.mnt / "b").mkdir()
    paths = "SELECT path FROM nodes ORDER BY path"
    total = "SELECT sum(t) AS total FROM '/a.csv'"
    assert [row["path"] for row in query(held, paths)] == ["/", "/a.csv"]
    assert [row["path"] for row in query(held, paths, "--pending")] == ["/", "/a.csv", "/b"]
    assert query(held, total) == [{"total": 3}]
    assert query(held, total, "--pending") == [{"total": 30}]
    assert query(held, total, "--at", "2") == [{"total": 3}]


def start(pond: PondMount, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [command("pond"), "--pond", str(pond.store), "query", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pond.env,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_a_heavy_query_and_leaves_no_file(
    held: PondMount, tmp_path: Path, number: int, code: int
) -> None:
    target = tmp_path / "out" / "result.parquet"
    target.parent.mkdir()
    with start(held, HEAVY, "-o", str(target)) as process:
        wait_until(lambda: list(target.parent.iterdir()), "the file to be begun")
        time.sleep(1.0)  # until the query itself runs
        assert process.poll() is None, "the query is not heavy enough"
        process.send_signal(number)
        assert process.wait(WAIT_TIMEOUT_S) == code  # by itself it would take hours
    assert list(target.parent.iterdir()) == []


def test_ctrl_c_while_nobody_reads(held: PondMount) -> None:
    rows = "SELECT x, x AS y FROM generate_series(1, 100000000) t(x)"
    with start(held, rows, "--format", "csv") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'"x","y"\n'
        time.sleep(0.5)  # until the pipe is full
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_TIMEOUT_S) == 130


def test_a_reader_that_has_enough(held: PondMount) -> None:
    rows = "SELECT x FROM generate_series(1, 100000000) t(x)"
    with start(held, rows, "--format", "ndjson") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"x": 1}
        process.stdout.close()
        assert process.wait(WAIT_TIMEOUT_S) == 141
        assert process.stderr.read() == b""


def test_a_dead_daemon_and_a_store_that_can_still_be_read(held: PondMount) -> None:
    (held.mnt / "file").write_text("x")
    held.commit()
    pid = held.pid
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    try:
        assert query(held, "SELECT name FROM oplog_entries") == [{"name": "file"}]
        refused = held.pond("query", "SELECT 1", "--pending", check=False)
        assert refused.returncode == 7
        assert "daemon does not answer" in refused.stderr
        assert refused.stderr.count("\n") == 1
    finally:
        detach(held.mnt)


# --- the prompt -----------------------------------------------------------------------------------


class Prompt:
    """``pond query`` on a terminal."""

    def __init__(self, pond: PondMount, home: Path) -> None:
        self.seen = ""
        self.fd, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (50, 120))
        env = {**pond.env, "TERM": "xterm", "XDG_STATE_HOME": str(home)}
        self.process = subprocess.Popen(
            [command("pond"), "--pond", str(pond.store), "query"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, pattern: str, timeout_s: float = WAIT_TIMEOUT_S) -> str:
        """Return what came up to a match; it is not looked at again."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.seen[-3000:]!r}"
            if select.select([self.fd], [], [], left)[0]:
                data = os.read(self.fd, 65536).decode(errors="replace")
                if "\x1b[6n" in data:  # it asks where the cursor is
                    os.write(self.fd, b"\x1b[50;1R")
                self.seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data)
        said, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return said

    def ask(self, text: str, pattern: str) -> str:
        self.wait_for("pond>")
        self.type(text + "\r")
        return self.wait_for(pattern)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def prompt(held: PondMount, tmp_path: Path) -> Iterator[Prompt]:
    opened = Prompt(held, tmp_path / "state")
    yield opened
    opened.close()


def test_the_prompt(held: PondMount, prompt: Prompt, tmp_path: Path) -> None:
    said = prompt.ask("SELECT 40 + 2 AS answer\r;", r"1 row in")
    assert re.search(r"answer\s+─+\s+42\s", said)
    assert "nodes" in prompt.ask("\\d", r"rows in")
    assert "part_id" in prompt.ask("\\d nodes", r"rows in")
    prompt.ask("SELECT * FROM nowhere;", r"there is no table 'nowhere'")
    (held.mnt / "later").write_text("x")
    held.commit()  # the next statement sees a version that was not there at the start
    assert "later" in prompt.ask("SELECT name FROM oplog_entries;", r"1 row in")
    prompt.ask("\\q", "")
    assert prompt.process.wait(WAIT_TIMEOUT_S) == 0
    history = tmp_path / "state" / "pond" / "query-history"
    assert "SELECT * FROM nowhere;" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_at_the_prompt_stops_the_statement_only(prompt: Prompt) -> None:
    prompt.ask(HEAVY + ";", "= 3")
    time.sleep(2.0)
    prompt.type("\x03")
    prompt.wait_for("stopped")
    prompt.ask("SELECT 6 * 7 AS answer;", "42")
    prompt.wait_for("pond>")
    prompt.type("SELECT nonsense\x03")  # a line that is not meant
    prompt.wait_for("pond>")
    prompt.type("\x04")
    assert prompt.process.wait(WAIT_TIMEOUT_S) == 0


def test_completion_at_the_prompt(prompt: Prompt) -> None:
    prompt.ask("SELECT 1;", "1 row in")  # by now it has told its tables
    prompt.wait_for("pond>")
    prompt.type("SELECT count(*) AS n FROM directory_entr\t")
    prompt.wait_for("directory_entries")
    prompt.type("\x15quit\r")
    assert prompt.process.wait(WAIT_TIMEOUT_S) == 0
