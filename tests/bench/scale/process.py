"""What a daemon takes in memory, as the kernel counts it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.scale.bench import Bench
from tests.bench.targets import Pond

_LOOK_S = 0.25
_STILL_LOOKS = 12  # for so many looks it did not shrink


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB of 1,000,000 bytes: resident; of that its own, and of files (libraries, the image).

    *peak* is the most that was resident since the start, or since `forget_peak`.
    """

    resident: float
    anonymous: float
    of_files: float
    peak: float


def memory_of(pond: Pond) -> Memory:
    """Return what the pond's daemon takes. Raises: AssertionError if it has none."""
    found = {}
    for line in (_proc(pond) / "status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "RssAnon", "RssFile", "VmHWM"):
            found[name] = int(rest.split()[0]) * 1024 / 1e6
    return Memory(found["VmRSS"], found["RssAnon"], found["RssFile"], found["VmHWM"])


def note_memory(bench: Bench, pond: Pond, row: str, column: str = "pond") -> None:
    """Note what is resident as *row*, and its parts as the two rows named after it."""
    memory = memory_of(pond)
    bench.note(row, memory.resident, column)
    bench.note(f"{row}_anon", memory.anonymous, column)
    bench.note(f"{row}_file", memory.of_files, column)


def forget_peak(pond: Pond) -> None:
    """Let the peak begin anew. Source: proc(5), /proc/pid/clear_refs."""
    (_proc(pond) / "clear_refs").write_text("5")


def wait_shrunk(pond: Pond, timeout_s: float) -> None:
    """Return when the daemon does not become smaller any more.

    The kernel forgets in its own time, and so does the daemon: it hears of a million nodes.
    """
    deadline = time.monotonic() + timeout_s
    least, still = memory_of(pond).resident, 0
    while still < _STILL_LOOKS and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        now = memory_of(pond).resident
        still = still + 1 if now > least - 1.0 else 0
        least = min(least, now)


def _proc(pond: Pond) -> Path:
    pid = pond.daemon_pid()
    assert pid is not None, f"{pond.root} has no daemon any more: {_last_words(pond)}"
    return Path(f"/proc/{pid}")


def _last_words(pond: Pond) -> str:
    log = pond.store / "_pond" / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "its log is empty"
