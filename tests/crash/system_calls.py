"""Watch, and make fail, the system calls of a running daemon: strace, started and read.

strace stops a process at the entry and at the exit of every call it traces. In one output file,
written by one strace, a call whose line (or whose "resumed" line) stands before another's line
has therefore ended before that other one began. That is all the order the tests rely on; clocks
play no part.

Source: strace(1), "-f", "-y" and "--inject".
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mount import harness

TRACED = (
    "open,openat,creat,read,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,"
    "fsync,fdatasync,link,linkat,rename,renameat,renameat2"
)
# Enough of a buffer for a FUSE request's header (40 bytes); paths are never cut.
SHOWN_BYTES = 48
ATTACH_TIMEOUT_S = 20.0

_LINE = re.compile(r"(?P<pid>\d+)\s+(?P<text>.*)")
_WHOLE = re.compile(r"(?P<name>\w+)\((?P<args>.*)\)\s+= (?P<result>.*)")
_BEGUN = re.compile(r"(?P<name>\w+)\((?P<args>.*?)\s*<unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>\s*(?P<args>.*)\)\s+= (?P<result>.*)")
_ENDED = re.compile(r"\+\+\+ (exited with \d+|killed by \w+)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|[0-7]{1,3}|.)")
_NAMED_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that has returned.

    Attributes:
        args: as strace prints them, descriptors with their paths (``3</a/b>``).
        result: what it returned, -1 for an error.
        returned: the rest of the result's text: a descriptor's path, or the error's name.
        start: the line it began on.
        end: the line it ended on.
    """

    pid: int
    name: str
    args: str
    result: int
    returned: str
    start: int
    end: int

    @property
    def strings(self) -> list[bytes]:
        """The quoted arguments, unescaped."""
        return [unescape(text) for text in _STRING.findall(self.args)]


def parse_trace(lines: Iterable[str]) -> list[Call]:
    """Return the calls of an strace output, by the line they ended on.

    Calls that never returned (an exit, a kill) are left out: nothing can rely on them.
    """
    begun: dict[int, tuple[str, str, int]] = {}
    calls = []
    for number, line in enumerate(lines):
        parts = _LINE.fullmatch(line.rstrip("\n"))
        if parts is None:
            continue
        pid, text = int(parts["pid"]), parts["text"]
        if match := _RESUMED.fullmatch(text):
            name, args, start = begun.pop(pid, (match["name"], "", number))
            calls.append(_call(pid, name, args + match["args"], match["result"], start, number))
        elif match := _BEGUN.fullmatch(text):
            begun[pid] = (match["name"], match["args"], number)
        elif match := _WHOLE.fullmatch(text):
            calls.append(_call(pid, match["name"], match["args"], match["result"], number, number))
    return calls


def _call(pid: int, name: str, args: str, result: str, start: int, end: int) -> Call:
    number = re.match(r"-?\d+", result)
    value = int(number[0]) if number else -1  # "?": interrupted, and restarted as a new call
    return Call(pid, name, args, value, result[number.end() if number else 0 :], start, end)


def unescape(text: str) -> bytes:
    """Return the bytes of a string as strace quotes it."""

    def plain(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x":
            return chr(int(code[1:], 16))
        if code.isdigit():
            return chr(int(code, 8))
        return _NAMED_ESCAPES.get(code, code)

    return _ESCAPE.sub(plain, text).encode("latin-1")


class Tracer:
    """A running strace; ``output`` is what it wrote so far."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self.output = output

    def lines(self) -> list[str]:
        """Return the complete lines of the output so far."""
        if not self.output.exists():
            return []
        text = self.output.read_text(errors="backslashreplace")
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def injected(self) -> list[Call]:
        """Return the calls that strace made fail."""
        return parse_trace([line for line in self.lines() if "(INJECTED)" in line])


@contextmanager
def attached(pid: int, output: Path, *options: str, client: Sequence[str] = ()) -> Iterator[Tracer]:
    """Trace all threads of *pid*, and *client* started under the same strace, until the exit.

    Yields: once the tracing of *pid* has begun (strace starts *client* only then). At the exit
    strace lets go and *pid* runs on untraced.
    """
    errors = output.with_suffix(".stderr")
    output.unlink(missing_ok=True)  # an earlier trace's end would be taken for this one's
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [
                # -I1: else, given a client, it is deaf to the signal that ends it below
                *(harness.require("strace"), "-I1", "-f", "-y", "-x", "-s", str(SHOWN_BYTES)),
                *("-o", str(output), *options, "-p", str(pid), *client),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        )
    try:
        if not client:  # given one, strace does not say when it has attached
            harness.wait_until(
                lambda: f"Process {pid} attached" in errors.read_text(),
                f"strace attaches to {pid}",
                ATTACH_TIMEOUT_S,
            )
        yield Tracer(process, output)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(ATTACH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def trace_client(pid: int, output: Path, client: Sequence[str]) -> list[Call]:
    """Run *client* to its end with daemon *pid* traced alongside; return the calls of both.

    Raises: AssertionError if the client fails.
    """
    with attached(pid, output, "-e", f"trace={TRACED}", client=client) as tracer:

        def find_ends() -> list[str]:
            return [match[1] for line in tracer.lines() if (match := _ENDED.search(line))]

        harness.wait_until(find_ends, f"{client} ends")
        ends = find_ends()
    assert ends[0] == "exited with 0", f"{client} {ends[0]}"
    return parse_trace(tracer.lines())
