"""The prompt of ``pond query``: lines until a semicolon, history, completion, Ctrl-C.

Statements run in a process of their own (`query_worker`): that one can be stopped whatever it is
doing, and the prompt goes on.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from pondfs.cli.output import format_path
from pondfs.cli.query_run import BINARY_FORMATS, FORMATS, TERMINAL_ROWS, tell
from pondfs.cli.query_text import split
from pondfs.cli.reach import Place, require_pond

_WORDS = """
ALL AND AS ASC AVG BETWEEN BY CASE CAST COALESCE COUNT CROSS DATE DESC DESCRIBE DISTINCT ELSE END
EXCEPT EXISTS EXPLAIN FALSE FROM FULL GROUP HAVING ILIKE IN INNER INTERSECT INTERVAL IS JOIN LEFT
LIKE LIMIT MAX MIN NOT NULL NULLS OFFSET ON OR ORDER OUTER OVER PARTITION RIGHT SELECT SHOW SUM
TABLES THEN TIMESTAMP TRUE UNION USING VALUES WHEN WHERE WITH changes directory_entries_at history
nodes_at read
""".split()
"""Words of SQL, and the functions that stand for tables."""

_HELP = """\
A statement ends with a semicolon and may have several lines. Ctrl-C stops it, Ctrl-D leaves.
  \\d            the tables          \\d NAME       the columns of one
  \\f FORMAT     table csv json ndjson
  \\p            with what is pending, or without it again
  \\? or help    this                \\q or quit    leave"""

_COMMANDS = ("quit", "exit", "help")


def ask(place: Place, at: str | None, *, pending: bool, form: str, rows: int | None) -> int:
    """Take statements from the terminal and run them until the person leaves.

    Returns: the exit code.
    """
    require_pond(place.store)
    prompt = _Prompt(place, at, pending, form, rows)
    try:
        prompt.run()
    finally:
        prompt.worker.stop()
    return 0


class _Prompt:
    def __init__(
        self, place: Place, at: str | None, pending: bool, form: str, rows: int | None
    ) -> None:
        self._at = at
        self._pending = pending
        self._form = form
        self._rows = TERMINAL_ROWS if rows is None else rows or None
        self.worker = _Worker(place)
        self._session: PromptSession[str] = PromptSession(
            history=_history(os.environ),
            completer=_Names(self.worker),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=lambda width, number, wrapped: "   -> ".rjust(width),
        )

    def run(self) -> None:
        click.echo("SQL over the pond; help or \\? says more.", err=True)
        while True:
            try:
                text = self._session.prompt("pond> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            first = text.rstrip(";").strip().lower()
            if first in ("quit", "exit", "\\q"):
                return
            if text.startswith("\\") or first in _COMMANDS:
                self._command(text.rstrip(";").split())
                continue
            statements, rest = split(text)
            for statement in [*statements, *([rest] if rest else [])]:
                if not self._execute(statement):
                    break

    def _command(self, words: list[str]) -> None:
        match words:
            case ["\\d"]:
                self._execute(
                    "SELECT table_name FROM information_schema.tables "
                    "WHERE table_schema = 'public' ORDER BY table_name"
                )
            case ["\\d", name]:
                quoted = name.replace('"', '""')
                self._execute(f'DESCRIBE "{quoted}"')
            case ["\\f", form] if form in FORMATS and form not in BINARY_FORMATS:
                self._form = form
            case ["\\p"]:
                self._pending = not self._pending
                if self._pending and self._at is not None:
                    self._pending = False
                    _complain("--at is about what was: nothing is pending there")
                else:
                    tell(["with what is pending" if self._pending else "without what is pending"])
            case ["\\?"] | ["help"]:
                click.echo(_HELP)
            case _:
                _complain(f"there is no {' '.join(words)}: \\? lists what there is")

    def _execute(self, statement: str) -> bool:
        """Run one statement; return whether it went well."""
        width = shutil.get_terminal_size().columns or 80
        asked = {
            "sql": statement,
            "at": self._at,
            "pending": self._pending,
            "format": self._form,
            "width": width if self._form == "table" else None,
            "rows": self._rows,
        }
        try:
            answer = self.worker.ask(asked)
        except KeyboardInterrupt:
            self.worker.restart()
            click.echo()
            _complain("stopped")
            return False
        if answer is None:
            code = self.worker.restart()
            died = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            _complain(f"the process that ran it was ended {died}: perhaps memory ran out")
            return False
        if "error" in answer:
            _complain(answer["error"])
            return False
        tell(answer["notes"])
        return True


class _Worker:
    """The process that runs statements, and its next one.

    Attributes:
        names: tables and columns, as soon as it has told them.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.names: list[str] = []
        self._start()

    def _start(self) -> None:
        answers, theirs = os.pipe()
        mount = self._place.mount
        self._process = subprocess.Popen(
            [
                # -P: what lies in the working directory is none of our modules.
                *(sys.executable, "-P", "-m", "pondfs.cli.query_worker", str(theirs)),
                os.fspath(self._place.store),
                *([os.fspath(mount.mountpoint)] if mount is not None else []),
            ],
            stdin=subprocess.PIPE,
            pass_fds=(theirs,),
        )
        os.close(theirs)
        self._answers = answers
        self._received = b""
        self._is_asked_names = not self.names
        if self._is_asked_names:
            self._send({"at": None, "pending": False})

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Have a statement run; return the answer, None when the process died over it."""
        self.take_names(None)
        self._send(asked)
        return self._receive(None)

    def take_names(self, timeout_s: float | None) -> None:
        """Take the names it was asked for at its start, if they are there within *timeout_s*."""
        if self._is_asked_names:
            answer = self._receive(timeout_s)
            if answer is not None:
                self._is_asked_names = False
                self.names = answer.get("names", [])

    def _send(self, asked: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: `_receive` says so

    def _receive(self, timeout_s: float | None) -> dict[str, Any] | None:
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], timeout_s)
            chunk = os.read(self._answers, 65536) if ready else b""
            if not chunk:
                return None
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def restart(self) -> int:
        """End it, whatever it does, and start another; return how it ended."""
        code = self.stop()
        self._start()
        return code

    def stop(self) -> int:
        """End it, whatever it does; return its exit code."""
        self._process.kill()
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        os.close(self._answers)
        return code


class _Names(Completer):
    """Completes words of SQL, tables, columns and functions."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        self._worker.take_names(0)
        word = document.get_word_before_cursor()
        if not word:
            return
        upper = word.isupper()
        for name in sorted({*_WORDS, *self._worker.names}, key=str.lower):
            if name.lower().startswith(word.lower()):
                shown = name if upper or not name.isupper() else name.lower()
                yield Completion(shown, start_position=-len(word))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        _, rest = split(text)
        if not rest or text.startswith("\\") or text.lower() in _COMMANDS:
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys


def _history(environ: Mapping[str, str]) -> History:
    """Return what was typed before; it is kept for its user alone."""
    state = environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    path = home / "pond" / "query-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        tell([f"what is typed is not kept: {path}: {error.strerror}"])
        return InMemoryHistory()
    return FileHistory(path)


def _complain(message: str) -> None:
    # There may be a piece of a file in it.
    line = format_path(os.fsencode(message))
    click.echo(click.style("pond: ", fg="red") + line, err=True)
