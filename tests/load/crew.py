"""The writers of a load, seen from who starts them: what they are told, what they say, no hang."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.load.own import Interval

HANG_S = 60.0
"""A step that takes longer, beyond the time in which the daemon was stopped or gone, hangs: no disk
takes that long, however many use it."""

HANG_LONG_S = 10.0
"""The same in the long run, which has the machine to itself: nobody shall wait for so long."""

ANSWER_S = 300.0
"""For what is no single step: comparing everything."""

Said = dict[str, Any]


@dataclass
class Outages:
    """When the daemon was stopped or gone."""

    over: list[Interval] = field(default_factory=list)

    def within(self, begin: float, end: float) -> float:
        """Return how long it was so between two times."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self.over)


class Member:
    """One writer's process."""

    def __init__(self, mount: Path, number: int, journals: Path, seed: int) -> None:
        self.number = number
        self.journal = journals / f"{number}.journal"
        self.stderr = journals / f"{number}.stderr"
        self.grew = (0, time.monotonic())
        with open(self.stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.load.writer",
                 *map(str, (mount, number, self.journal, seed))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self._said: queue.Queue[Said] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(json.loads(line))
        self._said.put({"say": "ended"})

    def tell(self, do: str, **more: object) -> None:
        """Say what it shall do."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do} | more) + "\n")
        self.process.stdin.flush()

    def wait_for(self, say: str, timeout_s: float = ANSWER_S) -> Said:
        """Return what it says, which must be this."""
        try:
            said = self._said.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"not within {timeout_s} s: {self.where()}") from None
        self.expect(said, say)
        return said

    def expect(self, said: Said, say: str) -> None:
        """Fail unless that was said."""
        trouble = self.stderr.read_text()[-3000:]
        assert said["say"] == say, f"writer {self.number}: {said}\n{trouble}"

    def assert_quiet(self) -> None:
        """Fail if it said anything: it has nothing to say while the daemon is well."""
        if not self._said.empty():
            self.expect(self._said.get(), "nothing")

    def where(self) -> str:
        """Return what it is at, as far as the kernel tells."""
        proc = Path(f"/proc/{self.process.pid}")
        try:
            stack = (proc / "stack").read_text()
        except OSError:
            stack = ""
        lines = self.journal.read_text().splitlines()[-3:]
        return f"writer {self.number} ({self.process.poll()}) is at {lines}\n{stack}"

    def has_acknowledged(self, since: int) -> bool:
        """Say whether it synced something, as its journal has it behind that many bytes."""
        with self.journal.open("rb") as journal:
            journal.seek(since)
            return b"acknowledged" in journal.read()

    def check_progress(self, outages: Outages, hang_s: float) -> None:
        """Fail if it has done nothing for too long."""
        now, size = time.monotonic(), self.journal.stat().st_size
        if size != self.grew[0]:
            self.grew = size, now
        idle = now - self.grew[1] - outages.within(self.grew[1], now)
        # A step of the shared directory leaves no line there: some of them in a row.
        assert idle < 3 * hang_s, f"no progress for {idle:.0f} s: {self.where()}"


class Crew:
    """All writers, and what they told in sum."""

    def __init__(self, mount: Path, count: int, journals: Path, hang_s: float) -> None:
        self.hang_s = hang_s
        self.outages = Outages()
        self.members = [Member(mount, number, journals, 100 + number) for number in range(count)]
        self.longest = (0.0, "")
        self.told: dict[int, Said] = {}
        for member in self.members:
            member.wait_for("ready")

    def tell(self, do: str, **more: object) -> None:
        """Tell all of them."""
        for member in self.members:
            member.tell(do, **more)

    def wait_for(self, say: str) -> list[Said]:
        """Return what all say."""
        return [member.wait_for(say) for member in self.members]

    def take(self, reports: list[Said]) -> None:
        """Note what they did; fail if a step took too long."""
        for number, report in enumerate(reports):
            self.told[number] = report
            for what, begin, end in report["slow"]:
                took = end - begin - self.outages.within(begin, end)
                self.longest = max(self.longest, (took, what))
                assert took < self.hang_s, f"writer {number}: {what} took {took:.1f} s"

    def sum(self, key: str) -> int:
        """Return a count of all of them."""
        return sum(report[key] for report in self.told.values())

    def check_progress(self) -> None:
        """Fail if one of them hangs, or has ended."""
        for member in self.members:
            member.assert_quiet()
            member.check_progress(self.outages, self.hang_s)

    def end(self) -> None:
        """End the processes."""
        for member in self.members:
            member.process.kill()
            member.process.wait()
            for pipe in (member.process.stdin, member.process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass
